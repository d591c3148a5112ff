"""What time it is, as far as a device without a trusted clock can believe any.

Owns that judgement, for what people say in times of day: maintenance windows. Pure. How long
something has lasted is never worked out from this, but from CLOCK_BOOTTIME.
"""

from datetime import UTC, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sync.stamps import ClockSync, Stamp

APART_MS: Final = 15 * 60_000
"""How far the device's clock may be from the hub's time and still be taken for right."""


HEARD_MS: Final = 3_600_000
"""How long a message tells the hub's time although later ones say that it is earlier. They may have
been longer on their way; or the hub's clock was set back."""


def zone_named(name: str) -> tzinfo:
    """Return the time zone of this name. `UTC` needs no data of the system; the rest does.

    Raises:
        ValueError: This device knows none of this name.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        raise ValueError(
            "is no time zone that this device knows: write one such as Europe/Berlin, and install "
            "tzdata if it is missing"
        ) from None


def believed_utc_s(now: Stamp, *, floor_s: int, hub_ms: int | None) -> int | None:
    """Return the time in seconds UTC; None if there is none to be believed.

    The device's own clock counts if a time service has set it and nothing that is known speaks
    against it. Otherwise the hub's does, carried on by the uptime clock since it was last heard.

    Args:
        now: This moment by the device's clocks.
        floor_s: A time that certainly has passed; 0 for none.
        hub_ms: What the hub's clock shows now at least, from a message that was fresh when it came
            in this start; None if there was none.
    """
    if now.sync is ClockSync.SYNCED:
        is_behind = now.wall_ms < floor_s * 1000 - APART_MS
        is_apart = hub_ms is not None and abs(now.wall_ms - hub_ms) > APART_MS
        if not is_behind and not is_apart:
            return now.wall_ms // 1000
    return None if hub_ms is None else hub_ms // 1000


class HubTime:
    """The hub's time, carried on by the uptime clock since it was heard in this start."""

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self._ahead_ms = 0
        self._heard_ms: int | None = None

    def hear(self, sent_ms: int, boottime_ms: int) -> None:
        """Take a message that the hub sent then by its clock, and that came now by ours.

        Of the messages of the last hour the fastest counts: the others were longer on their way.
        """
        ahead_ms = sent_ms - boottime_ms
        is_stale = self._heard_ms is None or boottime_ms - self._heard_ms > HEARD_MS
        if is_stale or ahead_ms >= self._ahead_ms:
            self._ahead_ms, self._heard_ms = ahead_ms, boottime_ms

    def now_ms(self, now: Stamp) -> int | None:
        """Return what the hub's clock shows now at least, None if it was never heard."""
        return None if self._heard_ms is None else now.boottime_ms + self._ahead_ms
