"""The hub's clock: UTC that never goes back while the hub runs, and seconds that only count up.

Owns the reading of both. Everything else takes the time as an argument.
"""

import time
from typing import NamedTuple, Protocol


class Now(NamedTuple):
    """One moment by both clocks."""

    ms: int
    """Hub UTC in milliseconds: what is stored."""
    mono_s: float
    """Seconds on a monotonic clock: for what waits."""


class Clock(Protocol):
    """Where the time comes from."""

    def now_ms(self) -> int:
        """Return UTC in milliseconds, never less than before."""
        ...

    def mono_s(self) -> float:
        """Return seconds on a monotonic clock; only differences matter."""
        ...


def now_of(clock: Clock) -> Now:
    """Return the moment."""
    return Now(clock.now_ms(), clock.mono_s())


class SystemClock:
    """The machine's clocks.

    If the machine's UTC is set back, this stands still until it has caught up: a stage that seems
    to take no time is less wrong than one that ends before it begins.
    """

    def __init__(self) -> None:
        self._latest_ms = 0

    def now_ms(self) -> int:
        """Return UTC in milliseconds, never less than before."""
        now_ms = time.time_ns() // 1_000_000
        self._latest_ms = max(self._latest_ms, now_ms)
        return self._latest_ms

    def mono_s(self) -> float:
        """Return seconds on a monotonic clock."""
        return time.monotonic()
