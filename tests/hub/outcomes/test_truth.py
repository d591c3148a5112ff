"""Judgements on simulated fleets whose fate is known, in sizes for every day.

`python -m benchmarks truth` does the same with fleets of up to ten thousand devices.
"""

from random import Random

from benchmarks.truth import trials
from benchmarks.truth.fleets import DAY, HOUR, TEN_YEARS, ZERO_MS, Fate, Link, Plan, S, live
from hub.outcomes.silence import Verdict, judge


def test_every_silent_device_is_found_within_a_minute_of_its_deadline_and_no_other() -> None:
    for size, seed in ((10, 1), (40, 2), (400, 3)):
        found = trials.silence(size, seed)
        assert found.planted_count == found.in_time_count > 0
        assert found.false == []


def test_every_interval_holds_the_truth_whatever_the_wall_clocks_say() -> None:
    found = trials.coverage(300, 4)
    assert found.count > 1_000
    assert found.held_count == found.count
    # Intervals that say nothing would hold the truth too.
    assert trials.middle(found.widths_ms) < 1_000


def test_clean_rollouts_raise_no_more_alarms_than_was_promised() -> None:
    found = trials.clean([10] * 60 + [40] * 10, 5)
    assert found.rollouts_count == 70
    # With a chance of 5 % each, eight or more of 70 come once in sixty times.
    assert max(found.by_judgement.values(), default=0) <= 7
    assert found.by_judgement["silent_failures"] == 0


def test_canaries_that_fail_more_often_are_found_in_time() -> None:
    assert trials.middle(trials.canary(10, 2, 0.30, 6)) <= 14


def test_a_guilty_region_is_told_from_the_class_that_goes_with_it() -> None:
    found = trials.region(400, 12, 7)
    assert found.right_count >= 10
    assert found.wrong_count <= 1


def test_a_simulated_device_is_seen_as_the_hub_would_see_it() -> None:
    plan = Plan(device="x", link=Link.DARK_FOR_A_WEEK, fate=Fate.SILENT, wall_skew_ms=-TEN_YEARS)
    life = live(plan, Random(8), until_ms=ZERO_MS + 8 * DAY)
    back_ms = life.sessions[-1][0]
    assert life.connected_ms(back_ms) == 0
    assert life.deadline_ms(60 * S) == back_ms + 60 * S
    away = judge(life.course(ZERO_MS + HOUR), now_ms=ZERO_MS + HOUR, patience_ms=60 * S)
    assert away.verdict is Verdict.UNREACHABLE
    later_ms = back_ms + 400 * S
    found = judge(life.course(later_ms), now_ms=later_ms, patience_ms=60 * S)
    assert found.verdict is Verdict.SILENT
    assert found.evidence_against
