"""The device's clocks, read in one place.

Owns reading them. Never trusts the wall clock: it is passed on as a hint.
"""

import time
from pathlib import Path
from typing import Final, Protocol

from sync.stamps import BOOT_BYTES, ClockSync, Stamp

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
SYNCHRONIZED: Final = Path("/run/systemd/timesync/synchronized")
"""Made by systemd-timesyncd once it has set the clock in this boot; its folder is there before."""


class Clock(Protocol):
    """What the agent needs to know of time."""

    def wall_ms(self) -> int:
        """Return UTC milliseconds by the device's own clock."""
        ...

    def mono_s(self) -> float:
        """Return seconds that only move forward."""
        ...

    def stamp(self) -> Stamp:
        """Return now, in the form that the hub can place in its own time."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def __init__(self, *, wall_offset_s: float = 0.0) -> None:
        """Shift the wall clock by `wall_offset_s`, for rigs and demonstrations."""
        self._offset_ms = round(wall_offset_s * 1000)
        self._boot = bytes.fromhex(BOOT_ID.read_text().replace("-", ""))[:BOOT_BYTES]

    def wall_ms(self) -> int:
        """Return UTC milliseconds by the device's own clock."""
        return time.time_ns() // 1_000_000 + self._offset_ms

    def mono_s(self) -> float:
        """Return seconds that only move forward."""
        return time.monotonic()

    def stamp(self) -> Stamp:
        """Return now by CLOCK_BOOTTIME, which unlike CLOCK_MONOTONIC counts in suspend."""
        boottime_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        return Stamp(self._boot, boottime_ms, self.wall_ms(), _sync())


def _sync() -> ClockSync:
    if SYNCHRONIZED.exists():
        return ClockSync.SYNCED
    return ClockSync.UNSYNCED if SYNCHRONIZED.parent.is_dir() else ClockSync.UNKNOWN
