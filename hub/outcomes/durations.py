"""How long a deployment took on one device, or has lasted so far.

Owns the Execution Gap, the Handshake Latency and its reachable part: one definition each. Never
averages over devices (`survival`).

Rule: what has not ended is not left out; it is known to have lasted at least so long. Leaving open
ones out makes a fleet look fast exactly when it is slow.
"""

from dataclasses import dataclass
from enum import StrEnum

from hub.outcomes.observations import DeviceCourse, Moments, delivered, moments, withdrawal
from hub.outcomes.presence import reachable_ms
from sync.stages import Stage, end_of
from sync.stamps import Interval, point


class State(StrEnum):
    """What became of a span."""

    ENDED = "ended"
    """It took as long as the interval says."""
    OPEN = "open"
    """It still lasts, and has lasted for the lower bound."""
    WITHDRAWN = "withdrawn"
    """An operator decided otherwise; by then it had lasted as long as the interval says."""
    NEVER = "never"
    """It can no longer end: the device failed, or time ran out, after the lower bound at least."""


@dataclass(frozen=True, slots=True)
class Span:
    """A duration in milliseconds, and whether it is over."""

    state: State
    took: Interval


def execution_gap(course: DeviceCourse, now_ms: int, held: Moments | None = None) -> Span | None:
    """Return how long it took from the operator's request to the device's acknowledgement.

    None if the hub did not record the request. `held` is `moments(course)`, where the caller has it
    already; so everywhere here.
    """
    requested_ms = course.hub_stages.get(Stage.REQUESTED)
    if requested_ms is None:
        return None
    held = moments(course) if held is None else held
    if Stage.ACKNOWLEDGED in course.device_stages:
        return Span(State.ENDED, _since(requested_ms, held[Stage.ACKNOWLEDGED]))
    end = end_of(course.device_stages)
    if end in {Stage.ROLLED_BACK, Stage.FAILED, Stage.EXPIRED}:
        return Span(State.NEVER, _at_least(requested_ms, held[end].lo_ms))
    if end in {Stage.SUPERSEDED, Stage.CANCELLED}:
        return Span(State.WITHDRAWN, _since(requested_ms, held[end]))
    return _unfinished(course, requested_ms, now_ms)


def handshake_latency(
    course: DeviceCourse, now_ms: int, held: Moments | None = None
) -> Span | None:
    """Return how long it took from the hub's acceptance until the device held the deployment.

    None if the hub did not accept it.
    """
    accepted_ms = course.hub_stages.get(Stage.ACCEPTED)
    if accepted_ms is None:
        return None
    taken = delivered(course, held)
    if taken is not None:
        return Span(State.ENDED, _since(accepted_ms, taken))
    return _unfinished(course, accepted_ms, now_ms)


def reachable_handshake_latency(
    course: DeviceCourse, now_ms: int, held: Moments | None = None
) -> Span | None:
    """Return the part of the Handshake Latency in which the device was connected.

    This is the part that the system can be blamed for; the rest is the network's.
    """
    accepted_ms = course.hub_stages.get(Stage.ACCEPTED)
    whole = handshake_latency(course, now_ms, held)
    if accepted_ms is None or whole is None:
        return None

    def connected_ms(span_ms: int) -> int:
        return reachable_ms(course.presence, from_ms=accepted_ms, to_ms=accepted_ms + span_ms)

    lo_ms, hi_ms = whole.took.lo_ms, whole.took.hi_ms
    return Span(
        whole.state,
        Interval(
            None if lo_ms is None else connected_ms(lo_ms),
            None if hi_ms is None else connected_ms(hi_ms),
        ),
    )


def _unfinished(course: DeviceCourse, start_ms: int, now_ms: int) -> Span:
    ended = withdrawal(course, now_ms)
    if ended is None:
        return Span(State.OPEN, _at_least(start_ms, now_ms))
    stage, at_ms = ended
    if stage is Stage.EXPIRED:
        return Span(State.NEVER, _at_least(start_ms, at_ms))
    return Span(State.WITHDRAWN, _since(start_ms, point(at_ms)))


def _since(start_ms: int, end: Interval) -> Interval:
    return end.minus(point(start_ms)).clamp(lo_ms=0)


def _at_least(start_ms: int, at_ms: int | None) -> Interval:
    return Interval(0 if at_ms is None else max(0, at_ms - start_ms), None)
