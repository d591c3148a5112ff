"""Whether a deployment may go on now, or has to wait: policy and facts in, one answer out.

Owns that decision and its words. Pure: no clock, no file. Who asks, stores and wakes is
`agent.patience`.

Rules:

* A wait has a budget. Once it is used up, the deployment goes on all the same or is given up, as
  the policy says. What would break the install itself (`FIRM`) is never passed over: then it is
  given up either way.
* Windows count only by a time that can be believed. Without one the device waits as if they were
  closed, so that only the budget, which no wall clock moves, ends it.
* An operator's `now` passes over everything but `FIRM`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from agent.inhibitors import Lock
from agent.strain import Strain
from sync.calendar import Opening, Window, next_opening, opening_at
from sync.stages import Reason
from sync.stamps import Stamp

LOOK_S: Final = 30.0
"""How often load, battery and disk are looked at while they are waited for."""

LONGEST_LOOK_S: Final = 600.0
"""Longest time without a look, whatever is waited for: it also bounds how much of a wait a power
cut makes forget."""

SHORTEST_LOOK_S: Final = 0.1

OPENINGS_TRIED_MAX: Final = 32
"""Windows that are looked at for one that is long enough."""


class Phase(StrEnum):
    """What the device is about to do."""

    FETCH = "fetch"
    STAGE = "stage"
    ACTIVATE = "activate"


class Overdue(StrEnum):
    """What happens when the budget is used up. Values are stored; never reuse one."""

    GO = "go"
    GIVE_UP = "give_up"


class Kind(StrEnum):
    """What a device can wait for."""

    WINDOW = "window"
    CLOCK = "clock"
    BATTERY = "battery"
    LOAD = "load"
    DISK = "disk"
    LOCK = "lock"
    INSTALLER = "installer"


REASONS: Final[Mapping[Kind, Reason]] = MappingProxyType(
    {
        Kind.WINDOW: Reason.OUTSIDE_WINDOW,
        Kind.CLOCK: Reason.CLOCK_UNKNOWN,
        Kind.BATTERY: Reason.LOW_BATTERY,
        Kind.LOAD: Reason.HIGH_LOAD,
        Kind.DISK: Reason.NO_SPACE,
        Kind.LOCK: Reason.INHIBITED,
        Kind.INSTALLER: Reason.BUSY,
    }
)
"""The code that is reported for each."""

FIRM: Final = frozenset({Kind.BATTERY, Kind.DISK, Kind.INSTALLER})
"""What neither an operator's `now` nor a budget passes over: the install would fail of it."""

ASKED: Final[Mapping[Phase, frozenset[Kind]]] = MappingProxyType(
    {
        Phase.FETCH: frozenset({Kind.BATTERY, Kind.DISK}),
        Phase.STAGE: frozenset({Kind.BATTERY, Kind.DISK, Kind.LOAD, Kind.LOCK, Kind.INSTALLER}),
        Phase.ACTIVATE: frozenset({Kind.BATTERY, Kind.LOAD, Kind.LOCK, Kind.INSTALLER}),
    }
)
"""What is asked before each; windows apart (`Policy.window_from`)."""

_ORDER: Final = (Phase.FETCH, Phase.STAGE, Phase.ACTIVATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What has to be so before a deployment goes on."""

    windows: tuple[tuple[Window, ...], ...] = ()
    """Of each of these sets one window must be open: the device's own, and the operator's."""
    zone: tzinfo = UTC
    window_from: Phase = Phase.ACTIVATE
    """From which phase on windows are asked."""
    window_left_s: float = 0.0
    """What must be left of a window to begin something in it."""
    battery_min_ratio: float = 0.0
    """Not asked while the device is fed from outside; 0 is never asked."""
    load_max_ratio: float = 0.0
    """For each processor; 0 is not asked."""
    free_min_bytes: int = 0
    budget_s: float = 7 * 86_400.0
    overdue: Overdue = Overdue.GIVE_UP
    is_now: bool = False
    """An operator said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How things are."""

    now: Stamp
    utc_s: int | None
    """What time it is, as far as that can be believed (`agent.daytime`); None if it cannot."""
    strain: Strain = field(default_factory=Strain)
    locks: tuple[Lock, ...] = ()
    busy: "Busy | None" = None
    waited_s: float = 0.0
    """How long the deployment has waited altogether."""


@dataclass(frozen=True, slots=True)
class Busy:
    """An installer asked to be called again later."""

    detail: str
    until_ms: int
    """CLOCK_BOOTTIME, in this boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """One thing that is waited for."""

    kind: Kind
    text: str
    """What is so, as a clause: no capital, no full stop."""
    ends: str
    """What would end it, as a clause."""
    again_s: float
    """When it is worth to look again."""
    until_s: int | None = None
    """UTC seconds at which it ends by itself, if that is known."""


@dataclass(frozen=True, slots=True)
class Go:
    """Go on."""

    over: tuple[Hindrance, ...] = ()
    """What was passed over."""
    because: str = ""
    """Why, as a clause; empty if nothing was."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, and look again."""

    hindrances: tuple[Hindrance, ...]
    """At least one; the weightiest first."""
    left_s: float
    """What is left of the budget."""
    next_look_s: float
    until_s: int | None
    """UTC seconds at which all of it ends by itself, if that is known."""

    @property
    def reason(self) -> Reason:
        """The code of the weightiest."""
        return REASONS[self.hindrances[0].kind]

    @property
    def text(self) -> str:
        """All of it as one line."""
        return "; ".join(each.text for each in self.hindrances)


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The budget is used up."""

    hindrances: tuple[Hindrance, ...]

    @property
    def detail(self) -> str:
        """What it waited for last, as one line."""
        return "; ".join(each.text for each in self.hindrances)


Decision = Go | Wait | GiveUp


def decide(policy: Policy, facts: Facts, phase: Phase) -> Decision:
    """Return whether `phase` may begin now."""
    found = tuple(hindrances(policy, facts, phase))
    if not found:
        return Go()
    is_firm = any(each.kind in FIRM for each in found)
    if policy.is_now and not is_firm:
        return Go(found, "an operator said that it must not wait")
    left_s = policy.budget_s - facts.waited_s
    if left_s <= 0:
        if policy.overdue is Overdue.GO and not is_firm:
            return Go(found, "it has waited as long as it may")
        return GiveUp(found)
    if policy.is_now:
        found = tuple(each for each in found if each.kind in FIRM)
    ends = [each.until_s for each in found]
    known = [end for end in ends if end is not None]
    look_s = min([LONGEST_LOOK_S, left_s, *(each.again_s for each in found)])
    return Wait(
        found,
        left_s,
        max(SHORTEST_LOOK_S, look_s),
        max(known) if len(known) == len(ends) else None,
    )


def hindrances(policy: Policy, facts: Facts, phase: Phase) -> Iterable[Hindrance]:
    """Give what is in the way of `phase`, the weightiest first, whoever might pass it over."""
    asked = ASKED[phase]
    if Kind.INSTALLER in asked and facts.busy is not None:
        yield from _busy(facts.busy, facts)
    if Kind.LOCK in asked:
        for lock in facts.locks:
            yield _locked(lock, facts)
    if _ORDER.index(phase) >= _ORDER.index(policy.window_from):
        for windows in policy.windows:
            yield from _closed(windows, policy, facts)
    if Kind.BATTERY in asked:
        yield from _empty(policy, facts.strain)
    if Kind.DISK in asked:
        yield from _full(policy, facts.strain)
    if Kind.LOAD in asked:
        yield from _loaded(policy, facts.strain)


def _busy(busy: Busy, facts: Facts) -> Iterable[Hindrance]:
    left_s = (busy.until_ms - facts.now.boottime_ms) / 1000
    if left_s > 0:
        yield Hindrance(
            kind=Kind.INSTALLER,
            text=f"the installer asks to wait: {busy.detail}",
            ends="the installer is asked again",
            again_s=left_s,
            until_s=_later(facts, left_s),
        )


def _locked(lock: Lock, facts: Facts) -> Hindrance:
    left_s = lock.left_s(facts.now)
    return Hindrance(
        kind=Kind.LOCK,
        text=f"{lock.owner} holds a lock: {lock.reason}",
        ends=f"{lock.owner} releases its lock",
        again_s=left_s,
        until_s=_later(facts, left_s),
    )


def _closed(windows: tuple[Window, ...], policy: Policy, facts: Facts) -> Iterable[Hindrance]:
    if facts.utc_s is None:
        yield Hindrance(
            kind=Kind.CLOCK,
            text="there are maintenance windows, and the device does not know what time it is",
            ends="its clock is synchronised, or the hub is heard",
            again_s=LOOK_S,
        )
        return
    opening = opening_at(windows, policy.zone, facts.utc_s)
    if opening is not None and _has_room(opening, facts.utc_s, policy.window_left_s):
        return
    what = "too little is left of the maintenance window" if opening else "no window is open"
    opens_s = _opens_s(windows, policy, facts.utc_s)
    if opens_s is None:
        yield Hindrance(
            kind=Kind.WINDOW, text=what, ends="the windows are changed", again_s=LONGEST_LOOK_S
        )
        return
    yield Hindrance(
        kind=Kind.WINDOW,
        text=f"{what}; the next opens at {local(opens_s, policy.zone)}",
        ends="a maintenance window opens",
        again_s=opens_s - facts.utc_s,
        until_s=opens_s,
    )


def _opens_s(windows: tuple[Window, ...], policy: Policy, after_s: int) -> int | None:
    """Return when the next window opens that is long enough, None if none is to be expected."""
    for _ in range(OPENINGS_TRIED_MAX):
        opens_s = next_opening(windows, policy.zone, after_s)
        opening = None if opens_s is None else opening_at(windows, policy.zone, opens_s)
        if opens_s is None or opening is None:
            return None
        if _has_room(opening, opens_s, policy.window_left_s):
            return opens_s
        after_s = opens_s
    return None


def _has_room(opening: Opening, at_s: int, left_s: float) -> bool:
    return opening.to_s is None or opening.to_s - at_s >= left_s


def _empty(policy: Policy, strain: Strain) -> Iterable[Hindrance]:
    if strain.battery_ratio is None or strain.is_fed:
        return
    if strain.battery_ratio < policy.battery_min_ratio:
        yield Hindrance(
            kind=Kind.BATTERY,
            text=f"the battery is at {strain.battery_ratio:.0%}, "
            f"and {policy.battery_min_ratio:.0%} are asked for",
            ends="the battery is charged",
            again_s=LOOK_S,
        )


def _full(policy: Policy, strain: Strain) -> Iterable[Hindrance]:
    if strain.free_bytes is not None and strain.free_bytes < policy.free_min_bytes:
        yield Hindrance(
            kind=Kind.DISK,
            text=f"{strain.free_bytes} bytes are free, and {policy.free_min_bytes} are asked for",
            ends="room is made on the disk",
            again_s=LOOK_S,
        )


def _loaded(policy: Policy, strain: Strain) -> Iterable[Hindrance]:
    if strain.load_ratio is not None and 0 < policy.load_max_ratio < strain.load_ratio:
        yield Hindrance(
            kind=Kind.LOAD,
            text=f"the load is {strain.load_ratio:.2g} for each processor, "
            f"and at most {policy.load_max_ratio:.2g} is allowed",
            ends="the load goes down",
            again_s=LOOK_S,
        )


def _later(facts: Facts, left_s: float) -> int | None:
    return None if facts.utc_s is None else facts.utc_s + round(left_s)


def local(at_s: int, zone: tzinfo) -> str:
    """Return a moment as people in `zone` write it."""
    return datetime.fromtimestamp(at_s, zone).strftime("%a %Y-%m-%d %H:%M %Z")
