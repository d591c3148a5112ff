"""Errors as problem details (RFC 9457): one form for every answer that is none.

Owns that form. Never hides a refusal's reason, and never shows the inside of a fault.
"""

import logging
from http import HTTPStatus
from typing import Any, Final

from litestar import Request, Response
from litestar.exceptions import HTTPException

from hub.errors import Refusal, StorageUnusable, Unauthenticated

logger = logging.getLogger(__name__)

PROBLEM_TYPE: Final = "about:blank"
"""The status says what kind of problem it is (RFC 9457, section 4.2.1)."""

FAULT: Final = "the hub has a fault; its log says more. Nothing was changed by this request"

NO_BODY: Final = "data: 'data'"
"""What the framework says of a missing body."""

AnyRequest = Request[Any, Any, Any]
Problem = Response[dict[str, Any]]


def problem(status: int, detail: str, title: str = "") -> Problem:
    """Return an error as the API gives it."""
    return Response(
        {
            "type": PROBLEM_TYPE,
            "title": title or HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
        },
        status_code=status,
        media_type="application/problem+json",
    )


def from_refusal(_request: AnyRequest, error: Refusal) -> Problem:
    """Answer a request that cannot be granted."""
    return problem(error.status, str(error), error.title)


def from_stranger(_request: AnyRequest, error: Unauthenticated) -> Problem:
    """Answer a request that shows no token that counts, and say how one is shown (RFC 6750)."""
    answer = problem(error.status, str(error), error.title)
    answer.headers["www-authenticate"] = 'Bearer realm="fieldfare"'
    return answer


def from_storage(_request: AnyRequest, error: StorageUnusable) -> Problem:
    """Answer a request that found the disk full, or the database locked."""
    logger.error("%s", error)
    return problem(error.status, str(error), error.title)


def from_http(request: AnyRequest, error: HTTPException) -> Problem:
    """Answer a request that the web framework refuses."""
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return from_fault(request, error)
    extra = error.extra
    detail = error.detail
    if isinstance(extra, list):
        faults = [
            f"{fault.get('key', 'body')}: {fault.get('message', '')}"
            for fault in extra
            if isinstance(fault, dict)
        ]
        detail = "; ".join(faults) or detail
        if detail == NO_BODY:
            detail = "the request has no body; send JSON"
    return problem(error.status_code, detail)


def from_depth(_request: AnyRequest, _error: RecursionError) -> Problem:
    """Answer a body that is nested deeper than it can be read."""
    return problem(HTTPStatus.BAD_REQUEST, "the body is nested too deeply")


def from_fault(request: AnyRequest, error: Exception) -> Problem:
    """Answer a request that met a fault of this program."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, FAULT)


def from_bytes(_request: AnyRequest, _error: UnicodeDecodeError) -> Problem:
    """Answer a request that is no text where text belongs."""
    return problem(HTTPStatus.BAD_REQUEST, "the body is not UTF-8")


HANDLERS: Final[dict[Any, Any]] = {
    Unauthenticated: from_stranger,
    Refusal: from_refusal,
    StorageUnusable: from_storage,
    HTTPException: from_http,
    RecursionError: from_depth,
    UnicodeDecodeError: from_bytes,
    Exception: from_fault,
}
