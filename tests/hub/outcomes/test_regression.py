"""The P95 of each device against itself, canaries against the rest."""

from math import exp
from random import Random

import pytest

from hub.outcomes.regression import Change, change_of, judge_p95, judge_watched_p95
from hub.outcomes.verdicts import Judgement, Ruling


def _p95(random: Random, level: float) -> float:
    return exp(sorted(random.gauss(level, 0.5) for _ in range(300))[285])


def rollout(random: Random, count: int, canaries: int, ratio: float) -> list[Change]:
    """Return changes of devices that differ as much from each other as their own values do."""
    found = []
    for number in range(count):
        level = random.gauss(0, 0.5)
        is_canary = number < canaries
        after = _p95(random, level) * (ratio if is_canary else 1)
        found.append(
            Change(
                device=f"d{number}", is_canary=is_canary, before=_p95(random, level), after=after
            )
        )
    return found


def _share(random: Random, many: int, count: int, canaries: int, ratio: float) -> float:
    found = [judge_p95(rollout(random, count, canaries, ratio)) for _ in range(many)]
    return sum(each.verdict is Ruling.BREACH for each in found) / many


def test_ten_devices_with_two_canaries_find_a_third_more_and_do_not_cry_wolf() -> None:
    assert _share(Random(1), 150, 10, 2, 1.0) <= 0.08
    assert _share(Random(2), 100, 10, 2, 1.3) >= 0.8


def test_forty_devices_with_four_canaries_find_a_third_more_nearly_always() -> None:
    assert _share(Random(3), 40, 40, 4, 1.3) >= 0.85


def test_one_canary_of_ten_can_never_tell_and_says_so() -> None:
    judged = judge_p95(rollout(Random(4), 10, 1, 50.0))
    assert judged.verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert judged.p_min == pytest.approx(0.1)
    assert "0.100" in judged.sentence


def test_a_regression_shows_its_size_between_bounds_and_the_floor() -> None:
    judged = judge_p95(rollout(Random(5), 40, 8, 2.0))
    assert judged.verdict is Ruling.BREACH
    estimate = judged.estimate
    assert estimate is not None
    assert estimate.lo is not None
    assert estimate.hi is not None
    assert estimate.lo <= 2.0 <= estimate.hi
    assert any("p_min" in line for line in judged.evidence)


def test_what_is_allowed_is_no_breach() -> None:
    changes = rollout(Random(6), 200, 40, 1.2)
    assert judge_p95(changes).verdict is Ruling.BREACH
    assert judge_p95(changes, allowed=1.5).verdict is Ruling.OK


def test_many_devices_without_a_change_are_ok() -> None:
    assert judge_p95(rollout(Random(7), 1000, 50, 1.0)).verdict is Ruling.OK


def test_a_side_without_devices_is_too_little() -> None:
    judged: Judgement = judge_p95(rollout(Random(8), 5, 0, 1.0))
    assert judged.verdict is Ruling.TOO_LITTLE_EVIDENCE


class Sorted:
    """Values as they are: the simplest sketch."""

    def __init__(self, values: list[float]) -> None:
        self.values = sorted(values)

    def quantile(self, q: float) -> float:
        """Return the value at a rank."""
        return self.values[int(q * (len(self.values) - 1))]


def test_sketches_give_the_change_of_a_device() -> None:
    before, after = Sorted([1.0] * 100), Sorted([1.0] * 90 + [3.0] * 10)
    change = change_of("pump-7", before, after, is_canary=True)
    assert (change.before, change.after) == (1.0, 3.0)


def test_a_frozen_p95_may_be_watched_all_the_time() -> None:
    random = Random(9)
    alarms = sum(
        judge_watched_p95([random.random() for _ in range(500)], baseline=0.95).verdict
        is Ruling.BREACH
        for _ in range(100)
    )
    assert alarms <= 5
    slow = judge_watched_p95([1.3 * random.random() for _ in range(500)], baseline=0.95)
    assert slow.verdict is Ruling.BREACH
