"""Tokens of operators over HTTP.

Owns `/api/v1/tokens`. Each address does one thing of `hub.tokens`.
"""

from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED
from msgspec import Meta

from hub.operators import LIFE_S, Token
from hub.tokens import Tokens

TheTokens = NamedDependency[Tokens]

Short = Annotated[str, Meta(max_length=200)]


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token shall allow, and whom."""

    name: Short
    """Of the person or program that gets it; it stands in the audit."""
    scope: Short
    """`viewer`, `operator` or `admin`."""
    expires_s: float = LIFE_S
    """It counts for so many seconds."""


@get("/tokens", summary="Tokens, newest first, without their secrets")
async def list_tokens(tokens: TheTokens) -> dict[str, Any]:
    """List who may ask the hub for what."""
    return {"items": [_view(each) for each in await tokens.every()]}


@post("/tokens", summary="Make a token", status_code=HTTP_201_CREATED)
async def create_token(tokens: TheTokens, data: JSONBody[TokenRequest]) -> Response[dict[str, Any]]:
    """Make a token; its text is in this answer and nowhere else."""
    made, shown = await tokens.create(data.name, data.scope, data.expires_s)
    return Response(
        {**_view(made), "token": shown.text()},
        status_code=HTTP_201_CREATED,
        headers={"cache-control": "no-store"},
    )


@delete("/tokens/{token:str}", summary="Revoke a token", status_code=HTTP_200_OK)
async def revoke_token(tokens: TheTokens, token: FromPath[str]) -> dict[str, Any]:
    """Let a token, named by its id, not count any more; doing so twice is fine."""
    return _view(await tokens.revoke(token))


def _view(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scope": token.scope.value,
        "created_at_ms": token.created_ms,
        "expires_at_ms": token.expires_ms,
        "revoked_at_ms": token.revoked_ms,
    }
