"""Canaries against the rest, looked at after every cycle."""

from random import Random
from statistics import median

from hub.outcomes.canary import Cycle, compare, judge_canary
from hub.outcomes.verdicts import Ruling


def cycles(
    random: Random, counts: tuple[int, int], rates: tuple[float, float], many: int
) -> list[Cycle]:
    """Return cycles of a rest and canaries that fail at these rates."""
    rest, canary = counts
    return [
        Cycle(
            rest_count=rest,
            rest_failed=sum(random.random() < rates[0] for _ in range(rest)),
            canary_count=canary,
            canary_failed=sum(random.random() < rates[1] for _ in range(canary)),
        )
        for _ in range(many)
    ]


def test_groups_that_fail_alike_are_seldom_told_apart() -> None:
    random = Random(1)
    for rate in (0.03, 0.3):
        alarms = sum(
            compare(cycles(random, (8, 2), (rate, rate), 60)).crossed_at is not None
            for _ in range(150)
        )
        assert alarms / 150 <= 0.05


def test_two_of_ten_that_fail_ten_times_as_often_are_found_within_a_dozen_cycles() -> None:
    random = Random(2)
    found = [compare(cycles(random, (8, 2), (0.03, 0.3), 60)).crossed_at for _ in range(100)]
    assert median(at or 999 for at in found) <= 12


def test_fifty_of_a_thousand_that_fail_twice_as_often_are_found_within_a_dozen_cycles() -> None:
    random = Random(3)
    found = [compare(cycles(random, (950, 50), (0.03, 0.06), 40)).crossed_at for _ in range(20)]
    assert median(at or 999 for at in found) <= 12


def test_the_verdict_names_the_cycle_and_both_counts() -> None:
    worse = [Cycle(rest_count=8, rest_failed=0, canary_count=2, canary_failed=2)] * 8
    judged = judge_canary(worse)
    assert judged.verdict is Ruling.BREACH
    assert "in 16 of 16 cases and the rest in 0 of 64" in judged.sentence


def test_few_clean_cycles_are_too_little_and_many_are_ok() -> None:
    clean = Cycle(rest_count=8, rest_failed=0, canary_count=2, canary_failed=0)
    assert judge_canary([clean] * 2).verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert judge_canary([clean] * 40).verdict is Ruling.OK
    assert judge_canary([]).verdict is Ruling.TOO_LITTLE_EVIDENCE


def test_better_canaries_are_no_breach() -> None:
    better = [Cycle(rest_count=8, rest_failed=4, canary_count=2, canary_failed=0)] * 40
    assert compare(better).e_value == 1.0
