from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.outcomes.durations import Span, State
from hub.outcomes.survival import (
    Quantile,
    Step,
    highest_share,
    kaplan_meier,
    lowest_share,
    quantile,
    share_at,
    summary,
)
from sync.stamps import Interval, point

# Remission in weeks: Freireich et al. (1963), Gehan (1965); in most textbooks on survival.
TREATED_ENDED = [6, 6, 6, 7, 10, 13, 16, 22, 23]
TREATED_FOLLOWED: list[int | None] = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
PLACEBO_ENDED = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def ended(lo_ms: int, hi_ms: int | None) -> Span:
    return Span(State.ENDED, Interval(lo_ms, hi_ms))


def still_open(for_ms: int) -> Span:
    return Span(State.OPEN, Interval(for_ms, None))


NEVER = Span(State.NEVER, Interval(3, None))


def test_the_curve_is_that_of_the_textbooks() -> None:
    steps = kaplan_meier(TREATED_ENDED, TREATED_FOLLOWED)
    assert [step.at_ms for step in steps] == [6, 7, 10, 13, 16, 22, 23]
    # 1 - 3/21, then times 1 - 1/17, 1 - 1/15, 1 - 1/12, 1 - 1/11, 1 - 1/7, 1 - 1/6.
    assert [round(step.share, 4) for step in steps] == [
        0.8571,
        0.8067,
        0.7529,
        0.6902,
        0.6275,
        0.5378,
        0.4482,
    ]


def test_with_nothing_lost_the_curve_is_the_share_that_is_left() -> None:
    steps = kaplan_meier(PLACEBO_ENDED, [])
    for step in steps:
        left = sum(at > step.at_ms for at in PLACEBO_ENDED)
        assert step.share == pytest.approx(left / len(PLACEBO_ENDED))


def test_a_span_lost_at_the_moment_of_an_end_was_still_there() -> None:
    assert kaplan_meier([5], [5]) == [Step(5, 0.5)]
    assert kaplan_meier([5], [4]) == [Step(5, 0.0)]


def test_a_span_that_can_never_end_stays_to_the_last() -> None:
    steps = kaplan_meier([5, 9], [None, None])
    assert [step.share for step in steps] == pytest.approx([0.75, 0.5])


def test_no_spans_have_no_steps() -> None:
    assert kaplan_meier([], []) == []
    assert kaplan_meier([], [7, None]) == []
    assert share_at([], 100) == 1.0


def test_the_share_holds_from_each_step_to_the_next() -> None:
    steps = [Step(5, 0.5), Step(9, 0.25)]
    assert [share_at(steps, at_ms) for at_ms in (4, 5, 8, 9, 99)] == [1.0, 0.5, 0.5, 0.25, 0.25]


def test_quantiles_of_the_textbooks() -> None:
    treated = [Span(State.ENDED, point(at)) for at in TREATED_ENDED]
    treated += [still_open(at) for at in TREATED_FOLLOWED if at is not None]
    assert quantile(treated, 0.5) == Quantile(0.5, 23, 23)
    assert quantile(treated, 0.25) == Quantile(0.25, 13, 13)
    assert quantile(treated, 0.95) == Quantile(0.95, None, None)
    placebo = [Span(State.ENDED, point(at)) for at in PLACEBO_ENDED]
    assert quantile(placebo, 0.5) == Quantile(0.5, 8, 8)
    assert quantile(placebo, 0.95) == Quantile(0.95, 22, 22)


def test_leaving_out_what_is_open_would_flatter_and_counting_it_does_not() -> None:
    fleet = [ended(1_000, 1_100) for _ in range(9)] + [still_open(600_000)]
    found = summary(fleet)
    assert found.p50 == Quantile(0.5, 1_000, 1_100)
    assert found.p95 == Quantile(0.95, None, None)
    assert (found.count, found.ended_count, found.ended_ratio) == (10, 9, 0.9)


def test_a_fleet_that_failed_never_reaches_its_median() -> None:
    assert quantile([ended(5, 5), NEVER, NEVER], 0.5) == Quantile(0.5, None, None)


def test_a_quantile_of_nothing_is_not_reached() -> None:
    assert summary([]).p50 == Quantile(0.5, None, None)
    assert summary([]).ended_ratio is None


def test_an_end_without_an_upper_bound_may_have_been_or_not() -> None:
    assert quantile([ended(5, None)], 0.5) == Quantile(0.5, 5, None)


def test_the_band_is_wider_than_the_curves_of_all_lower_and_all_upper_bounds() -> None:
    spans = [ended(8, 10), ended(8, 14), still_open(9)]
    assert share_at(kaplan_meier([8, 8], [9]), 12) == pytest.approx(1 / 3)
    assert share_at(kaplan_meier([10, 14], [9]), 12) == pytest.approx(1 / 2)
    # The first at 8 and the second at 14; the first at 10 and the second at 12.
    assert highest_share(spans, 12) == share_at(kaplan_meier([8, 14], [9]), 12) == 1 - 1 / 3
    assert lowest_share(spans, 12) == share_at(kaplan_meier([10, 12], [9]), 12) == 0


spans_and_truths = st.lists(
    st.tuples(
        st.sampled_from(State),
        st.integers(0, 30),
        st.integers(0, 12),
        st.integers(0, 12),
    ),
    max_size=12,
)


@given(spans_and_truths, st.integers(0, 45), st.floats(0.01, 0.99))
def test_the_curve_of_the_truth_lies_within_the_band(
    drawn: list[tuple[State, int, int, int]], at_ms: int, ratio: float
) -> None:
    spans: list[Span] = []
    ends: list[int] = []
    losses: list[int | None] = []
    for state, truth_ms, below_ms, above_ms in drawn:
        around = Interval(max(0, truth_ms - below_ms), truth_ms + above_ms)
        match state:
            case State.ENDED:
                ends.append(truth_ms)
            case State.NEVER:
                losses.append(None)
            case State.WITHDRAWN:
                losses.append(truth_ms)
            case State.OPEN:
                losses.append(truth_ms)
                around = Interval(truth_ms, None)
        spans.append(Span(state, around))
    steps = kaplan_meier(ends, losses)
    share = share_at(steps, at_ms)
    assert lowest_share(spans, at_ms) - 1e-12 <= share <= highest_share(spans, at_ms) + 1e-12

    truth_at = next((step.at_ms for step in steps if step.share <= 1 - ratio + 1e-9), None)
    held = quantile(spans, ratio)
    if truth_at is None:
        assert held.hi_ms is None
    else:
        assert held.lo_ms is not None
        assert held.lo_ms <= truth_at
        assert held.hi_ms is None or truth_at <= held.hi_ms


@given(st.integers(0, 2**32))
def test_the_order_of_devices_does_not_matter(seed: int) -> None:
    random = Random(seed)
    spans = [ended(lo, lo + random.randint(0, 9)) for lo in random.choices(range(50), k=8)]
    spans += [still_open(random.randint(0, 60)), NEVER]
    before = summary(spans)
    random.shuffle(spans)
    assert summary(spans) == before
