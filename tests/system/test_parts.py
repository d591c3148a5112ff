"""A release of several parts, as a person makes it, on a real device: all of it, or none."""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.broker_plan import BrokerKind
from tests.system.brokers import running_broker
from tests.system.programs import BIN, AgentProgram, HubProgram, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

DESCRIPTION = """
component = "station"
version = "{version}"
[health]
command = ["sh", "-c", "test \\"$(cat app/run)\\" = \\"$(cat {conf})\\""]
deadline_s = 2
pause_s = 0.2
[[health.checks]]
kind = "hub"
budget_s = 20
[[parts]]
name = "app"
installer = "directory"
[[parts]]
name = "conf"
installer = "file"
[parts.parameters]
path = "{conf}"
[[files]]
tree = "app-{version}"
part = "app"
[[files]]
path = "conf-{version}"
part = "conf"
"""


class Station:
    """A hub, a device, and releases whose two parts have to agree."""

    def __init__(self, folder: Path, hub: HubProgram, agent: AgentProgram) -> None:
        self.folder = folder
        self.hub = hub
        self.agent = agent
        self.conf = folder / "etc" / "station.conf"
        self.app = agent.home / "install" / "station" / "parts" / "station.app" / "current" / "run"

    def release(self, version: str, *, agrees: bool = True) -> str:
        (self.folder / f"app-{version}").mkdir()
        (self.folder / f"app-{version}" / "run").write_text(version)
        (self.folder / f"conf-{version}").write_text(version if agrees else "another")
        file = self.folder / f"station-{version}.toml"
        file.write_text(DESCRIPTION.format(version=version, conf=self.conf))
        done = subprocess.run(
            [
                *(BIN / "fieldfare", "release", "assemble", file, "--unsigned", "--json"),
                *("--unmeasured", "a test", "--hub", self.hub.url),
            ],
            env={**os.environ, "FIELDFARE_TOKEN": self.hub.token},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["release"])

    async def deploy(self, release: str, verdict: str) -> None:
        asked = self.hub.ask("POST", "/deployments", {"release": release, "group": "all"})

        def is_so() -> bool:
            report = self.hub.ask("GET", f"/deployments/{asked['deployment']}")
            return any(row["verdict"] == verdict for row in report["devices"])

        await until(is_so, self.agent.tail)

    def runs(self) -> tuple[str, str]:
        return self.app.read_text(), self.conf.read_text()


@pytest.fixture
async def station(tmp_path: Path) -> AsyncIterator[Station]:
    (tmp_path / "etc").mkdir()
    async with running_broker(BrokerKind.NATS, tmp_path) as broker:
        hub = HubProgram(tmp_path, broker.port)
        options = json.dumps({"file": {"roots": str(tmp_path / "etc")}})
        agent = AgentProgram(tmp_path, "s-1", hub.url, broker.port, installers=options)
        hub.start()
        agent.start()
        try:
            await hub.wait_ready()
            await until(lambda: bool(hub.ask("GET", "/devices")["items"]), agent.tail)
            yield Station(tmp_path, hub, agent)
        finally:
            agent.kill()
            hub.kill()


async def test_a_release_of_parts_is_installed_and_a_bad_one_taken_back_whole(
    station: Station,
) -> None:
    await station.deploy(station.release("1"), "acknowledged")
    assert station.runs() == ("1", "1")

    await station.deploy(station.release("2", agrees=False), "rolled_back")
    assert station.runs() == ("1", "1")

    await station.deploy(station.release("3"), "acknowledged")
    assert station.runs() == ("3", "3")
