"""Two devices that say that they are the same: a card was copied, or a name was given twice.

Owns how that is noticed. Lives on the writer's thread, in memory; never stores.

Method: a boot that has ended never comes back. A frame that was under way for long may look so,
once or twice; two live devices speak in turn, again and again.
"""

from typing import Final, NamedTuple

RETURNS_MAX: Final = 2
"""Boots that come back within the window without suspicion: late frames."""

WINDOW_S: Final = 3600.0

BOOTS_KEPT: Final = 4
"""Earlier boots remembered of a device that started lately."""

REMEMBERED_MAX: Final = 200_000
"""Devices remembered, at some 150 bytes each; one that starts anew now and then takes 400."""


class _Former(NamedTuple):
    """What came before the boot that speaks now."""

    boots: tuple[bytes, ...]
    returns_count: int
    since_mono: float


class Clones:
    """The boots in which devices spoke last."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}
        self._former: dict[str, _Former] = {}

    def suspects(self, device: str, boot: bytes, now_mono: float) -> bool:
        """Take note of a frame; tell whether another device of this name must have sent it."""
        last = self._last.get(device)
        if last == boot:
            return False
        if last is None:
            if len(self._last) >= REMEMBERED_MAX:
                self._last.clear()
                self._former.clear()
            self._last[device] = boot
            return False
        self._last[device] = boot
        former = self._former.get(device, _Former((), 0, now_mono))
        returns_count, since_mono = former.returns_count, former.since_mono
        if now_mono - since_mono > WINDOW_S:
            returns_count, since_mono = 0, now_mono
        if boot in former.boots:
            returns_count += 1
        boots = (*(each for each in former.boots if each != boot), last)[-BOOTS_KEPT:]
        self._former[device] = _Former(boots, returns_count, since_mono)
        return returns_count > RETURNS_MAX and boot in former.boots
