import random
from itertools import pairwise

import pytest

from hub import cohorts
from hub.flags import text_of
from sync.flags import Why, evaluate, parse_flag
from tests.hub.flagged import definition

DEVICES = [f"pump-{number}" for number in range(1000)]


@pytest.mark.parametrize(
    ("share", "eligible", "at_least", "count"),
    [
        (0.05, 10, 1, 1),
        (0.05, 10, 2, 2),
        (0.05, 1000, 2, 50),
        (0.07, 100, 1, 7),
        (0.051, 1000, 1, 51),
        (1e-05, 1000, 1, 1),
        (0.5, 3, 1, 2),
        (1, 3, 1, 3),
        (0.05, 1, 2, 1),
        (0.05, 0, 2, 0),
        (0, 10, 5, 0),
    ],
)
def test_a_share_is_rounded_up_to_whole_devices(
    share: float, eligible: int, at_least: int, count: int
) -> None:
    assert cohorts.size(share, eligible, at_least) == count


@pytest.mark.parametrize("count", [0, 1, 2, 50, 999, 1000])
def test_exactly_so_many_devices_are_in_as_the_devices_themselves_see_it(count: int) -> None:
    dealt = cohorts.deal("pump-fast", DEVICES, count)
    rule = cohorts.rule("on", "off", dealt.weight)
    flag = parse_flag(text_of(definition(targeting=rule)))
    on = {
        device
        for device in DEVICES
        if evaluate("pump-fast", flag, {"targetingKey": device}).variant == "on"
    }
    assert on == set(dealt.devices)
    assert len(on) == count


def test_five_percent_of_ten_devices_is_one_device_in_every_fleet() -> None:
    for fleet in range(200):
        devices = [f"fleet-{fleet}-{number}" for number in range(10)]
        assert len(cohorts.deal("f", devices, cohorts.size(0.05, 10)).devices) == 1


def test_a_larger_cohort_contains_every_smaller_one() -> None:
    chosen = [set(cohorts.deal("f", DEVICES, count).devices) for count in (0, 1, 50, 200, 1000)]
    assert all(smaller < larger for smaller, larger in pairwise(chosen))


def test_who_is_in_does_not_depend_on_the_order_in_which_devices_are_named() -> None:
    mixed = DEVICES.copy()
    random.Random(1).shuffle(mixed)
    assert cohorts.deal("f", mixed, 50) == cohorts.deal("f", DEVICES, 50)


def test_two_flags_do_not_choose_the_same_devices() -> None:
    first, second = (set(cohorts.deal(flag, DEVICES, 100).devices) for flag in ("f", "g"))
    assert len(first & second) < 30


def test_a_weight_that_is_in_force_is_not_lowered() -> None:
    before = cohorts.deal("f", DEVICES, 100)
    after = cohorts.deal("f", DEVICES, 50, least_weight=before.weight)
    assert after == before


def test_the_whole_weight_deals_to_everybody_and_no_weight_to_nobody() -> None:
    assert len(cohorts.dealt("f", DEVICES, cohorts.TOTAL).devices) == 1000
    assert cohorts.dealt("f", DEVICES, 0).devices == ()


def test_a_rule_that_a_person_wrote_is_not_taken_for_one_of_the_hub() -> None:
    assert cohorts.weight_in(cohorts.rule("on", "off", 7)) == ("on", 7)
    for other in (
        {},
        {"fractional": [["on", 5], ["off", 95]]},
        {"fractional": [["on", 1]]},
        {"if": [True, "on", "off"]},
        None,
    ):
        assert cohorts.weight_in(other) is None


def test_the_device_says_that_it_was_dealt_out() -> None:
    flag = parse_flag(text_of(definition(targeting=cohorts.rule("on", "off", cohorts.TOTAL))))
    assert evaluate("f", flag, {"targetingKey": "a"}).reason is Why.SPLIT
