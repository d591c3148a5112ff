"""A kill order from the hub over a real broker to devices, and their word back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.broker_plan import BrokerKind
from tests.fakes.fleet import Fleet, fact
from tests.fakes.hub_process import HubProcess
from tests.hub.flagged import definition
from tests.system.brokers import RealBroker, running_broker

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

POLL_S = 0.02
WAIT_MAX_S = 60.0
FLAG = "flag:pump-fast"


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

    async def wait(self, **wanted: int) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_MAX_S):
            while True:
                found: dict[str, Any] = await self.ask("GET", f"/kills/{FLAG}")
                if wanted.items() <= found.items():
                    return found
                await asyncio.sleep(POLL_S)

    async def settle(self) -> None:
        async with asyncio.timeout(WAIT_MAX_S):
            while not self.fleet.is_settled():
                await asyncio.sleep(POLL_S)


@pytest.fixture(params=[BrokerKind.MOSQUITTO, BrokerKind.NATS], ids=lambda kind: kind.value)
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    async with running_broker(request.param, tmp_path) as broker:
        hub = HubProcess(tmp_path / "hub", broker=f"127.0.0.1:{broker.port}")
        try:
            await hub.start()
            async with Fleet(broker.port) as fleet:
                await fleet.connected.wait()
                for number in range(5):
                    fleet.add(f"d{number}", obeys=True)
                    fleet.write(f"d{number}", fact("class", "pump"))
                placed = Ground(hub, broker, fleet)
                await placed.settle()
                asked = {"definition": definition()}
                await placed.ask("PUT", "/groups/all/flags/pump-fast", json=asked)
                yield placed
        finally:
            hub.kill()


async def test_an_order_reaches_every_device_and_is_taken_back_again(ground: Ground) -> None:
    await ground.ask("PUT", f"/kills/{FLAG}", json={"why": "it leaks"})
    found = await ground.wait(reached_count=5, unknown_count=0)
    assert found["published_at_ms"] is not None
    assert found["time_to_kill"]["ended_ratio"] == 1.0
    assert found["time_to_kill"]["p95"]["hi_ms"] is not None
    await ground.ask("DELETE", f"/kills/{FLAG}")
    await ground.wait(is_killed=False, reached_count=5)


async def test_a_device_that_missed_an_order_hears_it_when_the_hub_starts_anew(
    ground: Ground,
) -> None:
    ground.fleet.deaf |= {"d4"}
    await ground.ask("PUT", f"/kills/{FLAG}", json={})
    await ground.wait(reached_count=4, unknown_count=1)
    ground.hub.kill()
    ground.fleet.deaf.clear()
    await ground.hub.start()
    found = await ground.wait(reached_count=5)
    assert found["is_killed"]
