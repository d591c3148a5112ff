"""The line that one attempt to download comes over: how it fails, how it is bounded, how it is cut.

Owns the reasons for which a file does not come. Never opens a connection.
"""

import contextlib
import errno
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sync.stages import Reason

if TYPE_CHECKING:
    from http.client import HTTPResponse


class FetchFailed(Exception):
    """The file did not come. What arrived of it is kept for the next try, unless it was wrong."""

    def __init__(self, reason: Reason, detail: str, *, final: bool) -> None:
        """`final`: trying again cannot help."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.final = final


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something does not come from the hub just now, and when it is tried again."""

    reason: str
    """Code of `sync.stages.Reason`."""
    detail: str
    again_mono: float
    """By the event loop's clock."""


OnTrouble = Callable[[Reason | None], Awaitable[None]]
"""Told why nothing comes, and with None when something has come, or may come again."""


async def tell_nobody(_: Reason | None) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds of a download."""

    attempts_max: int
    stall_s: float
    disk_reserve_bytes: int
    bytes_per_s: int = 0
    """0 is no limit."""
    least_bytes_per_s: int = 0
    """Slower than that over `slow_s` of waiting, an attempt is broken off; 0 takes any rate."""
    slow_s: float = 60.0
    budget_ratio: float = 4.0
    """How many times its length a file may cost."""
    metered_interfaces: tuple[str, ...] = ()
    metered_bytes_max: int = 0
    """Longest file that comes from the hub over one of these interfaces."""
    neighbours: tuple[str, ...] = ()
    """Addresses to ask before the hub; they answer as it does."""
    media_dirs: tuple[Path, ...] = ()
    """Folders to look into before that, for files called like their digest."""


class Line:
    """The connection of one attempt, which can be cut from outside."""

    def __init__(self) -> None:
        """Begin without a connection."""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_touching = False
        self.is_cut = False
        self.on_cut_unconnected: Callable[[], object] = lambda: None
        """Leave the attempt alone: it touches nothing, and connecting cannot be ended."""

    def hold(self, connected: socket.socket) -> None:
        """Take the connection.

        Raises:
            OSError: It was cut already.
        """
        with self._lock:
            self._check()
            self._socket = connected

    def release(self) -> None:
        """Forget the connection, before another one is made.

        Raises:
            OSError: It was cut already.
        """
        with self._lock:
            self._check()
            self._socket = None

    @contextlib.contextmanager
    def touching(self) -> Iterator[None]:
        """Work on files without a connection; who cuts the line waits for the end of it.

        Raises:
            OSError: It was cut already; whoever comes next may be working on the same files.
        """
        with self._lock:
            self._check()
            self._is_touching = True
        try:
            yield
        finally:
            with self._lock:
                self._is_touching = False

    def cut(self) -> None:
        """End the attempt now, even if it waits for bytes that do not come."""
        with self._lock:
            self.is_cut = True
            held, is_touching = self._socket, self._is_touching
        if held is not None:
            _shut(held)
        elif not is_touching:
            self.on_cut_unconnected()

    def _check(self) -> None:
        if self.is_cut:
            raise LinkBroke("nobody waits for it any more")


@contextlib.contextmanager
def ends_within(connected: socket.socket, seconds: float) -> Iterator[None]:
    """Cut a connection if the block takes longer: a head that trickles is never silent."""
    timer = threading.Timer(seconds, _shut, (connected,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


CHUNKED = "the answer comes in chunks, which are not taken: let no proxy change what the hub sends"


def is_chunked(answer: "HTTPResponse") -> bool:
    """Tell whether an answer comes in chunks (RFC 9112, section 7.1).

    It can then go on without giving a byte, in the head of a chunk or behind the last one, and
    http.client reads on for as long as it does, whatever bounds there are on what it gives.
    Neither hub nor store sends anything so.
    """
    return bool(answer.chunked)


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be closed already
        # Not the method of a TLS socket: that one takes its state away under the reader.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


class on_disk:  # noqa: N801 - reads as the statement it makes
    """Tell a disk that fails from a link that does."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, LinkBroke):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchFailed(Reason.NO_SPACE, "no room on the disk", final=True) from None
        detail = f"{error.strerror or error}: {error.filename}"[:200]
        raise FetchFailed(Reason.DOWNLOAD_FAILED, detail, final=False) from None


class LinkBroke(OSError):
    """Reading from the hub failed while a file was open."""
