"""How long the hub has been silent, so that nothing can make it seem less: the lease of flags.

Owns that measure and its form on disk. Pure.

Within one boot CLOCK_BOOTTIME counts, which setting the clock does not touch and which goes on in
suspend. Over a reboot what had passed is carried on from the disk, where it is written anew at
least every `within_ms` of silence; how much of that had passed when the power went is not known, so
all of it is counted. A device that starts over and over therefore falls back sooner, never later.
Time without power counts if a time service had set the clock both before and after it; otherwise
nobody on the device can know of it.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sync.flags import LEASE_MOST_S
from sync.records import BootId
from sync.stamps import ClockSync, Stamp

WITHIN_MS: Final = 600_000
"""How much silence passes, at most, before it is written down: 144 writes on a day without a hub,
and as a rule none on a day with one."""

UNKNOWN_MS: Final = 1000 * LEASE_MOST_S
"""Silence where what is stored cannot be read: longer than any lease, until the hub is heard."""


class Silence(msgspec.Struct, frozen=True, array_like=True):
    """So long the hub had been silent at one moment. Stored; fields are only ever appended."""

    boot: BootId
    boottime_ms: Annotated[int, Meta(ge=0, le=2**53)]
    silent_ms: Annotated[int, Meta(ge=0, le=2**53)]
    wall_ms: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    sync: Annotated[int, Meta(ge=0, le=2)]
    within_ms: Annotated[int, Meta(ge=0, le=2**53)] = WITHIN_MS
    """It is written anew before so much more has passed."""

    def at(self, now: Stamp) -> int:
        """Return how long the hub has been silent at `now`, in milliseconds, at least."""
        if now.boot == self.boot:
            return self.silent_ms + max(0, now.boottime_ms - self.boottime_ms)
        passed_ms = self.within_ms + now.boottime_ms
        if now.sync is ClockSync.SYNCED and self.sync == ClockSync.SYNCED:
            passed_ms = max(passed_ms, now.wall_ms - self.wall_ms)
        return self.silent_ms + passed_ms


def silence(silent_ms: int, now: Stamp, within_ms: int = WITHIN_MS) -> Silence:
    """Return that the hub has been silent for `silent_ms` at `now`."""
    bounded = min(max(0, silent_ms), UNKNOWN_MS)
    return Silence(now.boot, now.boottime_ms, bounded, now.wall_ms, int(now.sync), within_ms)


def encode(kept: Silence) -> bytes:
    """Return the form on disk."""
    return msgspec.msgpack.encode(kept)


def restored(stored: bytes | None, now: Stamp) -> Silence:
    """Return the silence at a start of the agent. One that was never there counts from now on."""
    if stored is None:
        return silence(0, now)
    try:
        kept = msgspec.msgpack.decode(stored, type=Silence)
    except (msgspec.MsgspecError, ValueError):
        return silence(UNKNOWN_MS, now)
    return silence(kept.at(now), now, kept.within_ms)
