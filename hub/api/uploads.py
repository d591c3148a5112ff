"""Uploads in pieces over HTTP.

Owns `/api/v1/uploads`.
"""

from typing import Annotated, Any, Final

from litestar import Request, Response, head, patch
from litestar.di import NamedDependency
from litestar.params import HeaderParameter
from litestar.status_codes import HTTP_204_NO_CONTENT

from hub.api.blobs import Digest
from hub.uploads import Uploads

TheUploads = NamedDependency[Uploads]

PATH: Final = "/uploads/{digest:str}"


@head(PATH, summary="How much of an artifact is here")
async def head_upload(uploads: TheUploads, digest: Digest) -> Response[None]:
    """Say where the next piece begins, in `Upload-Offset`."""
    return Response(None, headers={"upload-offset": str(uploads.offset(digest))})


@patch(
    PATH,
    summary="Upload the next piece of an artifact",
    description="`Upload-Offset` says where it begins, `Upload-Length` how long the whole is. 409 "
    "if it begins elsewhere than the last one ended; 422 if the whole is another file.",
    request_max_body_size=None,
    status_code=HTTP_204_NO_CONTENT,
)
async def patch_upload(
    request: Request[Any, Any, Any],
    uploads: TheUploads,
    digest: Digest,
    upload_offset: Annotated[int, HeaderParameter(name="Upload-Offset", ge=0)],
    upload_length: Annotated[int, HeaderParameter(name="Upload-Length", ge=1)],
) -> Response[None]:
    """Take a piece; it is durable when this answers."""
    here = await uploads.append(digest, upload_offset, upload_length, request.stream())
    return Response(None, status_code=HTTP_204_NO_CONTENT, headers={"upload-offset": str(here)})
