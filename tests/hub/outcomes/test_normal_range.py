"""What is normal, watched after every case."""

from random import Random
from statistics import median

import pytest

from hub.outcomes.fallback import Finished, judge_fallback, touchpoints
from hub.outcomes.normal_range import judge_normal, watch
from hub.outcomes.verdicts import Ruling


def test_a_rate_at_the_limit_is_seldom_called_a_breach_though_every_case_is_looked_at() -> None:
    random = Random(1)
    alarms = sum(
        watch((random.random() < 0.3 for _ in range(1500)), normal=0.3).crossed_at is not None
        for _ in range(200)
    )
    # 3.3 % over 1,500 looks; a test made for one look raises 40 % here.
    assert alarms / 200 <= 0.05


@pytest.mark.parametrize(("rate", "within"), [(0.5, 60), (0.7, 15)])
def test_a_rate_above_the_limit_is_found_soon(rate: float, within: int) -> None:
    random = Random(2)
    found = [
        watch((random.random() < rate for _ in range(600)), normal=0.3).crossed_at
        for _ in range(60)
    ]
    assert median(at or 10_000 for at in found) <= within


def test_evidence_that_was_enough_once_stays_enough() -> None:
    seen = watch([True] * 20 + [False] * 1000, normal=0.3)
    assert seen.crossed_at is not None
    assert seen.e_value >= 20


def test_a_normal_share_of_none_or_all_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, not 0"):
        watch([True], normal=0)


def test_few_good_cases_are_too_little_evidence() -> None:
    judged = judge_normal("x", [False] * 5, normal=0.3, what="pumps leaked")
    assert judged.verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert judged.sentence.startswith("0 of 5 pumps leaked: too few")


def test_bounds_inside_the_range_are_certainly_ok() -> None:
    judged = judge_normal("x", [False] * 60, normal=0.05, what="pumps leaked")
    assert judged.verdict is Ruling.OK
    assert "certainly" in judged.sentence


def test_no_case_says_nothing() -> None:
    judged = judge_normal("x", [], normal=0.3, what="pumps leaked")
    assert judged.verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert judged.estimate is not None
    assert judged.estimate.value is None


def _finished(helped: int, alone: int) -> list[Finished]:
    acts = [("deployment.terms", "device.revoke")] * helped + [()] * alone
    return [
        Finished(device=f"d{number}", ended_at_ms=number, actions=actions)
        for number, actions in enumerate(acts)
    ]


def test_people_who_help_with_most_updates_are_a_breach() -> None:
    judged = judge_fallback(_finished(12, 2))
    assert judged.verdict is Ruling.BREACH
    assert judged.sentence.startswith("12 of 14 finished updates needed a person")
    assert len(judged.devices) == 12
    assert "12 x deployment.terms" in judged.evidence


def test_two_actions_on_one_device_are_one_fallback_and_two_touchpoints() -> None:
    finished = _finished(1, 9)
    assert judge_fallback(finished).estimate.value == pytest.approx(0.1)  # type: ignore[union-attr]
    assert touchpoints(finished) == pytest.approx(200)
    assert touchpoints([]) is None
