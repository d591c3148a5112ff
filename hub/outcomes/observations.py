"""What the hub has observed of one deployment on one device, and when each stage happened.

Owns the typed input of everything in this package, and the one place where stamps of a device meet
the hub's own times. Never counts or judges.

Rule: stages happen in their order and not before the deployment was accepted, so each bounds its
neighbours. Where such bounds contradict each other, the earlier evidence stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from hub.outcomes.presence import PresenceChange
from sync.contacts import Contacts, interval_of
from sync.records import Ack
from sync.stages import DEVICE_STAGES, LADDER, Stage, end_of, furthest, order
from sync.stamps import ClockSync, Interval, Stamp, point

Moments = Mapping[Stage, Interval]
"""When each stage was reached, in hub UTC."""


@dataclass(frozen=True, slots=True)
class DeviceStage:
    """A stage as the device acknowledged it."""

    stamp: Stamp
    seen_at_ms: int
    """Hub UTC when the hub first held the acknowledgement durably."""
    reason: str = ""
    """Code from `sync.stages.Reason`, or one that only the device's program knows."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A state vector that the device sent, held against the write that made the deployment."""

    received_at_ms: int
    """Hub UTC."""
    covers: bool
    """Whether the device held the write when it sent this."""
    sent_lo_ms: int | None = None
    """The earliest that it can have been sent, hub UTC; None if that is not known. A vector that
    was on its way when the deployment was published says nothing against its delivery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What a device waits for with a deployment that it holds."""

    reason: str
    """Code from `sync.stages.Reason`."""
    detail: str
    since: Interval
    """When it began, in hub UTC."""
    until_ms: int | None
    """When it ends by itself, UTC by the time that the device believes; None if it cannot say."""
    left_s: int
    """What was left of its budget when it said so."""
    overdue: str
    """What it does when the budget is used up: `go` or `give_up`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCourse:
    """One deployment on one device, as far as the hub knows."""

    device: str
    targeted: bool = True
    """Whether the device is on the list that was frozen when the deployment was requested."""
    hub_stages: Mapping[Stage, int] = field(default_factory=dict)
    """Hub UTC milliseconds of the stages that the hub stamps."""
    device_stages: Mapping[Stage, DeviceStage] = field(default_factory=dict)
    receipts: tuple[Receipt, ...] = ()
    """The first that covers and the latest that does not are enough."""
    presence: tuple[PresenceChange, ...] = ()
    contacts: Contacts = field(default_factory=Contacts)
    superseded_at_ms: int | None = None
    """When the hub recorded a later deployment that takes the place of this one on the device."""
    cancelled_at_ms: int | None = None
    expires_ms: int = 0
    """Hub UTC after which it must not be started any more; 0 for never."""
    waiting: Waiting | None = None
    """What it waits for now; None if it does not."""
    passed_over: str = ""
    """What it said that it did not wait for, and why; empty if nothing."""
    runs: bool | None = None
    """Whether what the device now runs, proven healthy, is this release; None if not known."""


def stamp_of(ack: Ack) -> Stamp:
    """Return the stamp in a device's acknowledgement."""
    return Stamp(ack.boot, ack.boottime_ms, ack.wall_ms, ClockSync(ack.sync))


def moments(course: DeviceCourse) -> dict[Stage, Interval]:
    """Return when each stage was reached, in hub UTC: a point if the hub saw to it itself."""
    held = {stage: point(at_ms) for stage, at_ms in course.hub_stages.items()}
    not_before_ms = course.hub_stages.get(Stage.ACCEPTED)
    for stage, seen in course.device_stages.items():
        known = interval_of(seen.stamp, course.contacts, seen_at_ms=seen.seen_at_ms)
        held[stage] = _cut(known, Interval(not_before_ms, None))
    if Stage.DELIVERED in held:
        held[Stage.DELIVERED] = _cut(
            held[Stage.DELIVERED], Interval(None, first_receipt_ms(course))
        )
    way = _way(course)
    for earlier, later in pairwise(way):
        held[later] = _cut(held[later], Interval(held[earlier].lo_ms, None))
    for later, earlier in pairwise(reversed(way)):
        held[earlier] = _cut(held[earlier], Interval(None, held[later].hi_ms))
    return held


def delivered(course: DeviceCourse, held: Moments | None = None) -> Interval | None:
    """Return when the device took the deployment, None if nothing shows that it ever did.

    Its acknowledgement of that, of any later stage, and a state vector that covers the write each
    prove it. A broker's acknowledgement does not.

    Args:
        course: What was observed.
        held: `moments(course)`, if the caller has it already.
    """
    held = moments(course) if held is None else held
    if Stage.DELIVERED in course.device_stages:
        return held[Stage.DELIVERED]
    latest = [held[stage].hi_ms for stage in course.device_stages]
    latest.append(first_receipt_ms(course))
    known = [at_ms for at_ms in latest if at_ms is not None]
    if not known:
        return None
    return _cut(Interval(None, min(known)), Interval(course.hub_stages.get(Stage.ACCEPTED), None))


def first_receipt_ms(course: DeviceCourse) -> int | None:
    """Return when the first state vector came in that shows delivery, None if none did."""
    return min(
        (receipt.received_at_ms for receipt in course.receipts if receipt.covers), default=None
    )


def reached(course: DeviceCourse) -> Stage | None:
    """Return the highest rung that is proven. `BROKER_ACKED` proves nothing and never counts."""
    stages = {*course.hub_stages, *course.device_stages} - {Stage.BROKER_ACKED}
    if first_receipt_ms(course) is not None:
        stages.add(Stage.DELIVERED)
    return furthest(stages)


def end_and_reason(course: DeviceCourse) -> tuple[Stage, str] | None:
    """Return the end that the device itself reported, and why; a wait is one while it lasts."""
    end = end_of(course.device_stages)
    if end not in (None, Stage.DEFERRED):
        return end, course.device_stages[end].reason
    if course.waiting is not None and Stage.ACKNOWLEDGED not in course.device_stages:
        return Stage.DEFERRED, course.waiting.reason
    return None


def withdrawal(course: DeviceCourse, now_ms: int) -> tuple[Stage, int] | None:
    """Return how and when the hub ended a deployment that was not applied yet, None if it did not.

    Expiry ends it only if the device never took it: one that did says so itself.
    """
    rung = reached(course)
    if rung is not None and order(rung) >= order(Stage.APPLIED):
        return None
    ends = [
        (Stage.SUPERSEDED, course.superseded_at_ms),
        (Stage.CANCELLED, course.cancelled_at_ms),
    ]
    if course.expires_ms and (rung is None or order(rung) < order(Stage.DELIVERED)):
        ends.append((Stage.EXPIRED, course.expires_ms))
    past = [(stage, at_ms) for stage, at_ms in ends if at_ms is not None and at_ms <= now_ms]
    return min(past, key=lambda end: end[1], default=None)


def _way(course: DeviceCourse) -> list[Stage]:
    """Return the device's stages in the order in which they must have happened."""
    way = [stage for stage in LADDER if stage in DEVICE_STAGES and stage in course.device_stages]
    end = end_of(course.device_stages)
    if end is not None and end is not Stage.DEFERRED:
        way.append(end)
    return way


def _cut(held: Interval, by: Interval) -> Interval:
    return held.intersect(by) or held
