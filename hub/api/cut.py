"""Answers that end early, because their bytes could not be had to the end.

Owns what is said about them. Whoever asked sees a connection that breaks off, and goes on with a
Range later.
"""

import logging

from litestar.exceptions import LitestarException
from litestar.types import ASGIApp, Receive, Scope, Send

from hub.errors import StorageUnusable

logger = logging.getLogger(__name__)


class CutShort:
    """ASGI middleware that names in one line what is nobody's fault here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; the server closes the connection of an answer that has no end."""
        try:
            await self._app(scope, receive, send)
        except LitestarException as error:
            fault = _storage_fault(error.__cause__)
            if fault is None:
                raise
            logger.warning("an answer ended early: %s", fault)


def _storage_fault(error: BaseException | None) -> StorageUnusable | None:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, StorageUnusable) else None
