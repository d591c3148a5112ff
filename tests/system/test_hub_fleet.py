"""A hub process, a real broker, and many devices: deployments, silence, presence, floods."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.broker_plan import BrokerKind
from sync.documents import DocumentName, Kind
from sync.messages import Full
from tests.fakes.fleet import Fleet, fact
from tests.fakes.hub_process import HubProcess
from tests.system.brokers import RealBroker, running_broker
from tests.system.publisher import publish_raw

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

POLL_S = 0.02
WAIT_MAX_S = 60.0
BLOB = b"a tree"


class Ground:
    """A hub on a broker, and its devices."""

    def __init__(self, hub: HubProcess, broker: RealBroker, fleet: Fleet) -> None:
        self.hub = hub
        self.broker = broker
        self.fleet = fleet

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        async with self.hub.client(timeout=30) as client:
            answer = await client.request(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json()

    async def presences(self, device: str, count: int) -> None:
        """Wait until the hub tells of so many spans of presence."""
        async with asyncio.timeout(WAIT_MAX_S):
            while len((await self.ask("GET", f"/devices/{device}"))["presence"]) < count:
                await asyncio.sleep(POLL_S)

    async def release(self, version: str) -> str:
        digest = hashlib.sha256(BLOB).hexdigest()
        await self.ask("PUT", f"/blobs/{digest}", content=BLOB)
        artifact = {"name": "tree", "sha256": digest, "length_bytes": len(BLOB)}
        manifest = {
            "component": "lamp",
            "version": version,
            "artifacts": [artifact],
            "health": {"command": ["true"]},
            "owner": "lights@example.org",
            "outcomes": ["adoption"],
        }
        await self.ask("POST", "/releases", json=manifest)
        return f"lamp@{version}"

    async def deploy(self, version: str, **fields: Any) -> str:
        asked = {"release": await self.release(version), **(fields or {"group": "all"})}
        made: str = (await self.ask("POST", "/deployments", json=asked))["deployment"]
        return made

    async def verdicts(self, deployment: str) -> dict[str, str]:
        report = await self.ask("GET", f"/deployments/{deployment}")
        return {row["device"]: row["verdict"] for row in report["devices"]}

    async def wait_verdicts(self, deployment: str, **wanted: str) -> None:
        async with asyncio.timeout(WAIT_MAX_S):
            while await self.verdicts(deployment) != wanted:
                await asyncio.sleep(POLL_S)

    async def settle(self) -> None:
        async with asyncio.timeout(WAIT_MAX_S):
            while not self.fleet.is_settled():
                await asyncio.sleep(POLL_S)


@pytest.fixture(params=[BrokerKind.MOSQUITTO, BrokerKind.NATS], ids=lambda kind: kind.value)
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    async with running_broker(request.param, tmp_path) as broker:
        hub = HubProcess(tmp_path / "hub", broker=f"127.0.0.1:{broker.port}", silence_s=2)
        try:
            await hub.start()
            async with Fleet(broker.port) as fleet:
                await fleet.connected.wait()
                yield Ground(hub, broker, fleet)
        finally:
            hub.kill()


async def test_a_release_goes_to_a_group_and_to_single_devices_and_comes_back_as_acknowledged(
    ground: Ground,
) -> None:
    for number in range(5):
        ground.fleet.add(f"d{number}", obeys=True)
        ground.fleet.write(f"d{number}", fact("labels", {"site": f"s{number % 2}"}))
    await ground.settle()
    first = await ground.deploy("1.0.0", group="all", where="site=s0")
    acknowledged = dict.fromkeys(("d0", "d2", "d4"), "acknowledged")
    await ground.wait_verdicts(first, **acknowledged)
    second = await ground.deploy("1.1.0", devices=["d1", "d3"])
    await ground.wait_verdicts(second, **dict.fromkeys(("d1", "d3"), "acknowledged"))
    fleet = await ground.ask("GET", "/fleet")
    (adoption,) = fleet["adoption"]
    assert (adoption["version"], adoption["proven_count"]) == ("1.1.0", 2)
    report = await ground.ask("GET", f"/deployments/{second}")
    stages = report["devices"][0]["stages"]
    assert {"requested", "accepted", "published", "delivered", "ack_seen"} <= set(stages)


async def test_a_device_that_takes_nothing_is_silent_and_one_that_is_away_is_unreachable(
    ground: Ground,
) -> None:
    for name in ("good", "silent", "away"):
        ground.fleet.add(name, obeys=name == "good")
        ground.fleet.write(name, fact("class", "lamp"))
        ground.fleet.announce(name, birth=1)
    await ground.settle()
    ground.fleet.announce("away", birth=1, online=False)
    ground.fleet.deaf |= {"silent", "away"}
    deployment = await ground.deploy("1.0.0")
    await ground.wait_verdicts(deployment, good="acknowledged", silent="silent", away="unreachable")


async def test_a_group_message_that_the_broker_lost_arrives_when_the_device_asks(
    ground: Ground,
) -> None:
    device = ground.fleet.add("d1", obeys=True)
    ground.fleet.write("d1", fact("class", "lamp"))
    await ground.settle()
    ground.fleet.deaf.add("d1")
    deployment = await ground.deploy("1.0.0")
    # The broker forgets the retained message, and the hub does not notice.
    async with asyncio.timeout(WAIT_MAX_S):
        while (await ground.verdicts(deployment))["d1"] != "too_early":
            await asyncio.sleep(POLL_S)
    ground.fleet.deaf.clear()
    assert DocumentName(Kind.GROUP, "all") not in device.held
    async with asyncio.timeout(WAIT_MAX_S):
        while (await ground.verdicts(deployment))["d1"] != "acknowledged":
            ground.fleet._open(device)
            await asyncio.sleep(0.5)


async def test_presence_is_unknown_while_the_hub_is_away_and_known_again_afterwards(
    ground: Ground,
) -> None:
    ground.fleet.add("d1")
    ground.fleet.write("d1", fact("class", "lamp"))
    ground.fleet.announce("d1", birth=1)
    await ground.settle()
    await ground.presences("d1", 1)  # a presence travels apart from documents
    ground.hub.kill()
    await ground.hub.start()
    await ground.presences("d1", 2)
    first, second = reversed((await ground.ask("GET", "/devices/d1"))["presence"])
    assert first["online"]
    assert second["online"]
    assert second["at_ms"] > first["at_ms"]


async def test_a_flood_of_rubbish_is_counted_by_topic_and_delays_nobody(ground: Ground) -> None:
    ground.fleet.add("honest", obeys=True)
    ground.fleet.write("honest", fact("class", "lamp"))
    await ground.settle()
    huge = Full("dev", 1, b"\1" * 100_000)
    from sync.messages import Frame, encode_frame

    frames = [b"\x91" * 3000, encode_frame(Frame(1, b"villain", 1, None, [huge]))]
    for number in range(60):
        await publish_raw(ground.broker.port, "ff/1/villain/up", frames[number % 2])
    deployment = await ground.deploy("1.0.0", devices=["honest"])
    await ground.wait_verdicts(deployment, honest="acknowledged")
    villain = (await ground.ask("GET", "/fleet"))["offences"]
    assert {row["device"] for row in villain} == {"villain"}
    assert sum(row["count"] for row in villain) == 60
    assert (await ground.ask("GET", "/devices/honest"))["offences"] == []
