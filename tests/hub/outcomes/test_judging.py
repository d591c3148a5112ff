"""Judgements over fleets of which the truth is known, with figures that were measured before."""

import math
import statistics
from random import Random

import pytest

from hub.outcomes.canary import Bet, Cycle, after, judge_canary
from hub.outcomes.normal_range import HOLD_AT, judge_rate, log_evidence
from hub.outcomes.ratio_mismatch import judge_ratio, log_bayes_factor
from hub.outcomes.regional import Observed, judge_pattern, pattern
from hub.outcomes.regression import Change, judge_p95
from hub.outcomes.verdicts import Call


def first_alarm(rate: float, allowed: float, looks: int, dice: Random) -> int | None:
    """Return the case at which a rate is called a breach, None if never."""
    breaches = 0
    for case in range(1, looks + 1):
        breaches += dice.random() < rate
        if log_evidence(breaches, case - breaches, allowed) >= math.log(HOLD_AT):
            return case
    return None


def test_a_normal_rate_watched_at_every_case_is_called_a_breach_once_in_twenty_at_most() -> None:
    alarms = [first_alarm(0.3, 0.3, 400, Random(n)) for n in range(300)]
    assert sum(each is not None for each in alarms) / len(alarms) <= 0.05


@pytest.mark.parametrize(("rate", "median"), [(0.5, 41), (0.7, 10)])
def test_a_rate_that_is_too_high_is_found_after_about_so_many_cases(
    rate: float, median: int
) -> None:
    alarms = [first_alarm(rate, 0.3, 2000, Random(n)) for n in range(200)]
    found = [each for each in alarms if each is not None]
    assert len(found) == len(alarms)
    assert statistics.median(found) == pytest.approx(median, rel=0.4)


@pytest.mark.parametrize(
    ("breaches", "others", "call"),
    [
        (0, 0, Call.TOO_LITTLE_EVIDENCE),
        (0, 10, Call.TOO_LITTLE_EVIDENCE),
        (0, 100, Call.OK),
        (1, 9, Call.TOO_LITTLE_EVIDENCE),
        (6, 4, Call.BREACH),
        (30, 970, Call.OK),
    ],
)
def test_a_rate_is_judged_by_what_so_many_cases_can_tell(
    breaches: int, others: int, call: Call
) -> None:
    found = judge_rate(
        "failure_rate", "updates that failed", breaches=breaches, others=others, allowed_ratio=0.05
    )
    assert found.call is call
    assert found.sentence.endswith(".")
    assert found.evidence
    assert found.uncertainty


@pytest.mark.parametrize("allowed", [0, 1, -0.1, math.nan])
def test_a_rate_that_cannot_be_allowed_is_refused(allowed: float) -> None:
    with pytest.raises(ValueError, match="allowed rate"):
        log_evidence(1, 1, allowed)


def watched(
    canary: int, rest: int, rates: tuple[float, float], cycles: int, seed: int
) -> list[Bet]:
    dice, bet, found = Random(seed), Bet(), []
    for _ in range(cycles):
        failed = [sum(dice.random() < rates[0] for _ in range(canary)),
                  sum(dice.random() < rates[1] for _ in range(rest))]  # fmt: skip
        bet = after(bet, Cycle(canary, failed[0], rest, failed[1]))
        found.append(bet)
    return found


def test_a_canary_like_the_rest_is_rarely_blamed_however_long_it_is_watched() -> None:
    runs = [watched(5, 45, (0.05, 0.05), 60, seed) for seed in range(200)]
    blamed = sum(any(b.log_evidence >= math.log(HOLD_AT) for b in run) for run in runs)
    assert blamed / len(runs) <= 0.05


def test_two_of_ten_that_fail_ten_times_as_often_are_found_within_some_cycles() -> None:
    found = []
    for seed in range(100):
        run = watched(2, 8, (0.3, 0.03), 60, seed)
        found.append(next((n for n, bet in enumerate(run, 1)
                           if judge_canary(bet).call is Call.BREACH), 61))  # fmt: skip
    assert statistics.median(found) <= 20


def test_a_canary_of_one_look_is_not_judged() -> None:
    assert judge_canary(after(Bet(), Cycle(1, 1, 9, 0))).call is Call.TOO_LITTLE_EVIDENCE


def p95_of(dice: Random, slow: float, times: float) -> float:
    values = sorted(slow * times * math.exp(dice.gauss(0, 0.5)) for _ in range(300))
    return values[284]


def changes_of(count: int, canary: int, times: float, seed: int) -> list[Change]:
    dice, found = Random(seed), []
    for number in range(count):
        slow = math.exp(dice.gauss(0, 0.5))
        ratio = times if number < canary else 1.0
        found.append(Change(f"d{number}", number < canary,
                            p95_of(dice, slow, 1), p95_of(dice, slow, ratio)))  # fmt: skip
    return found


@pytest.mark.parametrize(("count", "canary"), [(10, 2), (40, 4)])
def test_a_p95_that_did_not_change_is_called_slower_once_in_twenty_at_most(
    count: int, canary: int
) -> None:
    calls = [judge_p95("pause_s", changes_of(count, canary, 1.0, n)).call for n in range(100)]
    assert calls.count(Call.BREACH) / len(calls) <= 0.1  # 5 %, and what 100 runs may add


@pytest.mark.parametrize(("count", "canary", "power"), [(10, 2, 0.75), (40, 4, 0.95)])
def test_a_p95_that_is_a_third_longer_is_found(count: int, canary: int, power: float) -> None:
    calls = [judge_p95("pause_s", changes_of(count, canary, 1.3, n)).call for n in range(50)]
    assert calls.count(Call.BREACH) / len(calls) >= power


def test_one_canary_of_ten_is_not_judged_and_the_floor_is_printed() -> None:
    found = judge_p95("pause_s", changes_of(10, 1, 3.0, 1))
    assert found.call is Call.TOO_LITTLE_EVIDENCE
    assert found.p_min == pytest.approx(0.1)
    assert "0.1" in found.uncertainty


def test_a_change_within_what_is_allowed_is_no_regression() -> None:
    found = judge_p95("pause_s", changes_of(60, 20, 1.1, 3), allowed_ratio=1.5)
    assert found.call is Call.OK


def test_arms_as_intended_are_fine_and_a_wrong_share_is_unhealthy() -> None:
    shares = {"on": 0.05, "off": 0.95}
    assert judge_ratio({"on": 50, "off": 950}, shares).call is Call.OK
    assert judge_ratio({"on": 100, "off": 900}, shares).call is Call.UNHEALTHY
    assert judge_ratio({"on": 3, "off": 7}, shares).call is Call.TOO_LITTLE_EVIDENCE
    assert judge_ratio({"on": 50, "off": 950, "lost": 9}, shares).call is Call.UNHEALTHY


def test_shares_as_intended_are_never_called_wrong_though_watched_all_the_time() -> None:
    shares = {"on": 0.05, "off": 0.95}
    for seed in range(20):
        dice, counts = Random(seed), {"on": 0, "off": 0}
        for _ in range(3000):
            counts["on" if dice.random() < 0.05 else "off"] += 1
            assert log_bayes_factor(counts, shares) < math.log(1000)


def fleet(count: int, guilty: str, seed: int, *, mixed: float) -> list[Observed]:
    """Return a fleet in which all pumps stand in the south but for a share, and one label fails."""
    dice, found = Random(seed), []
    for _ in range(count):
        region = dice.choice(["north", "south", "east"])
        kind = "pump" if (region == "south") != (dice.random() < mixed) else "lamp"
        labels = {"region": region, "class": kind, "network": dice.choice(["lte", "wifi"])}
        is_hit = (guilty, labels.get(guilty.partition("=")[0])) == (
            guilty,
            guilty.partition("=")[2],
        )
        found.append(Observed(labels, dice.random() < (0.3 if is_hit else 0.03)))
    return found


@pytest.mark.parametrize("guilty", ["region=south", "class=pump"])
def test_the_guilty_label_is_named_and_not_the_one_that_goes_with_it(guilty: str) -> None:
    named = []
    for seed in range(12):
        found = pattern(fleet(400, guilty, seed, mixed=0.2), Random(1).shuffle)
        named.append([f"{each.label}={each.value}" for each in found.culprits])
    assert sum(each == [guilty] for each in named) >= 9, named


def test_labels_that_go_together_always_are_not_told_apart() -> None:
    found = [
        judge_pattern(fleet(400, "region=south", seed, mixed=0.0), Random(1).shuffle)
        for seed in range(12)
    ]
    undecided = [each for each in found if each.call is Call.TOO_LITTLE_EVIDENCE]
    assert len(undecided) >= 8
    assert "cannot be told apart" in undecided[0].sentence
    assert all("class=" not in each.sentence for each in found if each.call is Call.BREACH)


def test_failures_without_a_pattern_blame_nobody() -> None:
    blamed = 0
    for seed in range(40):
        found = pattern(fleet(150, "none=x", seed, mixed=0.2), Random(1).shuffle)
        blamed += bool(found.culprits or found.inseparable)
    assert blamed <= 4


def test_a_small_fleet_says_that_it_cannot_tell() -> None:
    few = [Observed({"region": "north" if n < 5 else "south"}, n < 2) for n in range(10)]
    found = judge_pattern(few, Random(1).shuffle)
    assert found.call is Call.TOO_LITTLE_EVIDENCE
    assert "Too few failures" in found.sentence
