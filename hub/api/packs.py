"""Packs over HTTP: what leads from one release to another.

Owns `/api/v1/packs`. A pack is offered by name; its bytes are a blob.
"""

from typing import Annotated, Any, Final

from litestar import Response, get
from litestar.params import PathParameter
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED

from hub.api.given import TheOperations

RETRY_AFTER_S: Final = 5
"""A pack of a few hundred files takes about as long."""

Manifest = Annotated[
    str, PathParameter(description="SHA-256 of a release's manifest, 64 lower-case hex digits.")
]


@get(
    "/packs/{base:str}/{target:str}",
    summary="The pack that leads from one release to another",
    description="200 names the blob that it is; 202 says that it is being made, and when to ask "
    "again; 404 says why there is none, and the whole release is to be fetched.",
)
async def pack(
    operations: TheOperations, base: Manifest, target: Manifest
) -> Response[dict[str, Any]]:
    """Offer a pack, and have it made if devices run what it starts from."""
    found = await operations.pack(base, target)
    if found is None:
        return Response(
            {"state": "making"},
            status_code=HTTP_202_ACCEPTED,
            headers={"retry-after": str(RETRY_AFTER_S)},
        )
    return Response(
        {"state": "ready", "sha256": found.sha256, "length_bytes": found.length_bytes},
        status_code=HTTP_200_OK,
        headers={"cache-control": "no-cache"},
    )
