"""Failures that follow a label, and such that only seem to."""

from collections.abc import Callable
from random import Random

from hub.outcomes.regional import Case, judge_pattern, watch_pattern, worst
from hub.outcomes.verdicts import Judgement, Ruling

REGIONS = ("eu-east", "eu-west", "us", "apac")


def fleet(random: Random, count: int, guilty: Callable[[str, str], bool]) -> list[Case]:
    """Return devices of which most pumps stand in eu-east, and a third label without a meaning."""
    cases = []
    for number in range(count):
        region = random.choice(REGIONS)
        kind = "pump" if random.random() < (0.8 if region == "eu-east" else 0.2) else "valve"
        rate = 0.25 if guilty(region, kind) else 0.03
        labels = {"region": region, "class": kind, "board": random.choice("abc")}
        failed = random.random() < rate
        cases.append(Case(device=f"d{number}", labels=labels, failed=failed))
    return cases


def _named(judged: Judgement) -> set[str]:
    return {line.partition("=")[0] for line in judged.evidence if "p =" not in line}


def test_the_guilty_label_is_named_though_another_goes_with_it() -> None:
    random = Random(1)
    by_region = [judge_pattern(fleet(random, 400, lambda r, _: r == "eu-east")) for _ in range(15)]
    assert sum(_named(each) == {"region"} for each in by_region) >= 12
    by_class = [judge_pattern(fleet(random, 400, lambda _, k: k == "pump")) for _ in range(15)]
    assert sum(_named(each) == {"class"} for each in by_class) >= 12


def test_two_labels_that_are_guilty_together_are_named_together_in_a_large_fleet() -> None:
    random = Random(2)
    cases = fleet(random, 5000, lambda region, kind: region == "eu-east" and kind == "pump")
    assert _named(judge_pattern(cases)) == {"region", "class"}


def test_failures_that_follow_nothing_are_seldom_called_a_pattern() -> None:
    random = Random(3)
    found = [judge_pattern(fleet(random, 400, lambda *_: False)) for _ in range(60)]
    assert sum(each.verdict is Ruling.BREACH for each in found) <= 6


def test_watching_all_the_time_does_not_raise_more_false_alarms() -> None:
    random = Random(4)
    alarms = 0
    for _ in range(25):
        cases = fleet(random, 400, lambda *_: False)
        alarms += watch_pattern(cases, expected_count=400).verdict is Ruling.BREACH
    # With a chance of 5 %, five of 25 come once in a hundred times.
    assert alarms <= 4


def test_a_pattern_stays_found_whenever_it_is_looked_at_again() -> None:
    cases = fleet(Random(5), 2000, lambda region, _: region == "us")
    found = [
        watch_pattern(cases[:count], expected_count=2000).verdict for count in range(50, 2000, 150)
    ]
    assert found[-1] is Ruling.BREACH
    assert sorted(found, key=[Ruling.TOO_LITTLE_EVIDENCE, Ruling.BREACH].index) == found


def test_a_small_rollout_is_looked_at_whole() -> None:
    cases = [
        Case(device=str(n), labels={"region": "eu" if n < 20 else "us"}, failed=n < 14)
        for n in range(40)
    ]
    early = watch_pattern(cases[:24], expected_count=40)
    assert early.verdict is Ruling.TOO_LITTLE_EVIDENCE
    judged = watch_pattern(cases, expected_count=40)
    assert judged.verdict is Ruling.BREACH
    assert "region eu carries 100 % of the excess (14 of 20)" in judged.sentence


def test_failures_that_follow_nothing_are_ok_when_nearly_all_have_ended() -> None:
    cases = [
        Case(device=str(n), labels={"region": "ab"[n % 2]}, failed=n % 10 < 2) for n in range(200)
    ]
    assert watch_pattern(cases, expected_count=200).verdict is Ruling.OK
    assert watch_pattern(cases, expected_count=900).verdict is Ruling.TOO_LITTLE_EVIDENCE


def test_labels_that_always_go_together_cannot_be_told_apart() -> None:
    random = Random(6)
    cases = []
    for number in range(300):
        site = random.choice("ab")
        failed = random.random() < (0.3 if site == "a" else 0.02)
        labels = {"site": site, "vendor": "x" + site}
        cases.append(Case(device=f"d{number}", labels=labels, failed=failed))
    judged = judge_pattern(cases)
    assert judged.verdict is Ruling.BREACH
    assert "site and vendor cannot be told apart" in judged.sentence


def test_thirty_devices_with_four_failures_tell_nothing() -> None:
    cases = [Case(device=str(n), labels={"region": "ab"[n % 2]}, failed=n < 4) for n in range(30)]
    judged = judge_pattern(cases)
    assert judged.verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert "too few failures to tell" in judged.sentence


def test_without_failures_there_is_no_pattern() -> None:
    cases = [Case(device=str(n), labels={"region": "a"}, failed=False) for n in range(9)]
    assert judge_pattern(cases).verdict is Ruling.OK
    assert watch_pattern(cases, expected_count=9).verdict is Ruling.OK
    assert judge_pattern([]).verdict is Ruling.TOO_LITTLE_EVIDENCE


def test_a_label_that_each_device_has_for_itself_is_no_pattern() -> None:
    cases = [Case(device=str(n), labels={"serial": str(n)}, failed=n < 10) for n in range(40)]
    assert judge_pattern(cases).verdict is Ruling.TOO_LITTLE_EVIDENCE


def test_the_worst_value_carries_the_excess_and_its_risk() -> None:
    cases = [
        Case(device=f"{region}{n}", labels={"region": region}, failed=n < bad)
        for region, count, bad in (("east", 73, 19), ("west", 100, 2), ("north", 100, 3))
        for n in range(count)
    ]
    found = worst(cases, "region")
    assert found.value == "east"
    assert (found.failed_count, found.count) == (19, 73)
    assert round(found.risk_ratio or 0, 1) == 10.4
    assert 0.99 < found.excess_ratio <= 1.0
