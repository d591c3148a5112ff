import pytest

from hub.outcomes.durations import (
    Span,
    State,
    execution_gap,
    handshake_latency,
    reachable_handshake_latency,
)
from hub.outcomes.observations import DeviceCourse
from sync.contacts import Contacts
from sync.stages import Stage
from sync.stamps import Interval
from tests.hub.outcomes.courses import (
    at,
    course,
    covering,
    finished,
    online,
    rolled_back,
    said,
)


def test_the_execution_gap_is_from_the_request_to_the_acknowledgement() -> None:
    gap = execution_gap(finished(), at(100))
    assert gap is not None
    assert gap.state is State.ENDED
    assert gap.took.contains(12_000)
    assert gap.took.hi_ms is not None
    assert gap.took.hi_ms <= 12_100
    assert gap.took.width_ms is not None
    assert gap.took.width_ms <= 210


def test_the_handshake_latency_is_from_the_acceptance_to_the_delivery() -> None:
    latency = handshake_latency(finished(), at(100))
    assert latency is not None
    assert latency.state is State.ENDED
    assert latency.took.contains(3_000)


def test_without_contacts_both_are_bounded_by_what_the_hub_saw() -> None:
    blind = finished(contacts=Contacts())
    assert execution_gap(blind, at(100)) == Span(State.ENDED, Interval(1_000, 12_100))
    assert handshake_latency(blind, at(100)) == Span(State.ENDED, Interval(0, 3_100))


def test_what_has_not_ended_has_lasted_until_now() -> None:
    assert execution_gap(course(), at(50)) == Span(State.OPEN, Interval(50_000, None))
    assert handshake_latency(course(), at(50)) == Span(State.OPEN, Interval(49_000, None))


def test_a_state_vector_ends_the_handshake_without_a_word_from_the_device() -> None:
    assert handshake_latency(course(receipts=(covering(9),)), at(50)) == Span(
        State.ENDED, Interval(0, 8_000)
    )


@pytest.mark.parametrize("end", [Stage.ROLLED_BACK, Stage.FAILED, Stage.EXPIRED])
def test_a_device_that_failed_will_never_acknowledge(end: Stage) -> None:
    gap = execution_gap(course(stages={Stage.DELIVERED: said(4), end: said(12)}), at(100))
    assert gap is not None
    assert gap.state is State.NEVER
    assert gap.took.hi_ms is None
    assert gap.took.lo_ms == pytest.approx(12_000, abs=110)


@pytest.mark.parametrize("end", [Stage.SUPERSEDED, Stage.CANCELLED])
def test_what_an_operator_withdrew_had_lasted_until_then(end: Stage) -> None:
    gap = execution_gap(course(stages={Stage.DELIVERED: said(4), end: said(12)}), at(100))
    assert gap is not None
    assert gap.state is State.WITHDRAWN
    assert gap.took.contains(12_000)


@pytest.mark.parametrize(
    ("observed", "span"),
    [
        (course(superseded_at_ms=at(20)), Span(State.WITHDRAWN, Interval(20_000, 20_000))),
        (course(cancelled_at_ms=at(20)), Span(State.WITHDRAWN, Interval(20_000, 20_000))),
        (course(expires_ms=at(20)), Span(State.NEVER, Interval(20_000, None))),
        (course(expires_ms=at(200)), Span(State.OPEN, Interval(100_000, None))),
    ],
)
def test_what_the_hub_ended_is_told_by_its_own_clock(observed: DeviceCourse, span: Span) -> None:
    assert execution_gap(observed, at(100)) == span


def test_a_rollback_does_not_undo_the_delivery() -> None:
    latency = handshake_latency(rolled_back(), at(100))
    assert latency is not None
    assert latency.state is State.ENDED


def test_only_connected_time_counts_towards_the_reachable_handshake() -> None:
    away = course(presence=online((-100, 3), (40, 45), (60, None)), receipts=(covering(65),))
    assert handshake_latency(away, at(100)) == Span(State.ENDED, Interval(0, 64_000))
    assert reachable_handshake_latency(away, at(100)) == Span(
        State.ENDED, Interval(0, 2_000 + 5_000 + 5_000)
    )


def test_an_open_reachable_handshake_is_open_still() -> None:
    away = course(presence=online((-100, 3)))
    assert reachable_handshake_latency(away, at(100)) == Span(State.OPEN, Interval(2_000, None))


def test_without_a_request_or_an_acceptance_there_is_nothing_to_time() -> None:
    bare = DeviceCourse(device="pump-7")
    assert execution_gap(bare, at(1)) is None
    assert handshake_latency(bare, at(1)) is None
    assert reachable_handshake_latency(bare, at(1)) is None


def test_no_duration_is_below_zero_whatever_the_clocks_say() -> None:
    # Seen by the hub before it was requested: the hub's clock was set back.
    for span in (
        execution_gap(finished(first_s=-60), at(-40)),
        handshake_latency(finished(first_s=-60), at(-40)),
        execution_gap(course(), at(-40)),
    ):
        assert span is not None
        assert span.took.lo_ms is not None
        assert span.took.lo_ms >= 0
