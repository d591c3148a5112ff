"""The audit over HTTP: read, never written.

Owns `/api/v1/audit`.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import get
from litestar.params import QueryParameter

from hub.api.given import TheOperations
from hub.operations import PAGE_MAX
from hub.store.audit import Row

NEWEST: Final = 2**63 - 1


@get("/audit", summary="Who changed what, newest first, a page at a time")
async def audit(
    operations: TheOperations,
    before: Annotated[
        int, QueryParameter(ge=1, le=NEWEST, description="Number before which the page begins.")
    ] = NEWEST,
    since_ms: Annotated[
        int, QueryParameter(ge=0, le=NEWEST, description="Nothing older than this, hub UTC.")
    ] = 0,
    limit: Annotated[
        int, QueryParameter(ge=1, le=PAGE_MAX, description="Most entries in the answer.")
    ] = 100,
) -> dict[str, Any]:
    """Go on with `before` set to `next` until that is null."""
    found = await operations.audit(before, since_ms, limit + 1)
    items = [_view(each) for each in found[:limit]]
    return {"items": items, "next": found[limit - 1].n if len(found) > limit else None}


def _view(row: Row) -> dict[str, Any]:
    return row._asdict() | {"asked": msgspec.json.decode(row.asked)}
