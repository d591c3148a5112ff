"""Provisioning as a funnel: where devices drop off on their way into the fleet, by class.

Owns the steps and their counts. Never judges a single device.

A step is entered by the devices that took the one before. Those that left are told from those that
are still on the way: the first were refused, the others were not heard to go on yet. The share that
went on therefore lies between two bounds (nobody, or everybody, of those on the way goes on), and
how long a step takes is an interval by Kaplan and Meier, where those on the way are censored.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from hub.outcomes.durations import Span, State
from hub.outcomes.survival import Summary, summary
from sync.stamps import Interval


class Step(StrEnum):
    """Steps of provisioning, in order. Values travel; never reuse one."""

    CONTACT = "contact"
    """The hub heard of it."""
    CLAIM = "claim"
    """A token or an operator let it in."""
    CERTIFICATE = "certificate"
    """It came for its certificate."""
    SYNC = "first_sync"
    """It said something over the broker."""
    HEALTHY = "first_healthy"
    """A release passed its health check on it."""


STEPS: Final = tuple(Step)


class Course(Protocol):
    """When a device took each step, hub UTC; None where it did not."""

    @property
    def device_class(self) -> str:
        """What the device is."""
        ...

    @property
    def contact_ms(self) -> int:
        """First contact."""
        ...

    @property
    def claim_ms(self) -> int | None:
        """Let in."""
        ...

    @property
    def certificate_ms(self) -> int | None:
        """Came for its certificate."""
        ...

    @property
    def sync_ms(self) -> int | None:
        """Said something."""
        ...

    @property
    def healthy_ms(self) -> int | None:
        """Passed a health check."""
        ...

    @property
    def ended_ms(self) -> int | None:
        """Refused or revoked."""
        ...

    @property
    def reason(self) -> str:
        """Why it was refused; a code."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """One step, over the devices that took the one before."""

    step: Step
    entered_count: int
    passed_count: int
    left: Mapping[str, int]
    """Devices that were refused at this step, by reason, most first."""
    on_the_way_count: int
    passed_lo_ratio: float | None
    """Share that goes on if nobody on the way does; None if nobody entered."""
    passed_hi_ratio: float | None
    """Share that goes on if everybody on the way does."""
    took: Summary
    """How long the step takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFunnel:
    """The funnel of one device class."""

    device_class: str
    steps: tuple[StepCount, ...]

    @property
    def worst(self) -> Step | None:
        """The step at which most devices left for good; None if none did."""
        most = max(self.steps, key=lambda each: sum(each.left.values()))
        return most.step if most.left else None


@dataclass(frozen=True, slots=True)
class Provisioning:
    """The funnels of all classes, the largest first."""

    classes: tuple[ClassFunnel, ...]


def provisioning(courses: Iterable[Course], *, now_ms: int) -> Provisioning:
    """Return the funnels as of `now_ms`, hub UTC."""
    by_class: dict[str, list[Course]] = {}
    for course in courses:
        by_class.setdefault(course.device_class, []).append(course)
    largest_first = sorted(by_class.items(), key=lambda each: (-len(each[1]), each[0]))
    return Provisioning(
        tuple(
            ClassFunnel(
                device_class=name,
                steps=tuple(_count(step, found, now_ms) for step in STEPS),
            )
            for name, found in largest_first
        )
    )


def moments(course: Course) -> dict[Step, int | None]:
    """Return when each step was taken; a later one proves those before it, at its own moment."""
    told = {
        Step.CONTACT: course.contact_ms,
        Step.CLAIM: course.claim_ms,
        Step.CERTIFICATE: course.certificate_ms,
        Step.SYNC: course.sync_ms,
        Step.HEALTHY: course.healthy_ms,
    }
    proven: int | None = None
    found: dict[Step, int | None] = {}
    for step in reversed(STEPS):
        at_ms = told[step]
        proven = at_ms if proven is None else proven if at_ms is None else min(at_ms, proven)
        found[step] = proven
    return found


def _count(step: Step, courses: list[Course], now_ms: int) -> StepCount:
    position = STEPS.index(step)
    left: Counter[str] = Counter()
    spans: list[Span] = []
    passed_count = 0
    for course in courses:
        at = moments(course)
        entered_ms = course.contact_ms if not position else at[STEPS[position - 1]]
        if entered_ms is None:
            continue
        passed_ms = at[step]
        if passed_ms is not None:
            passed_count += 1
            spans.append(Span(State.ENDED, _took(entered_ms, passed_ms)))
        elif course.ended_ms is not None:
            left[course.reason] += 1
            spans.append(Span(State.NEVER, _took(entered_ms, course.ended_ms)))
        else:
            spans.append(Span(State.OPEN, _took(entered_ms, now_ms)))
    entered_count = len(spans)
    on_the_way_count = entered_count - passed_count - left.total()
    return StepCount(
        step=step,
        entered_count=entered_count,
        passed_count=passed_count,
        left=dict(sorted(left.items(), key=lambda each: (-each[1], each[0]))),
        on_the_way_count=on_the_way_count,
        passed_lo_ratio=passed_count / entered_count if entered_count else None,
        passed_hi_ratio=(passed_count + on_the_way_count) / entered_count
        if entered_count
        else None,
        took=summary(spans),
    )


def _took(from_ms: int, until_ms: int) -> Interval:
    span_ms = max(0, until_ms - from_ms)
    return Interval(span_ms, span_ms)
