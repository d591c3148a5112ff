"""Arms that do not have the sizes that were decided."""

import re
from random import Random
from statistics import median

import pytest

from hub.outcomes.exposures import Ran, judge_exposures
from hub.outcomes.ratio_mismatch import judge_arms, judge_arrivals
from hub.outcomes.verdicts import Ruling

WANTED = {"on": 5.0, "off": 95.0}


def _found_after(random: Random, share: float, most: int = 6000) -> int | None:
    arms = ("on" if random.random() < share else "off" for _ in range(most))
    judged = judge_arrivals(arms, WANTED)
    found = re.search(r"after (\d+)", judged.sentence)
    assert (found is not None) == (judged.verdict is Ruling.UNHEALTHY)
    return int(found[1]) if found else None


def test_twice_the_decided_share_is_found_after_some_hundred_devices() -> None:
    random = Random(1)
    assert median(_found_after(random, 0.10) or 9999 for _ in range(30)) <= 600


def test_seven_instead_of_five_per_cent_is_found_after_some_thousand_devices() -> None:
    random = Random(2)
    assert median(_found_after(random, 0.07) or 9999 for _ in range(20)) <= 3500


def test_the_decided_share_is_not_called_wrong_though_every_arrival_is_looked_at() -> None:
    random = Random(3)
    assert not [at for _ in range(100) if (at := _found_after(random, 0.05, 2000)) is not None]


def test_one_look_tells_right_arms_from_wrong_ones() -> None:
    assert judge_arms({"on": 52, "off": 948}, WANTED).verdict is Ruling.OK
    wrong = judge_arms({"on": 100, "off": 900}, WANTED)
    assert wrong.verdict is Ruling.UNHEALTHY
    assert "on 100 instead of 50" in wrong.sentence


def test_small_arms_are_too_little_evidence() -> None:
    assert judge_arms({"on": 0, "off": 100}, WANTED).verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert judge_arrivals(["off"] * 20, WANTED).verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert judge_arrivals([], WANTED).verdict is Ruling.TOO_LITTLE_EVIDENCE


def test_an_arm_that_nobody_decided_is_unhealthy() -> None:
    assert judge_arms({"on": 5, "blue": 1}, WANTED).verdict is Ruling.UNHEALTHY
    assert judge_arrivals(["blue"], WANTED).verdict is Ruling.UNHEALTHY


def test_an_arm_without_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="a share above zero"):
        judge_arms({"on": 1}, {"on": 0.0})


def test_devices_that_ran_two_variants_make_a_comparison_unhealthy() -> None:
    ran = [Ran(device=f"d{n}", variant="off") for n in range(50)]
    assert judge_exposures(ran).verdict is Ruling.OK
    judged = judge_exposures([*ran, Ran(device="d3", variant="on"), Ran(device="d3", variant="on")])
    assert judged.verdict is Ruling.UNHEALTHY
    assert judged.devices == ("d3",)
    assert judged.evidence == ("d3 ran off, on",)
    assert judge_exposures([]).verdict is Ruling.TOO_LITTLE_EVIDENCE
