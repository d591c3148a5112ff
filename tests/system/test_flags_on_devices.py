"""Flags and kill orders between a real hub and a real agent, as processes."""

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.broker_plan import BrokerKind
from sync.manifest import Health
from tests.hub.flagged import definition
from tests.system.brokers import running_broker
from tests.system.programs import AgentProgram, HubProgram, lamp, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


class Pair:
    """A hub and an agent."""

    def __init__(self, hub: HubProgram, agent: AgentProgram) -> None:
        self.hub = hub
        self.agent = agent

    def flag(self, key: str) -> dict[str, Any]:
        """Read a flag as an application does."""
        asked = {"op": "flag", "key": key, "reader": "app@1.4.0"}
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(self.agent.socket))
            channel.sendall(json.dumps(asked).encode() + b"\n")
            found: dict[str, Any] = json.loads(channel.makefile().readline())
        return found

    def kill(self, what: str) -> dict[str, Any]:
        found: dict[str, Any] = self.hub.ask("GET", f"/kills/{what}")
        return found


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with running_broker(BrokerKind.MOSQUITTO, tmp_path) as broker:
        hub = HubProgram(tmp_path, broker.port)
        agent = AgentProgram(tmp_path, "lamp-1", hub.url, broker.port)
        hub.start()
        try:
            await hub.wait_ready()
            agent.start()
            await until(lambda: bool(hub.ask("GET", "/devices")["items"]), hub.tail)
            yield Pair(hub, agent)
        finally:
            agent.kill()
            hub.kill()


async def test_a_flag_is_launched_killed_and_taken_back_on_a_device(pair: Pair) -> None:
    hub = pair.hub
    hub.ask("PUT", "/groups/all/flags/pump-fast", {"definition": definition()})
    await until(lambda: pair.flag("pump-fast")["variant"] == "off", pair.agent.tail)
    launch = {"share": 0.05, "at_least": 1, "launch": True}
    assert hub.ask("PUT", "/groups/all/flags/pump-fast/share", launch)["dealt_count"] == 1
    await until(lambda: pair.flag("pump-fast")["reason"] == "SPLIT", pair.agent.tail)
    assert pair.flag("pump-fast")["value"] is True
    hub.ask("PUT", "/kills/flag:pump-fast", {"why": "it leaks"})
    await until(lambda: pair.flag("pump-fast")["reason"] == "DISABLED", pair.agent.tail)
    assert pair.flag("pump-fast")["value"] is False
    await until(lambda: pair.kill("flag:pump-fast")["reached_count"] == 1, pair.agent.tail)
    assert pair.kill("flag:pump-fast")["time_to_kill"]["p95"]["hi_ms"] is not None
    (exposure,) = hub.ask("GET", "/flags/pump-fast")["exposures"]
    assert exposure["reader"] == "app@1.4.0"
    hub.ask("DELETE", "/kills/flag:pump-fast")
    await until(lambda: pair.flag("pump-fast")["reason"] == "SPLIT", pair.agent.tail)
    await until(lambda: pair.kill("flag:pump-fast")["reached_count"] == 1, pair.agent.tail)


async def test_a_deployment_that_is_killed_on_trial_is_rolled_back(
    pair: Pair, tmp_path: Path
) -> None:
    hub = pair.hub

    def deploy(manifest: Any, tree: bytes) -> str:
        release = hub.publish_release(manifest, tree)
        deployment: str = hub.ask("POST", "/deployments", {"release": release, "group": "all"})[
            "deployment"
        ]
        return deployment

    def stages(deployment: str) -> set[str]:
        (row,) = hub.ask("GET", f"/deployments/{deployment}")["devices"]
        return set(row["stages"])

    first = deploy(*lamp("1.0.0"))
    await until(lambda: "acknowledged" in stages(first), pair.agent.tail)
    # On trial until a file is there, which never comes.
    manifest, tree = lamp("2.0.0")
    health = Health(command=("test", "-e", str(tmp_path / "never")), deadline_s=100, pause_s=0.1)
    second = deploy(manifest.model_copy(update={"health": health}), tree)
    await until(lambda: "version=2.0.0 state=trial" in pair.agent.tail(), pair.agent.tail)
    hub.ask("PUT", f"/kills/deployment:{second}", {})
    await until(lambda: pair.kill(f"deployment:{second}")["reached_count"] == 1, pair.agent.tail)
    found = pair.kill(f"deployment:{second}")
    assert found["details"] == [{"detail": "rolled back", "devices_count": 1}]
    assert pair.agent.runs() == "1.0.0"
