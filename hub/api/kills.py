"""The addresses of kill orders.

Owns paths, bodies and statuses. Each does one thing of `hub.kill_desk`.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import delete, get, put
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta

from hub.api.given import TheOperations
from hub.kill_desk import KillDesk

Short = Annotated[str, Meta(max_length=200)]


class KillWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That something is off."""

    group: Short | None = None
    """A flag only in this group; everywhere where it is defined if it is left out."""
    why: Short = ""


@get("/kills", summary="What was ever killed, latest first")
async def list_kills(operations: TheOperations) -> dict[str, Any]:
    """List the orders that count, and those that were taken back."""
    return {"items": await KillDesk(operations).every()}


@get("/kills/{what:str}", summary="How far a kill order has come")
async def show_kill(operations: TheOperations, what: FromPath[str]) -> dict[str, Any]:
    """Show whom an order has reached, who fell back by lease, of whom nothing is known."""
    return await KillDesk(operations).show(what)


@put("/kills/{what:str}", summary="Switch a flag or a deployment off")
async def kill(
    operations: TheOperations, what: FromPath[str], data: JSONBody[KillWish]
) -> dict[str, Any]:
    """Switch something off. It is durable when this answers; doing so twice says it again."""
    return await KillDesk(operations).kill(what, data.group, data.why)


@delete("/kills/{what:str}", summary="Take a kill order back", status_code=HTTP_200_OK)
async def undo_kill(
    operations: TheOperations,
    what: FromPath[str],
    why: Annotated[str, QueryParameter(max_length=200, description="Why.")] = "",
) -> dict[str, Any]:
    """Let a flag be asked again. What a killed deployment ended stays ended."""
    return await KillDesk(operations).undo(what, why)


FOR_OPERATORS: Final = (list_kills, show_kill, kill, undo_kill)
"""Every address here."""
