"""Real hub, agents, broker and cuts: a release goes out and its outcome returns."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from hub.broker_plan import BrokerKind
from hub.link_proxy import LinkProxy
from sync.messages import Diff, Frame, Full, encode_frame
from tests.system.brokers import RealBroker, running_broker
from tests.system.programs import AgentProgram, HubProgram, Refused, lamp, until
from tests.system.publisher import publish_raw

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]


class Fleet:
    """A hub, its broker and some agents; everything is stopped at the end of the test."""

    def __init__(self, folder: Path, broker: RealBroker) -> None:
        self.folder = folder
        self.broker = broker
        self.hub = HubProgram(folder, broker.port)
        self.agents: list[AgentProgram] = []

    def agent(self, device: str, *, port: int | None = None, **settings: str) -> AgentProgram:
        agent = AgentProgram(
            self.folder, device, self.hub.url, port or self.broker.port, **settings
        )
        agent.start()
        self.agents.append(agent)
        return agent

    def deploy(self, release: str, **fields: Any) -> str:
        asked = {"release": release, "group": "all", **fields}
        return str(self.hub.ask("POST", "/deployments", asked)["deployment"])

    def device(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.hub.ask("GET", f"/devices/{name}")
        except Refused:
            return {}
        return found

    def verdict(self, deployment: str, device: str) -> str:
        report = self.hub.ask("GET", f"/deployments/{deployment}")
        for row in report["devices"]:
            if row["device"] == device:
                return str(row["verdict"])
        return "absent"

    async def wait_verdict(self, deployment: str, device: str, verdict: str) -> None:
        await until(
            lambda: self.verdict(deployment, device) == verdict,
            lambda: (
                f"{device} is {self.verdict(deployment, device)}, not {verdict}\n"
                + "\n".join(a.tail() for a in self.agents if a.device == device)
                + self.hub.tail()
            ),
        )

    async def wait_registered(self, *devices: str) -> None:
        await until(lambda: all(self.device(name) for name in devices), self.hub.tail)

    def stop(self) -> None:
        for agent in self.agents:
            agent.kill()
        self.hub.kill()


@pytest.fixture(params=[BrokerKind.MOSQUITTO, BrokerKind.NATS], ids=lambda kind: kind.value)
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_broker(request.param, tmp_path) as broker:
        fleet = Fleet(tmp_path, broker)
        fleet.hub.start()
        try:
            await fleet.hub.wait_ready()
            yield fleet
        finally:
            fleet.stop()


async def test_a_release_and_its_outcome_travel_with_the_network_cut_in_between(
    fleet: Fleet,
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(LinkProxy(fleet.broker.port))
        far = fleet.agent("far", port=proxy.port)
        near = fleet.agent("near")
        await fleet.wait_registered("far", "near")
        first = fleet.deploy(fleet.hub.publish_release(*lamp("1.0.0")))
        await fleet.wait_verdict(first, "far", "acknowledged")
        await fleet.wait_verdict(first, "near", "acknowledged")
        assert (far.runs(), near.runs()) == ("1.0.0", "1.0.0")

        proxy.cut()
        second = fleet.deploy(fleet.hub.publish_release(*lamp("1.1.0")))
        await fleet.wait_verdict(second, "near", "acknowledged")
        far.cli("set", "mode", '"eco"')
        await fleet.wait_verdict(second, "far", "unreachable")
        assert far.runs() == "1.0.0"
        proxy.restore()
        await fleet.wait_verdict(second, "far", "acknowledged")

        assert far.runs() == "1.1.0"
        await until(
            lambda: any(
                row["key"] == "mode" and row["local"] == "eco"
                for row in fleet.device("far")["settings"]
            ),
            lambda: str(fleet.device("far")),
        )
        fleet_status = fleet.hub.ask("GET", "/fleet")
        assert fleet_status["registered_count"] == 2


async def test_a_broker_that_forgets_everything_delays_a_release_and_loses_nothing(
    fleet: Fleet,
) -> None:
    lamp_agent = fleet.agent("lamp-1")
    await fleet.wait_registered("lamp-1")
    first = fleet.deploy(fleet.hub.publish_release(*lamp("1.0.0")))
    await fleet.wait_verdict(first, "lamp-1", "acknowledged")

    fleet.broker.kill()
    second = fleet.deploy(fleet.hub.publish_release(*lamp("1.1.0")))
    lamp_agent.cli("set", "mode", '"dim"')
    await fleet.broker.restart(forget=True)

    await fleet.wait_verdict(second, "lamp-1", "acknowledged")
    assert lamp_agent.runs() == "1.1.0"


async def test_hub_and_agent_killed_in_the_middle_of_a_release_both_finish_it(
    fleet: Fleet,
) -> None:
    agent = fleet.agent("lamp-1")
    await fleet.wait_registered("lamp-1")
    first = fleet.deploy(fleet.hub.publish_release(*lamp("1.0.0")))
    await fleet.wait_verdict(first, "lamp-1", "acknowledged")

    release = fleet.hub.publish_release(*lamp("1.1.0", size_bytes=3_000_000))
    second = fleet.deploy(release)
    fleet.hub.kill()
    agent.kill()
    agent.start()
    fleet.hub.start()
    await fleet.hub.wait_ready()

    await fleet.wait_verdict(second, "lamp-1", "acknowledged")
    assert agent.runs() == "1.1.0"


async def test_a_release_that_fails_its_health_check_is_taken_back_and_the_hub_says_why(
    fleet: Fleet,
) -> None:
    agent = fleet.agent("lamp-1")
    await fleet.wait_registered("lamp-1")
    first = fleet.deploy(fleet.hub.publish_release(*lamp("1.0.0")))
    await fleet.wait_verdict(first, "lamp-1", "acknowledged")

    second = fleet.deploy(fleet.hub.publish_release(*lamp("1.1.0", healthy=False)))
    await fleet.wait_verdict(second, "lamp-1", "rolled_back")

    assert agent.runs() == "1.0.0"
    (row,) = fleet.hub.ask("GET", f"/deployments/{second}")["devices"]
    assert row["reason"].startswith("health")


async def test_a_conflict_between_application_and_operator_is_visible_on_the_hub(
    fleet: Fleet,
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(LinkProxy(fleet.broker.port))
        agent = fleet.agent("lamp-1", port=proxy.port)
        await fleet.wait_registered("lamp-1")
        proxy.cut()
        fleet.hub.ask("PUT", "/devices/lamp-1/settings/mode", {"value": "bright"})
        agent.cli("set", "mode", '"dim"')
        proxy.restore()

        def conflict() -> bool:
            return any(
                row["key"] == "mode" and row["conflict"]
                for row in fleet.device("lamp-1")["settings"]
            )

        await until(conflict, lambda: str(fleet.device("lamp-1")))
        (row,) = fleet.device("lamp-1")["settings"]
        assert (row["local"], row["desired"]) == ("dim", "bright")
        assert row["effective"] == agent.cli("get", "mode")["value"]


def _junk(device: str) -> list[Callable[[], bytes]]:
    def frame(*messages: Any) -> bytes:
        return encode_frame(Frame(1, b"\0" * 6, 1, None, list(messages)))

    update = bytes.fromhex("010000000000")
    return [
        lambda: b"",
        lambda: secrets.token_bytes(300),
        lambda: b"\x91" * 5000,
        lambda: frame(Full(f"dev/{device}", 9, update, [])),
        lambda: frame(Full("grp/all", 2**52, b"\0\0", [])),
        lambda: frame(Full(f"des/{device}", 2**52, b"\0\0", [])),
        lambda: frame(Diff("dev", 1, bytes.fromhex("0102630000ffffffff0f0a0100"), b"abcd")),
        lambda: frame(Diff("dev", 1, b"\x75\x01" * 20_000, b"abcd")),
    ]


async def test_rubbish_on_the_wire_is_counted_against_its_sender_and_harms_nobody(
    fleet: Fleet,
) -> None:
    agent = fleet.agent("honest")
    await fleet.wait_registered("honest")
    release = fleet.hub.publish_release(*lamp("1.0.0"))
    for _ in range(5):
        for make in _junk("honest"):
            await publish_raw(fleet.broker.port, "ff/1/villain/up", make())
            await publish_raw(fleet.broker.port, "ff/1/villain/presence", make())
            await publish_raw(fleet.broker.port, "ff/1/honest/down", make())
            await publish_raw(fleet.broker.port, "ff/1/group/all", make())

    deployment = fleet.deploy(release)
    await fleet.wait_verdict(deployment, "honest", "acknowledged")

    assert agent.is_running()
    assert fleet.hub.is_running()
    offences = fleet.device("villain").get("offences") or []
    assert sum(row["count"] for row in offences) >= 5
    # That it refused what a stranger said in the hub's name is told, and is all that is told.
    assert {row["code"] for row in fleet.device("honest")["offences"]} <= {"refuses"}


async def test_both_programs_stop_cleanly_when_asked(fleet: Fleet) -> None:
    agent = fleet.agent("lamp-1")
    await fleet.wait_registered("lamp-1")

    assert await asyncio.to_thread(agent.end) == 0
    await until(lambda: fleet.device("lamp-1")["online"] is False, fleet.hub.tail)
    assert await asyncio.to_thread(fleet.hub.end) == 0
