import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hub.audit import HUB, acting
from hub.deployments import Request
from hub.export.names import ALL, BY_NAME, Kind, Named, label
from hub.export.points import Point, points
from hub.export.prometheus import exposition
from hub.operators import Scope
from tests.fakes.fleet import runs
from tests.hub.core import Core
from tests.hub.web import app_of, device_of, operations_of, release_of, status, token_of

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "exported-measures.md"


async def fleet_of(core: Core, client: httpx.AsyncClient, folder: Path, devices_count: int) -> str:
    """Deploy to so many devices, of which all but the first take and run it; return its id."""
    devices = [device_of(core, f"d{n}") for n in range(devices_count)]
    await release_of(client)
    operations = operations_of(core, folder)
    with acting(HUB):
        request = Request(release="lamp@1.0.0", devices=[each.name for each in devices])
        accepted = await operations.deploy(request)
    release = accepted.deployed.release
    for device in devices[1:]:
        device.write(runs("lamp", "1.0.0", release, device.boot), core.now.mono_s)
        core.connect(device)
    return accepted.deployed.id


@pytest.mark.parametrize("named", ALL, ids=lambda named: named.name)
def test_a_name_follows_the_rules_of_both_worlds(named: Named) -> None:
    assert re.fullmatch(r"fleet(\.[a-z_]+)+", named.name)
    assert re.fullmatch(r"fleet(_[a-z]+)+", named.prometheus)
    assert named.prometheus.endswith("_total") == (named.kind is Kind.COUNTER)
    assert not any("device" in each for each in named.attributes)
    assert len({label(each) for each in named.attributes}) == len(named.attributes)


def test_every_measure_is_in_the_reference_and_nothing_else_is() -> None:
    rows = re.findall(
        r"^\| `(fleet\.[a-z_.]+)` \| `(fleet_[a-z_]+)` \|", PAGE.read_text(), re.MULTILINE
    )
    assert rows == [(each.name, each.prometheus) for each in ALL]


async def test_a_fleet_gives_each_measure_but_those_that_nobody_reached(
    core: Core, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await fleet_of(core, client, tmp_path / "hub", 4)
    fleet = await operations_of(core, tmp_path / "hub").fleet()
    found = points(fleet, status().view() | {"counters": {"frame_count": 3, "unsent_count": 1}})
    assert {each.name for each in found} >= BY_NAME.keys() - {"fleet.manifest.execution_gap"}
    values = {(each.name, *(value for _, value in each.attributes)): each.value for each in found}
    assert values["fleet.devices", "registered"] == 4
    assert values["fleet.adoption.devices", "lamp", "1.0.0", "proven"] == 3
    assert values["fleet.hub.events", "frame"] == 3
    assert values["fleet.hub.held", "unsent"] == 1


async def test_a_larger_fleet_makes_no_more_series(
    core: Core, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await fleet_of(core, client, tmp_path / "hub", 3)
    operations = operations_of(core, tmp_path / "hub")
    few = {(p.name, p.attributes) for p in points(await operations.fleet(), status().view())}
    for n in range(10, 60):
        device_of(core, f"d{n}")
    operations = operations_of(core, tmp_path / "hub")
    many = {(p.name, p.attributes) for p in points(await operations.fleet(), status().view())}
    assert many == few


async def test_prometheus_reads_what_the_operator_is_shown(
    core: Core, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    deployment = await fleet_of(core, client, tmp_path / "hub", 4)
    api = app_of(core, tmp_path / "hub")
    shown = token_of(core, Scope.VIEWER, "prometheus")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=api),  # type: ignore[arg-type]
        base_url="http://127.0.0.1:8420",
    ) as scraper:
        assert (await scraper.get("/metrics")).status_code == 401
        answer = await scraper.get("/metrics", headers={"authorization": f"Bearer {shown.text()}"})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    read = {
        (
            sample.name,
            sample.labels.get("deployment_id"),
            sample.labels.get("verdict"),
        ): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    fleet = (await client.get("/fleet")).json()["deployments"][0]
    assert {
        verdict: read["fleet_deployment_devices", deployment, verdict]
        for verdict in fleet["verdicts"]
    } == fleet["verdicts"]


def test_hostile_text_in_a_name_cannot_break_the_exposition() -> None:
    hostile = 'x"} 1\nfleet_devices{state="dark"} 9\n# HELP \\'
    text = exposition([Point("fleet.devices", (("fleet.state", hostile),), 2.0)]).decode()
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    assert [(s.labels, s.value) for s in samples] == [({"state": hostile}, 2.0)]
