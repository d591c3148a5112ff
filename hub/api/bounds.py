"""What one request may cost: how long its body may be, and how slowly it may come.

Owns those limits and the check of the content type. Never looks into a body. How many connections
there may be, and how long one may say nothing at all, is `hub.http`.

Rule: a body is given the stall time and, beside it, the time that its bytes take at the least rate.
So one that stops, one that drips and one that never ends are all cut off, and a large artifact over
a slow link is not.
"""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from hub.errors import Refusal, TooLarge, WrongType

BLOBS: Final = ("/api/v1/blobs/", "/api/v1/uploads/")
"""Where bodies are files."""

TRUST: Final = "/api/v1/trust"

SIGNED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Longest body that hands in signed metadata: a list of releases of
2 MB, and as many roots as it takes, as JSON in JSON."""

JSON: Final = "application/json"

CUT_OFF: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})
"""After these the connection ends: what is left of the body is not wanted."""


class TooSlow(Refusal):
    """The body did not come fast enough."""

    status = HTTPStatus.REQUEST_TIMEOUT
    title = "The request took too long to arrive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The limits of one hub."""

    body_max_bytes: int
    """Of everything but artifacts and signed metadata."""
    blob_max_bytes: int
    stall_s: float
    min_bytes_per_s: int


class Bounded:
    """ASGI middleware that holds every request to the bounds."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; what is beyond a limit fails when its body is read."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, self._bounds)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in CUT_OFF:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, body.receive, answer)


class _Body:
    """The body of one request, on its way in."""

    def __init__(self, scope: Any, receive: Receive, bounds: Bounds) -> None:
        headers = dict(scope["headers"])
        is_blob = self._is_blob = scope["path"].startswith(BLOBS)
        self._receive = receive
        self._bounds = bounds
        self._max_bytes = bounds.body_max_bytes
        if is_blob:
            self._max_bytes = bounds.blob_max_bytes
        elif scope["path"] == TRUST:
            self._max_bytes = SIGNED_BYTES_MAX
        self._claimed = headers.get(b"content-length", b"")
        self._type = "" if is_blob else headers.get(b"content-type", b"").decode("latin-1")
        self._came_bytes = 0
        self._began_at: float | None = None
        self._is_whole = False

    async def receive(self) -> Any:
        """Return the next part.

        Raises:
            TooLarge: There is more than may be.
            TooSlow: It did not come in time.
            WrongType: It does not say that it is JSON in UTF-8.
        """
        if self._is_whole:  # what comes now is the end of the connection
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._began_at is None:
            self._began_at = loop.time()
            self._check_head()
        allowed_s = self._bounds.stall_s + self._came_bytes / self._bounds.min_bytes_per_s
        try:
            async with asyncio.timeout_at(self._began_at + allowed_s):
                message = await self._receive()
        except TimeoutError:
            raise TooSlow(
                f"{self._came_bytes} bytes of the body came in {allowed_s:.0f} s: after the first "
                f"{self._bounds.stall_s:g} s it must come with {self._bounds.min_bytes_per_s} "
                "bytes a second (settings http_stall_s, http_min_bytes_per_s)"
            ) from None
        if message["type"] == "http.request":
            self._came_bytes += len(message["body"])
            self._is_whole = not message["more_body"]
            if self._came_bytes > self._max_bytes:
                raise self._too_large()
        return message

    def _check_head(self) -> None:
        if self._claimed.isdigit() and int(self._claimed[:20]) > self._max_bytes:
            raise self._too_large()
        kind, _, parameters = self._type.lower().partition(";")
        charset = parameters.partition("charset=")[2].strip(' "')
        if (kind.strip() or JSON) != JSON or charset not in {"", "utf-8"}:
            raise WrongType(
                f"the body is said to be {self._type[:80]!r}; send JSON in UTF-8, and say so with "
                f"Content-Type: {JSON}"
            )

    def _too_large(self) -> TooLarge:
        setting = " (setting blob_max_bytes)" if self._is_blob else ""
        return TooLarge(f"the body has more than {self._max_bytes} bytes, the most taken{setting}")
