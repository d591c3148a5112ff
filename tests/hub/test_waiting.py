"""Devices that wait with a deployment, as the hub shows them, and what an operator can order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import views
from hub.deployments import Request
from hub.outcomes.silence import Verdict
from hub.store import deployments as store
from sync import documents as names
from sync.records import Waiting, encode
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, running


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def pump(core: Core) -> FleetDevice:
    device = FleetDevice("pump", 1)
    device.write(fact("class", "pump"), core.now.mono_s)
    core.connect(device)
    return device


def deploy(core: Core) -> str:
    core.release()
    return core.deploy(Request(release="lamp@1.0.0", group="all")).deployed.id


def say(core: Core, device: FleetDevice, deployment: str, reason: str, detail: str = "") -> None:
    record = Waiting(device.boot, 5_000, 0, reason, detail, 1_800_000_000_000, 600, "go")
    entry = {names.WAITING + deployment: encode(record)}
    core.talk(device, device.write(entry, core.now.mono_s))


def report(core: Core, deployment: str) -> dict[str, Any]:
    def job(db: Any) -> dict[str, Any]:
        deployed = store.load(db, deployment)
        assert deployed is not None
        found = views.report_of(db, deployed, silence_s=60, now_ms=core.now.ms)
        return views.report_view(deployed, found)

    return core.database.transact(job)


def test_a_device_that_waits_is_deferred_and_says_why_and_until_when(
    core: Core, pump: FleetDevice
) -> None:
    deployment = deploy(core)
    say(core, pump, deployment, "inhibited", "backup holds a lock: it runs")
    told = report(core, deployment)
    (row,) = told["devices"]
    assert row["verdict"] == Verdict.DEFERRED
    assert row["waiting"]["reason"] == row["reason"] == "inhibited"
    assert row["waiting"]["until_ms"] == 1_800_000_000_000
    assert (row["waiting"]["left_s"], row["waiting"]["overdue"]) == (600, "go")
    assert "backup holds a lock: it runs" in row["sentence"]
    assert told["verdicts"]["deferred"] == 1
    assert told["verdicts"]["failed"] == told["verdicts"]["silent"] == 0
    assert "1 waits with it (an application on the device holds a lock)" in told["sentence"]
    assert core.rows("SELECT * FROM offence") == []


def test_a_wait_that_is_over_is_shown_no_more_but_for_what_was_passed_over(
    core: Core, pump: FleetDevice
) -> None:
    deployment = deploy(core)
    say(core, pump, deployment, "inhibited")
    say(core, pump, deployment, "", "an operator said that it must not wait")
    (row,) = report(core, deployment)["devices"]
    assert row["verdict"] != Verdict.DEFERRED
    assert row["waiting"] is None
    assert any("an operator said that it must not wait" in each for each in row["evidence_for"])
