"""Judgements over the API, from what devices really told a hub."""

import json
from pathlib import Path
from typing import Any

import httpx

from hub.judging import curve, human_actions
from hub.store.audit import Row
from sync.stages import Stage
from tests.fakes.fleet import FleetDevice, fact, runs
from tests.hub.cli.told import ID, report_of
from tests.hub.core import Core
from tests.hub.outcomes.courses import at, finished
from tests.hub.web import app_of, check_problem, release_of, token_of


def fleet_of(core: Core, count: int) -> list[FleetDevice]:
    """Return devices that are connected, in two regions."""
    devices = []
    for number in range(count):
        device = FleetDevice(f"d{number:02}", number + 1)
        region = "eu-east" if number < count // 2 else "us"
        device.write(fact("region", region) | fact("serial", f"s{number}"), core.now.mono_s)
        core.presence(device.name, b'{"online": true, "birth": 1}')
        core.connect(device)
        devices.append(device)
    return devices


async def deploy(client: httpx.AsyncClient) -> tuple[str, bytes]:
    """Return a new deployment for everybody, and the digest of its manifest."""
    release = await release_of(client)
    made = await client.post("/deployments", json={"release": release, "group": "all"})
    digest = (await client.get("/releases")).json()["items"][0]["digest"]
    return made.json()["deployment"], bytes.fromhex(digest)


def tell(core: Core, device: FleetDevice, deployment: str, stages: str, reason: str = "") -> None:
    """Let a device acknowledge stages, the last one with a reason."""
    entries: dict[str, bytes] = {}
    for stage in stages:
        entries |= device.ack(deployment, stage, reason if stage == stages[-1] else "")
    core.talk(device, device.write(entries, core.now.mono_s))


async def judgements(client: httpx.AsyncClient, deployment: str) -> dict[str, dict[str, Any]]:
    """Return the judgements by their names."""
    answer = (await client.get(f"/deployments/{deployment}/verdicts")).json()
    return {each["name"]: each for each in answer["judgements"]}


async def test_failures_that_follow_a_region_are_named_with_their_evidence(
    client: httpx.AsyncClient, core: Core
) -> None:
    devices = fleet_of(core, 40)
    deployment, digest = await deploy(client)
    core.pass_time(30)
    for number, device in enumerate(devices):
        if number < 14:
            tell(core, device, deployment, "DVIB", "health_failed")
        else:
            tell(core, device, deployment, "DVIHK")
            entries = runs("lamp", "1.0.0", digest, device.boot)
            core.talk(device, device.write(entries, core.now.mono_s))
    answer = (await client.get(f"/deployments/{deployment}/verdicts")).json()
    found = {each["name"]: each for each in answer["judgements"]}
    assert found["failures"]["verdict"] == "breach"
    assert found["failures"]["devices"][0] == "d00"
    pattern = found["failure_pattern"]
    assert pattern["verdict"] == "breach"
    assert "region eu-east" in pattern["sentence"]
    assert "serial" not in " ".join(pattern["evidence"])
    assert found["silent_failures"]["verdict"] == "ok"
    assert found["adoption"]["estimate"]["value"] == 26 / 40
    assert answer["verdict"] == "breach"
    assert answer["sentence"].startswith("Out of range: failures, failure pattern")
    assert answer["release"] == "lamp@1.0.0"
    shares = [point["lo"] for point in answer["acknowledged"]]
    assert shares == sorted(shares)
    assert shares[-1] == 26 / 40
    assert set(answer["not_asked"]) == {
        "p95",
        "crash_free",
        "case_fallback",
        "canary",
        "sample_ratio",
        "multiple_exposure",
    }


async def test_a_silent_device_is_named_with_where_it_stalled(
    client: httpx.AsyncClient, core: Core
) -> None:
    devices = fleet_of(core, 4)
    deployment, _ = await deploy(client)
    for device in devices[1:]:
        tell(core, device, deployment, "DVIHK")
    core.pass_time(3600)
    core.presence("d00", b'{"online": true, "birth": 2}')
    found = await judgements(client, deployment)
    silent = found["silent_failures"]
    assert silent["verdict"] == "breach"
    assert silent["devices"] == ["d00"]
    assert "stalled after accepted" in silent["sentence"]
    assert silent["evidence"][0].startswith("d00 is silent: connected for ")
    assert silent["estimate"]["value"] == 0.25
    assert found["execution_gap"]["verdict"] == "too_little_evidence"


async def test_what_an_operator_does_for_one_device_counts_as_help(
    client: httpx.AsyncClient, core: Core
) -> None:
    devices = fleet_of(core, 12)
    deployment, _ = await deploy(client)
    core.pass_time(30)
    for device in devices[:10]:
        go = {"now": True, "why": "by phone", "device": device.name}
        answer = await client.put(f"/deployments/{deployment}/terms", json=go)
        assert answer.status_code == 200, answer.text
    await client.put(f"/deployments/{deployment}/terms", json={"now": True, "why": "all of you"})
    core.pass_time(30)
    for device in devices:
        tell(core, device, deployment, "DVIHK")
    judged = (await judgements(client, deployment))["human_fallback"]
    assert judged["verdict"] == "breach"
    assert judged["sentence"].startswith("10 of 12 finished updates needed a person")
    assert "10 x deployment.terms" in judged["evidence"]


async def test_judgements_on_nothing_are_a_problem(client: httpx.AsyncClient) -> None:
    check_problem(await client.get("/deployments/dnone/verdicts"), 404, "no deployment 'dnone'")


def _row(action: str, what: str, *, asked: object = None, after_s: float = 3, **more: Any) -> Row:
    fields: dict[str, Any] = {
        "n": 1,
        "at_ms": at(after_s),
        "token": "t",
        "name": "ada",
        "source": "",
        "action": action,
        "object": what,
        "asked": json.dumps(asked or {}),
        "outcome": "done",
    }
    return Row(**(fields | more))


def test_only_what_was_done_for_one_device_before_its_end_is_help() -> None:
    report = report_of(finished("d1"), finished("d2"))
    rows = [
        _row("deployment.terms", ID, asked={"device": "d1"}),
        _row("deployment.terms", ID, asked={"device": None}),
        _row("deployment.terms", "another", asked={"device": "d2"}),
        _row("setting.wish", "des/d1 mode"),
        _row("setting.wish", "grp/all mode"),
        _row("setting.wish", "des/d2 mode", outcome="unchanged"),
        _row("setting.wish", "des/d2 mode", after_s=60),
        _row("setting.wish", "des/d9 mode"),
        _row("device.revoke", "d2"),
        _row("release.publish", "lamp@1"),
    ]
    assert human_actions(rows, report) == {
        "d1": ["deployment.terms", "setting.wish"],
        "d2": ["device.revoke"],
    }


def test_the_curve_of_a_deployment_that_nobody_asked_for_is_empty() -> None:
    assert curve(report_of(finished("d1", hub_stages={Stage.ACCEPTED: at(0)}))) == []


async def test_what_is_held_against_a_deployment_can_be_set(core: Core, tmp_path: Path) -> None:
    api = app_of(core, tmp_path, limit_failed_ratio=0.5, limit_devices_min_count=2)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=api),  # type: ignore[arg-type]
        base_url="http://127.0.0.1:8420/api/v1",
        headers={"authorization": f"Bearer {token_of(core).text()}"},
    ) as client:
        devices = fleet_of(core, 20)
        deployment, _ = await deploy(client)
        for number, device in enumerate(devices):
            if number < 4:
                tell(core, device, deployment, "DVIB", "health_failed")
            else:
                tell(core, device, deployment, "DVIHK")
        found = await judgements(client, deployment)
    assert found["failures"]["verdict"] == "ok"
    assert "50 %" in found["failures"]["sentence"]
