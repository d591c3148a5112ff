"""How long a deployment has waited: what is stored of it, and how it grows.

Owns that count. Pure: the moment is an argument, `agent.patience` stores it.

Rule: only time that certainly has passed counts. In one boot that is the uptime clock's. Over a
reboot it is what was counted until the last note, and more if the hub's time, known when the wait
began and known now, proves it. The device's wall clock never counts.
"""

import msgspec

from sync.stamps import Stamp


class Waited(msgspec.Struct, frozen=True, array_like=True):
    """What one deployment has waited. Stored; fields are only ever appended."""

    boot: bytes = b""
    """In which boot it waits; empty while it does not."""
    from_ms: int = 0
    """CLOCK_BOOTTIME from which on the time in this boot counts."""
    spent_ms: int = 0
    """What had been counted by then."""
    hub_s: int = 0
    """What the hub's clock showed when this wait began; 0 if that was not known."""
    before_ms: int = 0
    """What had been counted when this wait began."""
    since: tuple[bytes, int, int] = (b"", 0, 0)
    """Boot, CLOCK_BOOTTIME and wall clock (milliseconds) when this wait began."""
    reason: str = ""
    detail: str = ""
    """Why it waits, as it was last told."""

    @property
    def is_waiting(self) -> bool:
        """Whether a wait is under way."""
        return bool(self.boot)

    def counted_ms(self, now: Stamp, hub_s: int | None) -> int:
        """Return how long it has waited altogether, in milliseconds.

        Args:
            now: This moment.
            hub_s: What the hub's clock shows now at least; None if that is not known.
        """
        counted_ms = self.spent_ms
        if self.is_waiting and self.boot == now.boot:
            counted_ms += max(0, now.boottime_ms - self.from_ms)
        spans_reboot = self.is_waiting and self.since[0] != now.boot
        if spans_reboot and self.hub_s and hub_s is not None:
            counted_ms = max(counted_ms, self.before_ms + (hub_s - self.hub_s) * 1000)
        return counted_ms

    def begun(self, now: Stamp, hub_s: int | None) -> "Waited":
        """Return this with a wait that begins now; the same if one is under way."""
        if self.is_waiting:
            return self.noted(now, hub_s)
        return msgspec.structs.replace(
            self,
            boot=now.boot,
            from_ms=now.boottime_ms,
            hub_s=hub_s or 0,
            before_ms=self.spent_ms,
            since=(now.boot, now.boottime_ms, now.wall_ms),
        )

    def noted(self, now: Stamp, hub_s: int | None) -> "Waited":
        """Return this with everything counted that has passed until now."""
        if not self.is_waiting:
            return self
        return msgspec.structs.replace(
            self,
            boot=now.boot,
            from_ms=now.boottime_ms,
            spent_ms=self.counted_ms(now, hub_s),
        )

    def ended(self, now: Stamp, hub_s: int | None) -> "Waited":
        """Return this with the wait over; what was spent of the budget stays spent."""
        spent_ms = self.counted_ms(now, hub_s)
        return Waited(spent_ms=spent_ms)


def decode(stored: bytes) -> Waited | None:
    """Return what is stored, None if it cannot be read."""
    try:
        return msgspec.msgpack.decode(stored, type=Waited)
    except (msgspec.MsgspecError, ValueError):
        return None
