"""Whether a release made something slower, from the histograms that devices tell a hub."""

from random import Random
from typing import Any

import httpx
import pytest

from hub.outcomes.slower import Watched, judge_slower
from hub.outcomes.verdicts import Ruling
from hub.store import baseline
from sync.series import Series
from tests.fakes.fleet import FleetDevice, fact, runs
from tests.hub.core import Core
from tests.hub.test_judging import tell
from tests.hub.told_measures import Teller
from tests.hub.web import release_of

METRIC = "app.call_ms"
DAY_S = 86_400.0


class Fleet:
    """Devices that ran lamp 0.9.0 and measured how long calls take, each with a pace of its own."""

    def __init__(self, core: Core, count: int, canaries: int) -> None:
        self.core = core
        self.dice = Random(3)
        self.devices: list[FleetDevice] = []
        self.tellers: list[Teller] = []
        self.values: dict[tuple[str, str], list[float]] = {}
        self.pace = [self.dice.uniform(5.0, 50.0) for _ in range(count)]
        for number in range(count):
            device = FleetDevice(f"d{number:02}", number + 1)
            ring = "canary" if number < canaries else "rest"
            device.write(fact("ring", ring), core.now.mono_s)
            core.connect(device)
            self.devices.append(device)
            self.tellers.append(Teller(core, device, number))
        self.canaries = canaries
        self.outcomes = ["adoption"]

    def measure(self, number: int, version: str, times: float, metric: str = METRIC) -> None:
        """Let a device measure fifty more calls; everything is cumulative."""
        series = Series(metric, f"lamp@{version}")
        held = self.values.setdefault((f"{number}{metric}", version), [])
        held += [self.pace[number] * times * self.dice.uniform(0.5, 1.5) for _ in range(50)]
        self.tellers[number].histogram(series, held)

    def measure_all(self, times: float, metric: str = METRIC) -> None:
        for number in range(len(self.devices)):
            self.measure(number, "0.9.0", times, metric)

    async def look(self, client: httpx.AsyncClient, deployment: str, metric: str = METRIC) -> Any:
        """Let a day pass, so that the planned look is due, and return what it finds."""
        self.core.pass_time(DAY_S)
        return await judged(client, deployment, metric)

    async def deploy(self, client: httpx.AsyncClient, where: str) -> str:
        release = await release_of(client, outcomes=self.outcomes)
        asked = {"release": release, "group": "all", "where": where}
        made = await client.post("/deployments", json=asked)
        assert made.status_code == 202, made.text
        digest = (await client.get("/releases")).json()["items"][0]["digest"]
        deployment = str(made.json()["deployment"])
        for device in self.devices[: self.canaries]:
            tell(self.core, device, deployment, "DVIHK")
            entries = runs("lamp", "1.0.0", bytes.fromhex(digest), device.boot)
            self.core.talk(device, device.write(entries, self.core.now.mono_s))
        return deployment


async def judged(client: httpx.AsyncClient, deployment: str, metric: str = METRIC) -> Any:
    answer = (await client.get(f"/deployments/{deployment}/verdicts")).json()
    return {each["name"]: each for each in answer["judgements"]}.get(f"p95_{metric}")


@pytest.mark.parametrize(("times", "verdict"), [(1.3, "breach"), (1.0, "ok")])
async def test_ten_devices_with_two_canaries_find_what_became_a_third_slower(
    client: httpx.AsyncClient, core: Core, times: float, verdict: str
) -> None:
    fleet = Fleet(core, 10, 2)
    for _ in range(4):
        fleet.measure_all(1.0)
    deployment = await fleet.deploy(client, "ring=canary")
    for number in range(10):
        for _ in range(4):
            is_canary = number < 2
            fleet.measure(number, "1.0.0" if is_canary else "0.9.0", times if is_canary else 1.0)
    found = await fleet.look(client, deployment)
    assert found["verdict"] == verdict
    assert found["p_min"] == pytest.approx(1 / 45)
    assert sorted(found["devices"]) == ["d00", "d01"]
    assert found["estimate"]["value"] == pytest.approx(times, rel=0.15)


@pytest.mark.parametrize("times", [1.0, 2.0])
async def test_what_became_slower_everywhere_is_taken_out_of_what_the_release_did(
    client: httpx.AsyncClient, core: Core, times: float
) -> None:
    fleet = Fleet(core, 20, 10)
    fleet.measure_all(1.0)
    deployment = await fleet.deploy(client, "ring=canary")
    for number in range(20):
        for _ in range(3):
            is_canary = number < 10
            fleet.measure(
                number, "1.0.0" if is_canary else "0.9.0", 3.0 * (times if is_canary else 1.0)
            )
    found = await fleet.look(client, deployment)
    assert found["estimate"]["value"] == pytest.approx(times, rel=0.1)
    assert found["estimate"]["lo"] <= times * 1.05


async def test_without_others_it_is_held_against_what_was_frozen_before(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Fleet(core, 12, 12)
    fleet.pace = [10.0] * 12
    fleet.measure_all(1.0)
    fleet.measure_all(1.0, "app.other_ms")
    deployment = await fleet.deploy(client, "ring=canary")
    for number in range(12):
        fleet.measure(number, "1.0.0", 2.0)
        fleet.measure(number, "1.0.0", 1.0, "app.other_ms")
    found = await fleet.look(client, deployment)
    assert found["verdict"] == "breach"
    assert "frozen P95" in found["sentence"]
    other = await judged(client, deployment, "app.other_ms")
    assert other["verdict"] != "breach"


async def test_a_look_is_made_once_and_stays_what_it_was(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Fleet(core, 12, 4)
    fleet.measure_all(1.0)
    deployment = await fleet.deploy(client, "ring=canary")
    for number in range(12):
        fleet.measure(number, "1.0.0" if number < 4 else "0.9.0", 1.0)
    early = await judged(client, deployment)
    assert early["verdict"] == "too_little_evidence"
    assert early["estimate"] is None
    assert early["sentence"].startswith("It is looked at once, 2026-")
    assert "4 canaries against 8 others" in early["evidence"][0]
    first = await fleet.look(client, deployment)
    assert first["evidence"][-1].startswith("looked at once, 2026-")
    for _ in range(8):
        for number in range(4):
            fleet.measure(number, "1.0.0", 9.0)
    assert await fleet.look(client, deployment) == first


async def test_what_devices_are_too_few_for_is_looked_at_until_they_are_not(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Fleet(core, 12, 4)
    fleet.measure_all(1.0)
    deployment = await fleet.deploy(client, "ring=canary")
    fleet.measure(0, "1.0.0", 9.0)
    for number in range(4, 12):
        fleet.measure(number, "0.9.0", 1.0)
    alone = await fleet.look(client, deployment)
    assert "can never tell" in alone["sentence"]
    assert core.rows("SELECT name FROM look") == []
    for number in range(1, 4):
        fleet.measure(number, "1.0.0", 9.0)
    assert (await fleet.look(client, deployment))["verdict"] == "breach"
    assert core.rows("SELECT name FROM look") == [(f"p95_{METRIC}",)]


async def test_a_release_is_judged_by_the_outcomes_that_it_names(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Fleet(core, 4, 2)
    fleet.measure_all(1.0)
    fleet.measure_all(1.0, "app.other_ms")
    fleet.outcomes = [METRIC]
    deployment = await fleet.deploy(client, "ring=canary")
    for number in range(4):
        for metric in (METRIC, "app.other_ms"):
            fleet.measure(number, "1.0.0" if number < 2 else "0.9.0", 1.0, metric)
    assert await judged(client, deployment) is not None
    assert await judged(client, deployment, "app.other_ms") is None


async def test_too_few_values_and_releases_that_came_another_way_count_for_nothing(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet = Fleet(core, 6, 2)
    fleet.measure_all(1.0)
    deployment = await fleet.deploy(client, "ring=canary")
    fleet.tellers[0].histogram(Series(METRIC, "lamp@1.0.0"), [900.0] * 5)
    assert await judged(client, deployment) is None
    for number in (0, 1, 5):
        fleet.measure(number, "1.0.0", 1.0)
    for number in (2, 3, 4, 5):
        fleet.measure(number, "0.9.0", 1.0)
    found = await judged(client, deployment)
    assert "2 canaries against 3 others" in found["evidence"][0]


async def test_what_was_frozen_is_kept_for_the_latest_deployments(
    client: httpx.AsyncClient, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "DEPLOYMENTS_MAX_COUNT", 2)
    fleet = Fleet(core, 3, 1)
    fleet.measure_all(1.0)
    made = []
    for _ in range(3):
        core.pass_time(1)
        made.append(await fleet.deploy(client, "ring=canary"))
    kept = core.rows("SELECT DISTINCT deployment FROM baseline")
    assert {deployment for (deployment,) in kept} == set(made[1:])


def test_many_metrics_together_raise_no_more_alarms_than_one() -> None:
    dice = Random(9)
    alarms = 0
    for _ in range(200):
        metrics = {
            f"m{number}": [
                Watched(
                    device=f"d{at}",
                    is_canary=at < 10,
                    before=1.0,
                    after=dice.lognormvariate(0.0, 0.2),
                )
                for at in range(20)
            ]
            for number in range(10)
        }
        judged = judge_slower(metrics)
        assert len(judged) == 10
        alarms += any(each.verdict is Ruling.BREACH for each in judged)
    assert alarms <= 200 * 0.05 + 8
