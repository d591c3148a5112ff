"""What Prometheus scrapes.

Owns `/metrics`, where Prometheus looks if it is told nothing else, and the same below the other
addresses. Which figures there are stands in `hub.export.names`.
"""

from litestar import Response, get

from hub.api.given import TheOperations, TheStatus
from hub.api.status import Status
from hub.export.points import points
from hub.export.prometheus import CONTENT_TYPE, exposition
from hub.operations import Operations


@get("/metrics", summary="Figures of the fleet for Prometheus; no device has series of its own")
async def metrics(operations: TheOperations, status: TheStatus) -> Response[bytes]:
    """Answer in the text format 0.0.4."""
    return await _now(operations, status)


@get("/metrics", include_in_schema=False)
async def metrics_at_root(operations: TheOperations, status: TheStatus) -> Response[bytes]:
    """Answer the same."""
    return await _now(operations, status)


async def _now(operations: Operations, status: Status) -> Response[bytes]:
    found = points(await operations.fleet(), status.view())
    return Response(exposition(found), media_type=CONTENT_TYPE)
