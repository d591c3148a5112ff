"""A device that says "success" and then starts what ran before."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.broker_plan import BrokerKind
from sync.manifest import Health
from tests.system.brokers import running_broker
from tests.system.programs import AgentProgram, HubProgram, lamp, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[HubProgram, AgentProgram]]:
    async with running_broker(BrokerKind.NATS, tmp_path) as broker:
        hub = HubProgram(tmp_path, broker.port)
        agent = AgentProgram(tmp_path, "lamp-1", hub.url, broker.port)
        hub.start()
        try:
            await hub.wait_ready()
            agent.start()
            await until(lambda: bool(hub.ask("GET", "/devices")["items"]), hub.tail)
            yield hub, agent
        finally:
            agent.kill()
            hub.kill()


async def test_a_device_that_reported_success_and_starts_the_old_image_counts_as_fallen_back(
    pair: tuple[HubProgram, AgentProgram], tmp_path: Path
) -> None:
    hub, agent = pair
    is_well = tmp_path / "well"
    is_well.touch()
    first, second = lamp("1.0.0"), lamp("2.0.0")
    health = Health(command=("test", "-e", str(is_well)), deadline_s=0.5, pause_s=0.1)
    second = second[0].model_copy(update={"health": health}), second[1]

    def report(deployment: str) -> dict[str, Any]:
        found: dict[str, Any] = hub.ask("GET", f"/deployments/{deployment}")
        return found

    async def deploy(manifest: Any, tree: bytes) -> str:
        release = hub.publish_release(manifest, tree)
        asked = hub.ask("POST", "/deployments", {"release": release, "group": "all"})
        deployment: str = asked["deployment"]
        await until(lambda: report(deployment)["verdicts"]["acknowledged"] == 1, agent.tail)
        return deployment

    await deploy(*first)
    deployment = await deploy(*second)
    assert report(deployment)["running_count"] == 1

    # The disk is as it was before the install, and the new release will not come up again.
    agent.end()
    is_well.unlink()
    current = agent.home / "install/lamp/current"
    old = first[0].digest().hex()
    place = next(each for each in current.parent.rglob("*") if each.is_dir() and old in each.name)
    current.unlink()
    current.symlink_to(os.path.relpath(place, current.parent))
    assert agent.runs() == "1.0.0"
    agent.start()

    await until(lambda: report(deployment)["verdicts"]["fell_back"] == 1, agent.tail)
    shown = report(deployment)
    assert shown["verdicts"]["acknowledged"] == 0
    assert shown["running_count"] == 0
    assert shown["sentence"].startswith("0 of 1 device run lamp 2.0.0; 1 fell back after it said")
    (row,) = shown["devices"]
    assert row["sentence"].endswith("was then seen running another one: it fell back.")
    (adopted,) = hub.ask("GET", "/fleet")["adoption"]
    assert (adopted["version"], adopted["proven_count"]) == ("2.0.0", 0)
    assert adopted["mix"] == {"1.0.0": 1}
    running = agent.cli("status")["running"]["lamp"]
    assert running == {"version": "1.0.0", "healthy": True}
