"""When something happened: a device's own stamp of a moment, and an interval of the hub's time.

Owns both and their arithmetic. Never reads a clock. `sync.contacts` turns one into the other.

Rule: a moment on a device is an interval by the hub's clock, never a number, and so is every
duration that begins or ends on a device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import msgspec

BOOT_BYTES = 6
"""How much of the kernel's boot id a stamp carries."""


class ClockSync(IntEnum):
    """What the device knew of its wall clock. Values are stored on devices; never reuse one."""

    UNKNOWN = 0
    UNSYNCED = 1
    SYNCED = 2


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment by a device's clocks."""

    boot: bytes
    """First six bytes of the kernel's boot id."""
    boottime_ms: int
    """CLOCK_BOOTTIME: from zero at each boot, counts in suspend, never set."""
    wall_ms: int
    """UTC by the device; a hint for people, never evidence."""
    sync: ClockSync = ClockSync.UNKNOWN


class Interval(msgspec.Struct, frozen=True):
    """A moment (hub UTC) or a duration that is known to lie between two bounds, in milliseconds.

    None means that nothing is known on that side. Both ends belong to the interval.

    Raises:
        ValueError: The lower bound is above the upper one; the caller is to blame.
    """

    lo_ms: int | None
    hi_ms: int | None

    def __post_init__(self) -> None:
        if self.lo_ms is not None and self.hi_ms is not None and self.lo_ms > self.hi_ms:
            raise ValueError(f"interval from {self.lo_ms} to {self.hi_ms} ms ends before it begins")

    @property
    def width_ms(self) -> int | None:
        """Return how uncertain it is; None if it is open on a side."""
        if self.lo_ms is None or self.hi_ms is None:
            return None
        return self.hi_ms - self.lo_ms

    def contains(self, at_ms: int) -> bool:
        """Tell whether `at_ms` is possible."""
        return (self.lo_ms is None or self.lo_ms <= at_ms) and (
            self.hi_ms is None or at_ms <= self.hi_ms
        )

    def minus(self, earlier: "Interval") -> "Interval":
        """Return how long it was from `earlier` to this."""
        lo_ms = _difference(self.lo_ms, earlier.hi_ms)
        return Interval(lo_ms, _difference(self.hi_ms, earlier.lo_ms))

    def clamp(self, *, lo_ms: int | None = None, hi_ms: int | None = None) -> "Interval":
        """Return this cut to a range that is known to hold the truth.

        An interval wholly outside is wrong, so then the range is all that is known.

        Raises:
            ValueError: The range ends before it begins; the caller is to blame.
        """
        known = Interval(lo_ms, hi_ms)
        return self.intersect(known) or known

    def intersect(self, other: "Interval") -> "Interval | None":
        """Return what both allow; None if they contradict each other."""
        low = tighter(max, self.lo_ms, other.lo_ms)
        high = tighter(min, self.hi_ms, other.hi_ms)
        if low is not None and high is not None and low > high:
            return None
        return Interval(low, high)

    def certainly_before(self, other: "Interval") -> bool:
        """Tell whether this is before `other` wherever in their intervals the two may lie."""
        return self.hi_ms is not None and other.lo_ms is not None and self.hi_ms < other.lo_ms

    def certainly_above(self, limit_ms: int) -> bool:
        """Tell whether all of it is above `limit_ms`.

        Neither this nor `certainly_within` is true
        of an interval that the limit cuts: then there is too little evidence.
        """
        return self.lo_ms is not None and self.lo_ms > limit_ms

    def certainly_within(self, limit_ms: int) -> bool:
        """Tell whether all of it is at or below `limit_ms`."""
        return self.hi_ms is not None and self.hi_ms <= limit_ms


def point(at_ms: int) -> Interval:
    """Return the interval of a moment or duration that is known exactly, by the hub's own clock."""
    return Interval(at_ms, at_ms)


ANY = Interval(None, None)
"""Nothing is known."""


def _difference(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left - right


def tighter(pick: Callable[[int, int], int], left: int | None, right: int | None) -> int | None:
    """Return `pick` (`max` of lower bounds, `min` of upper ones) of those of the two that exist."""
    if left is None or right is None:
        return right if left is None else left
    return pick(left, right)
