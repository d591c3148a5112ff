"""The hub's publications on a broker that refuses some of them."""

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from hub import publisher as module
from hub.broker_plan import BrokerKind, BrokerPlan
from hub.clock import SystemClock
from hub.publisher import Publisher
from sync.records import Desired, encode
from sync.session import Retry
from sync.transport.mqtt import MqttTransport
from sync.transport.port import Connected, Delivery, Link, Subscription
from tests.hub.core import RUN, group, running
from tests.system.brokers import RealBroker, plan_or_skip

EVERYTHING = "topic readwrite #\n"
NO_GROUPS = "topic deny ff/1/group/#\ntopic readwrite #\n"


@dataclass(frozen=True, slots=True)
class _Guarded:
    """Mosquitto with a list of who may publish what."""

    plan: BrokerPlan
    rights: Path

    def __getattr__(self, name: str) -> object:
        return getattr(self.plan, name)

    def build_config(self, port: int, directory: Path) -> str:
        return f"{self.plan.build_config(port, directory)}\nacl_file {self.rights}\n"


async def test_what_the_broker_refused_goes_out_on_the_same_connection_once_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFUSED_RETRY", Retry(first_s=0.1, longest_s=0.1))
    rights = tmp_path / "rights"
    rights.write_text(NO_GROUPS)
    rights.chmod(0o600)
    plan = _Guarded(plan_or_skip(BrokerKind.MOSQUITTO), rights)
    broker = RealBroker(plan, tmp_path / "broker")  # type: ignore[arg-type]
    await broker.start()
    hub = MqttTransport(Link(client_id="hub", port=broker.port, version="5"))
    device = MqttTransport(
        Link(client_id="device", port=broker.port),
        subscriptions=(Subscription("ff/1/group/+"), Subscription("ff/1/d1/down")),
    )
    with running(tmp_path / "hub") as core:
        entries = {"d/mode": encode(Desired(1, '"x"'))}
        core.database.transact(lambda db: core.desired.write(db, group(), entries, core.now.ms))
        core.database.transact(core.groups.load)
        publisher = Publisher(hub, core.database, core.groups, SystemClock(), RUN)
        tasks = [asyncio.create_task(each.run()) for each in (hub, device, publisher)]
        try:
            for transport in (hub, device):
                while not any(isinstance(e, Connected) for e in await transport.receive(1)):
                    pass
            publisher.ask([group()])
            while hub.counters.publish_refused_count < 2:
                await asyncio.sleep(0.01)
            assert core.groups.unpublished() == ["grp/all"]
            rights.write_text(EVERYTHING)
            broker.send(signal.SIGHUP)
            while True:
                (event,) = await device.receive(1)
                if isinstance(event, Delivery):
                    break
            assert event.topic == "ff/1/group/all"
            while core.groups.unpublished():
                await asyncio.sleep(0.01)
            assert hub.counters.connect_count == 1
        finally:
            for task in reversed(tasks):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            broker.kill()
