"""Real hub, agent and broker: a device waits, says why, and goes on when nothing holds it up."""

import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.broker_plan import BrokerKind
from tests.system.brokers import running_broker
from tests.system.programs import BIN, AgentProgram, HubProgram, lamp, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


class Site:
    """A hub and one device on a real broker."""

    def __init__(self, folder: Path, port: int) -> None:
        self.hub = HubProgram(folder, port)
        self.agent = AgentProgram(folder, "lamp-1", self.hub.url, port)

    def deploy(self) -> str:
        release = self.hub.publish_release(*lamp("1.0.0"))
        asked = {"release": release, "group": "all"}
        return str(self.hub.ask("POST", "/deployments", asked)["deployment"])

    def row(self, deployment: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.hub.ask("GET", f"/deployments/{deployment}")["devices"]
        return rows[0] if rows else {}

    async def is_registered(self) -> None:
        await until(lambda: bool(self.hub.ask("GET", "/devices")["items"]), self.tail)

    async def until_verdict(self, deployment: str, verdict: str) -> dict[str, Any]:
        await until(lambda: self.row(deployment).get("verdict") == verdict, self.tail)
        return self.row(deployment)

    def operate(self, *words: str) -> str:
        done = subprocess.run(
            [str(BIN / "fieldfare"), *words],
            env={
                **os.environ,
                "FIELDFARE_HUB_URL": self.hub.url,
                "FIELDFARE_TOKEN": self.hub.token,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tail(self) -> str:
        return self.hub.tail() + self.agent.tail()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_broker(BrokerKind.MOSQUITTO, tmp_path) as broker:
        site = Site(tmp_path, broker.port)
        site.hub.start()
        try:
            await site.hub.wait_ready()
            site.agent.start()
            await site.is_registered()
            yield site
        finally:
            site.agent.kill()
            site.hub.kill()


async def test_a_lock_defers_a_release_the_hub_shows_why_and_its_end_lets_it_in(
    site: Site,
) -> None:
    lease = site.agent.cli("inhibit", "--owner", "press", "--reason", "a shift runs")
    deployment = site.deploy()
    row = await site.until_verdict(deployment, "deferred")
    assert row["reason"] == "inhibited"
    assert row["waiting"]["detail"] == "press holds a lock: a shift runs"
    assert row["waiting"]["since"]["lo_ms"] <= row["waiting"]["since"]["hi_ms"]
    told = site.agent.cli("why")
    assert "press holds a lock: a shift runs" in told["sentences"][0]
    shown = " ".join(site.operate("deployment", "show", deployment).split())
    assert "1 waits with it (an application on the device holds a lock)" in shown
    assert "press holds a lock: a shift runs" in shown
    assert site.agent.runs() is None

    site.agent.cli("release", lease["lock"])
    row = await site.until_verdict(deployment, "acknowledged")
    assert row["waiting"] is None
    assert site.agent.runs() == "1.0.0"
    fleet = site.hub.ask("GET", "/fleet")
    assert fleet["offences"] == []


async def test_a_killed_device_goes_on_waiting_until_an_operator_lets_it_go(site: Site) -> None:
    site.agent.cli("inhibit", "--owner", "press", "--reason", "a shift runs", "--for-s", "3600")
    deployment = site.deploy()
    await site.until_verdict(deployment, "deferred")
    (before,) = site.agent.cli("why")["deployments"]
    site.agent.kill()
    site.agent.start()
    await until(site.agent.socket.exists, site.tail)
    await until(lambda: bool(_why(site)), site.tail)
    (after,) = _why(site)
    assert after["doing"] == "waiting"
    assert after["waited_s"] >= before["waited_s"]
    assert site.agent.runs() is None

    told = site.operate("deployment", "go", deployment, "--device", "lamp-1", "--why", "a leak")
    assert "device lamp-1: go on now" in told
    row = await site.until_verdict(deployment, "acknowledged")
    assert any("press holds a lock" in each for each in row["evidence_for"])
    shown = site.operate("deployment", "show", deployment)
    assert re.search(r"by [a-z-]+ \(a leak\)", " ".join(shown.split())) is not None, shown
    assert site.agent.runs() == "1.0.0"


def _why(site: Site) -> list[dict[str, Any]]:
    """Return what the device says of its open deployments, nothing while it starts."""
    done = subprocess.run(
        [str(BIN / "fieldfare-agent"), "why", "--json"],
        env={**os.environ, **site.agent.environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode:
        return []
    rows = json.loads(done.stdout)["deployments"]
    return [row for row in rows if row["doing"] == "waiting"]
