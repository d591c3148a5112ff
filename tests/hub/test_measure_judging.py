"""Judgements on what applications and devices told of under a release: cases, canaries, crashes."""

from typing import Any

import httpx
import pytest

from hub.store import baseline
from sync.series import Series
from tests.hub.core import Core
from tests.hub.test_slower import DAY_S, Fleet

OLD, NEW = "lamp@0.9.0", "lamp@1.0.0"


class Told(Fleet):
    """Devices of which some took lamp 1.0.0, and what their applications tell."""

    def end(self, number: int, intent: str, reached: str = "open", by: str = "") -> None:
        """Tell of a door that should have been open."""
        release = NEW if number < self.canaries else OLD
        self.tellers[number].case(intent, "open", reached, by=by, release=release)

    def ran(self, number: int, hours: float, crash_free: float) -> None:
        """Tell of hours, all of them so far."""
        self.tellers[number].counter(Series("device.hours"), hours)
        self.tellers[number].counter(Series("device.crash_free_hours"), crash_free)


async def answer_of(client: httpx.AsyncClient, deployment: str) -> dict[str, Any]:
    answer = (await client.get(f"/deployments/{deployment}/verdicts")).json()
    return {each["name"]: each for each in answer["judgements"]} | {"": answer}


async def test_cases_that_people_end_are_a_breach_and_each_device_counts_once(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Told(core, 12, 10)
    deployment = await fleet.deploy(client, "ring=canary")
    core.pass_time(60)
    for number in range(10):
        fleet.end(number, "i1", by="human" if number < 9 else "automatic")
        core.pass_time(5)
        for later in range(2, 9):
            fleet.end(number, f"i{later}", by="automatic")
    fleet.end(11, "i1", by="human")
    found = (await answer_of(client, deployment))["case_fallback"]
    assert found["verdict"] == "breach"
    assert found["sentence"].startswith("9 of 10 devices needed a person")
    assert found["evidence"][-1] == "9 of 80 cases in all"
    assert found["devices"] == [f"d{number:02}" for number in range(9)]


async def test_cases_from_before_the_deployment_count_for_nothing(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Told(core, 12, 12)
    for number in range(12):
        fleet.end(number, "i1", by="human")
    core.pass_time(60)
    deployment = await fleet.deploy(client, "ring=canary")
    found = await answer_of(client, deployment)
    assert "case_fallback" not in found
    assert "no application has told" in found[""]["not_asked"]["case_fallback"]


@pytest.mark.parametrize(("astray", "verdict"), [(3, "breach"), (12, "too_little_evidence")])
async def test_canaries_that_go_astray_day_after_day_are_told_from_the_rest(
    client: httpx.AsyncClient, core: Core, astray: int, verdict: str
) -> None:
    """Where all go astray, it is not the release: then nothing is held against it."""
    fleet = Told(core, 12, 4)
    deployment = await fleet.deploy(client, "ring=canary")
    for day in range(9):
        core.pass_time(DAY_S / 2)
        for number in range(12):
            is_astray = number < astray and (day + number) % 4
            fleet.end(number, f"day{day}", "ajar" if is_astray else "open")
        core.pass_time(DAY_S / 2)
    found = (await answer_of(client, deployment))["canary"]
    assert found["verdict"] == verdict
    if verdict == "breach":
        assert found["sentence"].startswith("Canaries fail more often than the rest")


async def test_a_day_that_is_not_over_is_not_counted(client: httpx.AsyncClient, core: Core) -> None:
    fleet = Told(core, 6, 3)
    deployment = await fleet.deploy(client, "ring=canary")
    core.pass_time(60)
    for number in range(6):
        fleet.end(number, "i1")
    assert "canary" in (await answer_of(client, deployment))[""]["not_asked"]
    core.pass_time(DAY_S)
    found = (await answer_of(client, deployment))["canary"]
    assert "canaries failed in 0 of 3 cases and the rest in 0 of 3" in found["sentence"]


async def test_crashes_under_the_release_are_counted_from_its_acceptance_on(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Told(core, 12, 10)
    for number in range(12):
        fleet.ran(number, 5, 4)  # an hour with a crash long before
    deployment = await fleet.deploy(client, "ring=canary")
    for number in range(12):
        fleet.ran(number, 53, 51 if number < 4 or number == 11 else 52)
    found = (await answer_of(client, deployment))["crash_free"]
    assert found["verdict"] == "too_little_evidence"
    core.pass_time(DAY_S)
    found = (await answer_of(client, deployment))["crash_free"]
    assert found["verdict"] == "breach"
    assert found["devices"] == ["d00", "d01", "d02", "d03"]
    assert found["evidence"][0] == "476 of 480 hours of 10 devices without a crash"
    fleet.ran(5, 200, 100)
    assert (await answer_of(client, deployment))["crash_free"] == found


async def test_hours_that_were_counted_anew_say_nothing(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Told(core, 3, 3)
    for number in range(3):
        fleet.ran(number, 500, 500)
    deployment = await fleet.deploy(client, "ring=canary")
    core.pass_time(DAY_S)
    for number in range(3):
        fleet.ran(number, 24, 20)
    assert "crash_free" in (await answer_of(client, deployment))[""]["not_asked"]


async def test_what_was_frozen_of_a_device_goes_with_the_device(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Told(core, 2, 1)
    fleet.measure_all(1.0)
    fleet.ran(0, 1, 1)
    await fleet.deploy(client, "ring=canary")
    assert len(core.rows("SELECT * FROM baseline")) == 2 + len(baseline.VITALS)
    assert (await client.delete("/devices/d00")).status_code in {200, 204}
    left = core.rows("SELECT d.id FROM baseline AS b JOIN device AS d ON d.n = b.device")
    assert left == [("d01",)] == core.rows("SELECT id FROM device")
