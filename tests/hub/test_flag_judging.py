"""Judgements on a flag, from what devices read and measured."""

from collections import Counter
from math import comb
from random import Random
from typing import Any

import httpx
import pytest

from hub.outcomes.ratio_mismatch import judge_counted
from hub.outcomes.verdicts import Ruling
from sync.series import Series
from tests.fakes.fleet import FleetDevice
from tests.hub.core import Core
from tests.hub.flagged import definition, fleet, reads
from tests.hub.told_measures import Teller
from tests.hub.web import check_problem

FLAG = "pump-fast"


async def dealt(client: httpx.AsyncClient, share: float) -> set[str]:
    """Define the flag, deal it out, and return to whom."""
    await client.put(f"/groups/all/flags/{FLAG}", json={"definition": definition()})
    answer = await client.put(f"/groups/all/flags/{FLAG}/share", json={"share": share})
    assert answer.status_code == 200, answer.text
    shown = (await client.get(f"/flags/{FLAG}")).json()
    return {each["device"] for each in shown["groups"][0]["cohort"]}


def all_read(core: Core, devices: list[FleetDevice], chosen: set[str]) -> None:
    for device in devices:
        reads(core, device, FLAG, "on" if device.name in chosen else "off")


def measured(
    core: Core, devices: list[FleetDevice], chosen: set[str], *, times: float, metric: str
) -> None:
    """Let every device measure; those that have the flag are slower by so much."""
    dice = Random(metric)
    for number, device in enumerate(devices):
        variant = "on" if device.name in chosen else "off"
        own = dice.uniform(0.9, 1.1) * (times if variant == "on" else 1.0)
        values = [own * dice.uniform(5.0, 10.0) for _ in range(50)]
        series = Series(metric, "app@1.4.0", f"{FLAG}={variant}")
        Teller(core, device, number).histogram(series, values)


async def judged(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    answer = await client.get(f"/flags/{FLAG}/verdicts")
    assert answer.status_code == 200, answer.text
    (group,) = answer.json()["groups"]
    return {each["name"]: each for each in group["judgements"]} | {"": group}


async def test_a_variant_that_is_slower_is_found_and_one_that_is_not_is_not(
    client: httpx.AsyncClient, core: Core
) -> None:
    devices = fleet(core, 40)
    chosen = await dealt(client, 0.5)
    assert len(chosen) == 20
    all_read(core, devices, chosen)
    measured(core, devices, chosen, times=1.3, metric="pump.start_s")
    measured(core, devices, chosen, times=1.0, metric="pump.stop_s")
    early = await judged(client)
    assert early["p95_pump.start_s"]["sentence"].startswith("It is looked at once, 2026-")
    core.pass_time(86_400)
    found = await judged(client)
    assert found["p95_pump.start_s"]["verdict"] == "breach"
    assert found["p95_pump.stop_s"]["verdict"] == "ok"
    assert found["p95_pump.stop_s"]["alpha"] == 0.025
    assert found["sample_ratio"]["verdict"] == found["multiple_exposure"]["verdict"] == "ok"
    assert (found[""]["verdict"], found[""]["read_count"]) == ("breach", 40)


async def test_an_arm_of_which_devices_drop_out_is_not_compared(
    client: httpx.AsyncClient, core: Core
) -> None:
    devices = fleet(core, 80)
    chosen = await dealt(client, 0.5)
    dead = set(sorted(chosen)[:32])
    all_read(core, [each for each in devices if each.name not in dead], chosen)
    found = await judged(client)
    assert found["sample_ratio"]["verdict"] == "unhealthy"
    assert found[""]["verdict"] == "unhealthy"


async def test_devices_that_ran_both_variants_are_named_and_left_out(
    client: httpx.AsyncClient, core: Core
) -> None:
    devices = fleet(core, 20)
    chosen = await dealt(client, 0.5)
    all_read(core, devices, chosen)
    measured(core, devices, chosen, times=1.0, metric="pump.start_s")
    mixed = devices[3]
    reads(core, mixed, FLAG, "on", variants_count=2)
    found = await judged(client)
    assert found["multiple_exposure"]["verdict"] == "unhealthy"
    assert found["multiple_exposure"]["devices"] == [mixed.name]
    assert mixed.name not in found["p95_pump.start_s"]["devices"]


async def test_two_canaries_of_ten_say_what_they_can_tell_and_one_says_that_it_cannot(
    client: httpx.AsyncClient, core: Core
) -> None:
    devices = fleet(core, 10)
    chosen = await dealt(client, 0.1)
    all_read(core, devices, chosen)
    measured(core, devices, chosen, times=2.0, metric="pump.start_s")
    core.pass_time(86_400)
    found = await judged(client)
    assert found["p95_pump.start_s"]["p_min"] == pytest.approx(1 / 10)
    assert found["p95_pump.start_s"]["verdict"] == "too_little_evidence"
    assert "can never tell" in found["p95_pump.start_s"]["sentence"]
    chosen = await dealt(client, 0.2)
    all_read(core, devices, chosen)
    measured(core, devices, chosen, times=2.0, metric="pump.start_s")
    core.pass_time(86_400)
    found = await judged(client)
    assert found["p95_pump.start_s"]["p_min"] == pytest.approx(1 / 45)
    assert found["p95_pump.start_s"]["verdict"] == "breach"


async def test_who_was_registered_later_counts_in_no_arm(
    client: httpx.AsyncClient, core: Core
) -> None:
    devices = fleet(core, 20)
    chosen = await dealt(client, 0.5)
    core.pass_time(60)
    later = fleet(core, 20, first=20)
    all_read(core, [*devices, *later], chosen)
    found = await judged(client)
    assert (found[""]["rest_count"], found[""]["read_count"]) == (10, 20)
    assert found["sample_ratio"]["verdict"] == "ok"


async def test_a_flag_that_is_dealt_out_nowhere_is_not_judged(client: httpx.AsyncClient) -> None:
    await client.put(f"/groups/all/flags/{FLAG}", json={"definition": definition()})
    check_problem(await client.get(f"/flags/{FLAG}/verdicts"), 404, "nothing to compare")


@pytest.mark.parametrize("on", [0.05, 0.3, 0.5])
def test_the_evidence_against_right_sizes_is_one_on_average(on: float) -> None:
    """What makes it safe to look as often as one likes (an e-value)."""
    wanted = {"on": on, "off": 1 - on}
    for total in (1, 7, 40):
        average = 0.0
        for count in range(total + 1):
            found = judge_counted({"on": count, "off": total - count}, wanted).e_value
            assert found is not None
            average += comb(total, count) * on**count * (1 - on) ** (total - count) * found
        assert average == pytest.approx(1.0)


def test_right_sizes_are_seldom_called_wrong_however_often_one_looks() -> None:
    dice = Random(6)
    wrong = 0
    for _ in range(400):
        counts: Counter[str] = Counter()
        for _ in range(300):
            counts["on" if dice.random() < 0.1 else "off"] += 1
            found = judge_counted(counts, {"on": 0.1, "off": 0.9}, alpha=0.05)
            if found.verdict is Ruling.UNHEALTHY:
                wrong += 1
                break
    assert wrong <= 400 * 0.05
