"""The broker in memory: faults on demand, and the same ones every time."""

import asyncio

import pytest

from sync.transport.memory import MemoryTransport
from sync.transport.memory_broker import Faults, MemoryBroker
from sync.transport.port import Link, Presence, Subscription
from tests.fakes.links import Births, carries, payloads, running, until

UP = "ff/1/pump/up"


async def heard(faults: Faults, *, seed: int) -> list[bytes]:
    """Return what a subscriber hears of 200 numbered messages."""
    broker = MemoryBroker(seed=seed, faults=faults)
    sender = MemoryTransport(broker, Link(client_id="pump"))
    hub = MemoryTransport(broker, Link(client_id="hub"), subscriptions=[Subscription(UP)])
    async with running(hub, sender):
        for number in range(200):
            await sender.publish(UP, b"%d" % number)
        for _ in range(20):  # what is held back arrives a few turns late
            await asyncio.sleep(0)
        broker.spoil("hub", Faults())
        await sender.publish(UP, b"fence")
        return payloads(await until(hub, carries(b"fence")))[:-1]


async def test_without_faults_everything_arrives_once_and_in_order() -> None:
    assert await heard(Faults(), seed=1) == [b"%d" % number for number in range(200)]


async def test_loss_takes_messages_away() -> None:
    got = await heard(Faults(loss_ratio=0.3), seed=1)

    assert 100 < len(got) < 180
    assert got == sorted(got, key=int)


async def test_duplication_brings_messages_twice() -> None:
    got = await heard(Faults(duplicate_ratio=0.3), seed=1)

    assert 220 < len(got) < 300
    assert len(set(got)) == 200


async def test_reordering_changes_the_order_and_loses_nothing() -> None:
    got = await heard(Faults(reorder_ratio=0.3), seed=1)

    assert got != sorted(got, key=int)
    assert sorted(got, key=int) == [b"%d" % number for number in range(200)]


async def test_one_seed_is_one_history() -> None:
    faults = Faults(loss_ratio=0.2, duplicate_ratio=0.2, reorder_ratio=0.2)

    assert await heard(faults, seed=5) == await heard(faults, seed=5)
    assert await heard(faults, seed=5) != await heard(faults, seed=6)


async def test_a_deafened_client_looks_healthy_and_hears_nothing() -> None:
    broker = MemoryBroker()
    device = MemoryTransport(
        broker,
        Link(client_id="pump"),
        subscriptions=[Subscription("ff/1/pump/down")],
        presence=Presence("ff/1/pump/presence", Births()),
    )
    hub = MemoryTransport(
        broker, Link(client_id="hub", version="5"), subscriptions=[Subscription("ff/1/+/up")]
    )
    async with running(hub, device):
        broker.spoil("pump", Faults(loss_ratio=1.0))
        told = await hub.publish("ff/1/pump/down", b"install this")
        await device.publish(UP, b"all is well")
        await until(hub, carries(b"all is well"))
        broker.spoil("pump", None)
        await hub.publish("ff/1/pump/down", b"install that")
        got = await until(device, carries(b"install that"))

        assert broker.retained()["ff/1/pump/presence"] == b"online 1"
    assert told.reason_code == 0
    assert payloads(got) == [b"install that"]


async def test_a_second_client_of_one_name_throws_the_first_out() -> None:
    broker = MemoryBroker()
    first = MemoryTransport(broker, Link(client_id="pump"))
    second = MemoryTransport(broker, Link(client_id="pump"))
    async with running(first):
        broker.connect(second, "pump")
        (lost,) = [
            event
            for event in await until(first, lambda event: "took over" in str(event))
            if "took over" in str(event)
        ]

    assert lost


async def test_qos_0_is_not_kept_for_an_absent_client() -> None:
    broker = MemoryBroker()
    sender = MemoryTransport(broker, Link(client_id="pump"))
    hub = MemoryTransport(broker, Link(client_id="hub"), subscriptions=[Subscription(UP)])
    async with running(sender):
        async with running(hub):
            pass
        await sender.publish(UP, b"light", qos=0)
        await sender.publish(UP, b"heavy", qos=1)
        async with running():
            task = asyncio.create_task(hub.run())
            got = await until(hub, carries(b"heavy"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    assert payloads(got) == [b"heavy"]
