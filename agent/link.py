"""What a download may take from the link it comes over: how fast, how much, and over which.

Owns the pace, the least rate, the budget of a file, and the policy for links that cost money.
Decides nothing else.
"""

import contextlib
import fnmatch
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

BURST_S: Final = 0.25
"""What was not taken in this time may be caught up with; more would be a burst."""

NAP_S: Final = 0.1
"""Longest sleep before it is looked whether anybody still wants the file."""

SLACK_BYTES: Final = 1024 * 1024
"""A small file may be fetched a few times over, however small the budget's ratio."""

ROUTES: Final = Path("/proc/net/route")
ROUTES_6: Final = Path("/proc/net/ipv6_route")

_DEFAULT: Final = "00000000"
_DEFAULT_6: Final = "0" * 32
_UP: Final = 1
_ROUTE_COLUMNS: Final = 8
_ROUTE_COLUMNS_6: Final = 10


class Pace:
    """Spreads bytes over time: not more than so many in a second."""

    def __init__(
        self,
        bytes_per_s: int,
        *,
        mono_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Allow `bytes_per_s`; 0 is no limit."""
        self._bytes_per_s = bytes_per_s
        self._mono_s = mono_s
        self._sleep = sleep
        self._free_mono = 0.0

    def took(self, count: int, is_wanted: Callable[[], bool]) -> None:
        """Wait until so many bytes more were allowed, or nobody wants them any more."""
        if not self._bytes_per_s:
            return
        now = self._mono_s()
        self._free_mono = max(self._free_mono, now - BURST_S) + count / self._bytes_per_s
        while (left_s := self._free_mono - self._mono_s()) > 0 and is_wanted():
            self._sleep(min(left_s, NAP_S))


class Flow:
    """Tells a link that trickles: bytes come often enough, and so few that it would never end.

    Only the time that was spent waiting for bytes counts, not what the device's own pace costs.
    """

    def __init__(self, least_bytes_per_s: int, window_s: float) -> None:
        """Want `least_bytes_per_s` over each `window_s`; 0 wants nothing."""
        self._least_bytes_per_s = least_bytes_per_s
        self._window_s = window_s
        self._waited_s = 0.0
        self._bytes = 0

    def came(self, count: int, waited_s: float) -> str:
        """Count bytes that were waited for; return what is wrong, empty if nothing is."""
        self._waited_s += waited_s
        self._bytes += count
        if self._waited_s < self._window_s:
            return ""
        waited_s, self._waited_s = self._waited_s, 0.0
        came_bytes, self._bytes = self._bytes, 0
        if came_bytes >= self._least_bytes_per_s * waited_s:
            return ""
        return f"{came_bytes} bytes came in {waited_s:.0f} s"


KEEP_EVERY_BYTES: Final = 256 * 1024
"""So many bytes of one attempt are forgiven at most when it is killed."""


class Budget:
    """How many bytes a file may cost before it is given up, counted across restarts."""

    def __init__(self, path: Path, length_bytes: int, ratio: float) -> None:
        """Allow `ratio` times `length_bytes`, and count in the file `path`."""
        self._path = path
        self.allowed_bytes = int(length_bytes * ratio) + SLACK_BYTES
        self.spent_bytes = 0
        with contextlib.suppress(OSError, ValueError):
            self.spent_bytes = max(0, int(path.read_text()[:20]))
        self._kept_bytes = self.spent_bytes

    @property
    def is_spent(self) -> bool:
        """Tell whether nothing is left."""
        return self.spent_bytes >= self.allowed_bytes

    def came(self, count: int) -> None:
        """Count bytes that came; what was counted survives a kill but for the latest of them.

        Raises:
            OSError: The disk is full or fails.
        """
        self.spent_bytes += count
        if self.spent_bytes - self._kept_bytes >= KEEP_EVERY_BYTES:
            self.save()

    def save(self) -> None:
        """Keep the count.

        Raises:
            OSError: The disk is full or fails.
        """
        # Not durable: a power cut forgives the bytes of one attempt, which is no loop.
        scratch = self._path.with_name(self._path.name + ".new")
        scratch.write_text(str(self.spent_bytes))
        scratch.replace(self._path)
        self._kept_bytes = self.spent_bytes


def metered_link(
    patterns: Sequence[str], *, routes: Path = ROUTES, routes_6: Path = ROUTES_6
) -> str | None:
    """Return the interface of a default route that one of `patterns` names, None if none is.

    With several default routes the one that the kernel prefers counts, for each protocol.
    """
    if not patterns:
        return None
    for interface in (_preferred(routes), _preferred_6(routes_6)):
        if interface is not None and any(fnmatch.fnmatch(interface, each) for each in patterns):
            return interface
    return None


def _preferred(routes: Path) -> str | None:
    found = []
    for columns in _rows(routes):
        if len(columns) >= _ROUTE_COLUMNS and columns[1] == columns[7] == _DEFAULT:
            with contextlib.suppress(ValueError):
                if int(columns[3], 16) & _UP:
                    found.append((int(columns[6]), columns[0]))
    return min(found)[1] if found else None


def _preferred_6(routes: Path) -> str | None:
    found = []
    for columns in _rows(routes):
        is_default = columns[:2] == [_DEFAULT_6, "00"] and columns[-1] != "lo"
        if is_default and len(columns) >= _ROUTE_COLUMNS_6:
            with contextlib.suppress(ValueError):
                if int(columns[8], 16) & _UP:
                    found.append((int(columns[5], 16), columns[9]))
    return min(found)[1] if found else None


def _rows(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
