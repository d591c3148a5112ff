"""A time that certainly has passed, for a device whose clock may say anything.

Owns the floor: how it rises, and the one case in which it may fall. Pure; who uses it stores it.
"""

from dataclasses import dataclass
from typing import Final

from sync.stamps import Stamp

WORD_AHEAD_MAX_S: Final = 7 * 86_400
"""So far beyond the last signed time the word of the hub is stored: the term of a timestamp.

Frames come through a broker and are not signed. A lie about the time must end with the liar: what
is stored of it makes no metadata look as if it had run out that was fresh when it was signed.
"""


@dataclass(frozen=True, slots=True)
class Floor:
    """What is stored of it. All are numbers of the store."""

    at_s: int = 0
    """Seconds UTC that had passed when it was last raised."""
    boot: int = 0
    """The start in which that was; as a number."""
    boottime_ms: int = 0
    """What the uptime clock of that start showed."""
    keys: int = 0
    """Whose word it is (`Chain.online_id`); 0 for nobody's."""
    void_hub_ms: int = 0
    """Times of hub messages up to this one prove nothing: the keys behind them were replaced."""

    def now_s(self, stamp: Stamp, hub_ms: int) -> int:
        """Return the time that has passed for certain, seconds UTC; 0 if nothing is known.

        Args:
            stamp: This moment, by the device's uptime clock.
            hub_ms: When the hub's last message was sent by its clock, 0 for none. It counts as long
                as it is the last.
        """
        known_s = self.at_s
        if known_s and self.boot == _number(stamp):
            known_s += max(0, stamp.boottime_ms - self.boottime_ms) // 1000
        return max(known_s, hub_ms // 1000 if hub_ms > self.void_hub_ms else 0)

    def after(self, signed_s: int, keys: int, stamp: Stamp, hub_ms: int) -> "Floor":
        """Return the floor after metadata was believed.

        It never falls, but for one case: the root has replaced the keys that told the time. Of
        the hub's unsigned word it keeps no more than `WORD_AHEAD_MAX_S`.

        Args:
            signed_s: Latest time at which something believed was signed.
            keys: Whose word that is.
            stamp: As for `now_s`.
            hub_ms: The same.
        """
        boot = _number(stamp)
        if self.keys not in (0, keys):
            void_ms = max(hub_ms, self.void_hub_ms)
            return Floor(signed_s, boot, stamp.boottime_ms, keys, void_ms)
        word_s = min(self.now_s(stamp, hub_ms), signed_s + WORD_AHEAD_MAX_S)
        at_s = max(signed_s, self.now_s(stamp, 0), word_s)
        return Floor(at_s, boot, stamp.boottime_ms, keys, self.void_hub_ms)


def _number(stamp: Stamp) -> int:
    return int.from_bytes(stamp.boot, "big")
