"""Two devices that say that they are the same: a card was copied, or a name was given twice.

Owns how that is noticed. Lives on the writer's thread, in memory; never stores.

Method: a boot that has ended never comes back. A frame that was under way for long may look so,
once or twice and not long after the next boot was heard; two live devices speak in turn again and
again. Those that speak often are found by their many returns within an hour, those that speak now
and then by two returns of a boot that was followed by another more than an hour before.
"""

from typing import Final, NamedTuple

RETURNS_MAX: Final = 2
"""Boots that come back within the window without suspicion: late frames."""

WINDOW_S: Final = 3600.0
"""A frame is not under way for longer: the broker hands on in order what it kept for the hub."""

LATE_RETURNS_MAX: Final = 1
"""Returns after more than the window that are forgiven, whenever they come."""

BOOTS_KEPT: Final = 4
"""Earlier boots remembered of a device that started lately."""

REMEMBERED_MAX: Final = 200_000
"""Devices remembered, at some 230 bytes each; one that starts anew now and then takes 600."""


class _Boot(NamedTuple):
    """One start of a device."""

    boot: bytes
    first_mono: float
    """When it was first heard."""


class _Former(NamedTuple):
    """What came before the boot that speaks now."""

    boots: tuple[_Boot, ...]
    returns_count: int
    since_mono: float
    late_returns_count: int


class Clones:
    """The boots in which devices spoke last."""

    def __init__(self) -> None:
        self._last: dict[str, _Boot] = {}
        self._former: dict[str, _Former] = {}

    def suspects(self, device: str, boot: bytes, now_mono: float) -> bool:
        """Take note of a frame; tell whether another device of this name must have sent it."""
        last = self._last.get(device)
        if last is None:
            if len(self._last) >= REMEMBERED_MAX:
                self._last.clear()
                self._former.clear()
            self._last[device] = _Boot(boot, now_mono)
            return False
        if last.boot == boot:
            return False
        former = self._former.get(device, _Former((), 0, now_mono, 0))
        before = next((each for each in former.boots if each.boot == boot), None)
        self._last[device] = _Boot(boot, now_mono) if before is None else before
        returns_count, since_mono = former.returns_count, former.since_mono
        if now_mono - since_mono > WINDOW_S:
            returns_count, since_mono = 0, now_mono
        late_returns_count = former.late_returns_count
        others = (*(each for each in former.boots if each is not before), last)
        if before is not None:
            returns_count += 1
            next_mono = min(
                (each.first_mono for each in others if each.first_mono > before.first_mono),
                default=now_mono,
            )
            late_returns_count += now_mono - next_mono > WINDOW_S
        boots = others[-BOOTS_KEPT:]
        self._former[device] = _Former(boots, returns_count, since_mono, late_returns_count)
        is_too_much = returns_count > RETURNS_MAX or late_returns_count > LATE_RETURNS_MAX
        return before is not None and is_too_much
