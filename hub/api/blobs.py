"""Artifacts over HTTP: whole, in part, and uploaded.

Owns `/api/v1/blobs`. A blob never changes, so its entity tag is its digest and it may be cached for
ever.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from litestar import Request, Response, get, head, put
from litestar.params import PathParameter, QueryParameter
from litestar.response import Stream
from litestar.status_codes import (
    HTTP_200_OK,
    HTTP_201_CREATED,
    HTTP_206_PARTIAL_CONTENT,
    HTTP_304_NOT_MODIFIED,
    HTTP_307_TEMPORARY_REDIRECT,
    HTTP_416_REQUESTED_RANGE_NOT_SATISFIABLE,
)

from hub.api.given import TheOperations
from hub.api.ranges import Part, Unsatisfiable, wanted
from hub.artifact_store import ArtifactStore
from hub.artifacts import is_digest
from hub.errors import NotFound, Refusal

PATH = "/blobs/{digest:str}"

Digest = Annotated[
    str, PathParameter(description="SHA-256 of the content, 64 lower-case hex digits.")
]


def _length_bytes(artifacts: ArtifactStore, digest: str) -> int:
    if not is_digest(digest):
        raise Refusal("a blob is named by its SHA-256: 64 hex digits in lower case")
    length_bytes = artifacts.length_bytes(digest)
    if length_bytes is None:
        raise NotFound(f"there is no blob {digest} here")
    return length_bytes


def _headers(digest: str, length_bytes: int) -> dict[str, str]:
    return {
        "etag": f'"{digest}"',
        "accept-ranges": "bytes",
        "cache-control": "public, max-age=31536000, immutable",
        "content-length": str(length_bytes),
        "x-content-type-options": "nosniff",
    }


@head(PATH, summary="Whether a blob is here, and how long it is")
async def head_blob(operations: TheOperations, digest: Digest) -> Response[None]:
    """Answer like GET, without the content."""
    length_bytes = _length_bytes(operations.artifacts, digest)
    headers = _headers(digest, length_bytes) | {"content-type": "application/octet-stream"}
    return Response(None, headers=headers)


@get(
    PATH,
    summary="A blob, or the part that Range asks for",
    description="307 sends to the bucket in which the hub keeps its artifacts, for a long blob, if "
    "it has one; `via=hub` asks the hub to send it itself. 503 if it is there alone and cannot be "
    "had now.",
    media_type="application/octet-stream",
)
async def get_blob(
    request: Request[Any, Any, Any],
    operations: TheOperations,
    digest: Digest,
    via: Annotated[
        Literal["hub"] | None, QueryParameter(description="Whom the bytes must come from.")
    ] = None,
) -> Response[Any]:
    """Send the content; a download that broke off goes on with Range and If-Range."""
    artifacts = operations.artifacts
    length_bytes = _length_bytes(artifacts, digest)
    etag = f'"{digest}"'
    known = request.headers.get("if-none-match", "")
    if known == "*" or etag in {each.strip() for each in known.split(",")}:
        headers = _headers(digest, length_bytes)
        del headers["content-length"]
        return Response(b"", status_code=HTTP_304_NOT_MODIFIED, headers=headers)
    link = None if via == "hub" else await artifacts.link(digest)
    if link is not None:
        return Response(
            b"",
            status_code=HTTP_307_TEMPORARY_REDIRECT,
            headers={"location": link, "cache-control": "no-store"},
        )
    try:
        part = wanted(
            request.headers.get("range"),
            request.headers.get("if-range"),
            etag=etag,
            length_bytes=length_bytes,
        )
    except Unsatisfiable:
        return Response(
            b"",
            status_code=HTTP_416_REQUESTED_RANGE_NOT_SATISFIABLE,
            headers={"content-range": f"bytes */{length_bytes}"},
        )
    if part is None:
        whole, status = Part(0, length_bytes), HTTP_200_OK
        headers = _headers(digest, length_bytes)
    else:
        whole, status = part, HTTP_206_PARTIAL_CONTENT
        headers = _headers(digest, part.stop - part.start)
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{length_bytes}"
    chunks = artifacts.read(digest, whole.start, whole.stop)
    # Asked for before the answer begins: what cannot be had at all is an answer of its own.
    first = await anext(chunks, b"")
    return Stream(
        _from(first, chunks),
        status_code=status,
        headers=headers,
        media_type="application/octet-stream",
    )


async def _from(first: bytes, more: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(more):
        yield first
        async for chunk in more:
            yield chunk


@get(
    f"{PATH}/blocks",
    summary="The SHA-256 of each block of a blob",
    description="The digests of each 256 KiB of it, 32 bytes each, one after the other. With them "
    "a download that is wrong somewhere is found out there, and goes on from there.",
    media_type="application/octet-stream",
)
async def get_blocks(operations: TheOperations, digest: Digest) -> Response[bytes]:
    """Send the list that a device checks a download against on its way."""
    _length_bytes(operations.artifacts, digest)
    found = await operations.artifacts.blocks(digest)
    headers = _headers(digest, len(found))
    headers["etag"] = f'"{digest}-blocks"'
    return Response(found, headers=headers, media_type="application/octet-stream")


@put(
    PATH,
    summary="Upload a blob",
    description="201 if it is new, 200 if it was here. The content is checked against its name: "
    "422 if it is another, and nothing of it stays; 507 if the disk is full.",
    status_code=HTTP_201_CREATED,
)
async def put_blob(
    request: Request[Any, Any, Any], operations: TheOperations, digest: Digest
) -> Response[dict[str, Any]]:
    """Take in a blob."""
    if not is_digest(digest):
        raise Refusal("a blob is named by its SHA-256: 64 hex digits in lower case")
    is_new = await operations.artifacts.receive(digest, request.stream())
    length_bytes = operations.artifacts.length_bytes(digest)
    return Response(
        {"sha256": digest, "length_bytes": length_bytes},
        status_code=HTTP_201_CREATED if is_new else HTTP_200_OK,
        headers={"location": f"/api/v1/blobs/{digest}"},
    )
