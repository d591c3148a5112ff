"""Signed metadata over HTTP: served to devices, handed in by operators.

Owns the addresses below `/api/v1/trust`.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import Response, get, post
from litestar.params import JSONBody, PathParameter
from litestar.status_codes import HTTP_200_OK

from hub.api.given import TheTrust
from hub.trust.desk import TIMESTAMP

FOR_EVER: Final = "public, max-age=31536000, immutable"


class HandedIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator has signed."""

    roots: list[str] = []
    """Roots as JSON text, in order; those that are here are passed over."""
    targets: str | None = None
    """The list of releases as JSON text."""


@get("/trust", summary="Online keys, and which signed metadata is served")
async def trust(trust_desk: TheTrust) -> dict[str, Any]:
    """Show what a root has to name, and what each role has come to."""
    return await trust_desk.view()


@get("/trust/metadata/{name:str}", summary="Signed metadata", media_type="application/json")
async def trust_metadata(
    trust_desk: TheTrust,
    name: Annotated[str, PathParameter(description="`timestamp.json` or `<version>.<role>.json`.")],
) -> Response[bytes]:
    """Serve one file of the repository, as TUF clients ask for it."""
    content = await trust_desk.metadata(name)
    cache = "no-cache" if name == TIMESTAMP else FOR_EVER
    headers = {"cache-control": cache, "x-content-type-options": "nosniff"}
    return Response(content, media_type="application/json", headers=headers)


@get("/trust/root", summary="The newest root", media_type="application/json")
async def trust_root(trust_desk: TheTrust) -> Response[bytes]:
    """Return the root that a device pins when it is enrolled."""
    return Response(await trust_desk.root(), media_type="application/json")


@post(
    "/trust",
    summary="Hand in signed metadata",
    description="Roots and a list of releases, checked against the root that is here; a hub "
    "without one takes the first. All or nothing; twice changes nothing.",
    status_code=HTTP_200_OK,
)
async def hand_in_trust(trust_desk: TheTrust, data: JSONBody[HandedIn]) -> dict[str, Any]:
    """Take what was signed, and sign what is current."""
    targets = None if data.targets is None else data.targets.encode()
    return await trust_desk.hand_in([each.encode() for each in data.roots], targets)


@post("/trust/online", summary="Make new online keys", status_code=HTTP_200_OK)
async def new_online_keys(trust_desk: TheTrust) -> dict[str, Any]:
    """Offer new keys for the next root; those that it names today sign until then."""
    return await trust_desk.new_online_keys()
