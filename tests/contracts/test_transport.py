"""What every transport does, shown over memory, mosquitto (both MQTT versions) and nats-server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hub.broker_plan import BrokerKind
from sync.transport.port import (
    Congested,
    Connected,
    Delivery,
    LinkDown,
    Presence,
    PublishTimedOut,
    Subscription,
    Transport,
)
from tests.fakes.links import (
    PATIENCE_S,
    Bench,
    Births,
    MemoryBench,
    RealBench,
    carries,
    eventually,
    is_connected,
    is_disconnected,
    payloads,
    running,
    stands,
    stop,
    until,
)
from tests.system.brokers import running_broker

UP = "ff/1/pump/up"
PRESENCE = "ff/1/pump/presence"
HEARS_UP = [Subscription("ff/1/+/up")]

REAL = [
    pytest.param((BrokerKind.MOSQUITTO, "5"), id="mosquitto-5", marks=pytest.mark.broker),
    pytest.param((BrokerKind.MOSQUITTO, "3.1.1"), id="mosquitto-3.1.1", marks=pytest.mark.broker),
    # "auto" shows the fall back as well: nats-server refuses MQTT 5.
    pytest.param((BrokerKind.NATS, "auto"), id="nats-3.1.1", marks=pytest.mark.broker),
]


async def _real_bench(
    request: pytest.FixtureRequest, tmp_path: Path, stack: AsyncExitStack
) -> RealBench:
    kind, version = request.param
    broker = await stack.enter_async_context(running_broker(kind, tmp_path))
    # nats-server repeats an unacknowledged message when its acknowledgement is 30 s late, whether
    # or not the client was away.
    prompt = kind is BrokerKind.MOSQUITTO
    return RealBench(broker, version, stack, redelivers_at_reconnect=prompt)


@pytest.fixture(params=[pytest.param(None, id="memory"), *REAL])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        if request.param is None:
            yield MemoryBench()
        else:
            yield await _real_bench(request, tmp_path, stack)


@pytest.fixture(params=REAL)
async def real_bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RealBench]:
    async with AsyncExitStack() as stack:
        yield await _real_bench(request, tmp_path, stack)


@pytest.fixture
async def one_bench(tmp_path: Path) -> AsyncIterator[RealBench]:
    """One real broker, where others would show the same and a test takes seconds."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running_broker(BrokerKind.MOSQUITTO, tmp_path))
        yield RealBench(broker, "3.1.1", stack, redelivers_at_reconnect=True)


# Messages.


@pytest.mark.parametrize("qos", [0, 1])
async def test_messages_arrive_whole_and_in_order(bench: Bench, qos: int) -> None:
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=HEARS_UP)
    sent = [bytes([number]) * number * 100 for number in range(100)]
    async with running(hub, sender):
        for payload in sent:
            assert sender.publish_soon(UP, payload, qos=qos)
        got = await until(hub, carries(sent[-1]))

    assert payloads(got, UP) == sent
    assert not any(each.retained for each in got if isinstance(each, Delivery))
    assert sender.counters.sent_count == 100
    assert hub.counters.acknowledged_count == 100 * qos


async def test_publish_returns_once_the_broker_acknowledged(bench: Bench) -> None:
    sender = await bench.client("pump")
    async with running(sender):
        published = await sender.publish(UP, b"x")
        at_qos_0 = await sender.publish(UP, b"x", qos=0)

    assert published.reason_code is None or published.nobody_listens
    assert at_qos_0.reason_code is None
    assert sender.counters.puback_count == 1


async def test_a_payload_of_the_largest_size_arrives(bench: Bench) -> None:
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=HEARS_UP)
    largest = bytes(range(256)) * 4096
    async with running(hub, sender):
        sender.publish_soon(UP, largest)
        await until(hub, carries(largest))


async def test_a_retained_message_greets_a_later_subscriber(bench: Bench) -> None:
    sender = await bench.client("pump")
    late = await bench.client("hub", subscriptions=[Subscription("ff/1/group/+")])
    async with running(sender):
        await sender.publish("ff/1/group/all", b"old", retain=True)
        await sender.publish("ff/1/group/all", b"new", retain=True)
        await sender.publish("ff/1/group/gone", b"x", retain=True)
        await sender.publish("ff/1/group/gone", b"", retain=True)
        async with running(late):
            greeting = await until(late, carries(b"new"))
            await sender.publish("ff/1/group/all", b"fence")
            rest = await until(late, carries(b"fence"))

    assert payloads(greeting) == [b"new"]
    assert [each.retained for each in greeting if isinstance(each, Delivery)] == [True]
    assert payloads(rest) == [b"fence"]


async def test_subscribing_again_brings_what_is_retained_once_more(bench: Bench) -> None:
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=[Subscription("ff/1/group/+")])
    async with running(sender, hub):
        await sender.publish("ff/1/group/all", b"kept", retain=True)
        await until(hub, carries(b"kept"))
        hub.subscribe("ff/1/group/+")
        again = await until(hub, carries(b"kept"))

    assert [each.retained for each in again if isinstance(each, Delivery)] == [True]


async def test_subscriptions_come_and_go_while_connected(bench: Bench) -> None:
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=[Subscription("fence")])
    async with running(hub, sender):
        hub.subscribe("ff/1/+/up")
        await hub.publish("fence", b"subscribed")  # behind the SUBSCRIBE on the same wire
        await until(hub, carries(b"subscribed"))
        await sender.publish(UP, b"1")
        await until(hub, carries(b"1"))
        hub.unsubscribe("ff/1/+/up")
        hub.publish_soon("fence", b"unsubscribed")  # behind the UNSUBSCRIBE on the same wire
        await until(hub, carries(b"unsubscribed"))
        await sender.publish(UP, b"2")
        await sender.publish("fence", b"done")
        got = await until(hub, carries(b"done"))

    assert b"2" not in payloads(got)


async def test_receive_returns_all_that_waits_up_to_the_limit(bench: Bench) -> None:
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=HEARS_UP)
    async with running(hub, sender):
        for number in range(30):
            await sender.publish(UP, b"%d" % number)
        gathered: list[int] = []
        async with asyncio.timeout(PATIENCE_S):
            while sum(gathered) < 30:
                gathered.append(len(await hub.receive(20)))

    assert max(gathered) <= 20


async def test_a_second_reader_is_refused(bench: Bench) -> None:
    transport = await bench.client("pump")
    first = asyncio.create_task(transport.receive(1))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one reader"):
        await transport.receive(1)
    await stop_waiting(first)


async def stop_waiting(task: "asyncio.Task[object]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("topic", ["", "ff/1/+/up", "ff/#", "nul\0", "x" * 70_000])
async def test_a_topic_that_cannot_be_published_on_is_refused(bench: Bench, topic: str) -> None:
    sender = await bench.client("pump")
    async with running(sender):
        with pytest.raises(ValueError, match="topic"):
            sender.publish_soon(topic, b"x")

    assert sender.counters.sent_count == 0


async def test_a_payload_above_the_limit_is_refused(bench: Bench) -> None:
    sender = await bench.client("pump", payload_max_bytes=10)
    async with running(sender):
        with pytest.raises(ValueError, match="payload_max_bytes"):
            await sender.publish(UP, b"x" * 11)

    assert sender.counters.sent_count == 0


# Limits.


async def test_a_payload_too_large_is_dropped_acknowledged_and_counted(bench: Bench) -> None:
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=HEARS_UP, payload_max_bytes=1000)
    async with running(hub, sender):
        for qos in (0, 1):
            sender.publish_soon(UP, b"x" * 1000, qos=qos)
            sender.publish_soon(UP, b"y" * 1001, qos=qos)
            sender.publish_soon(UP, b"z" * 500_000, qos=qos)
        sender.publish_soon(UP, b"fence 0", qos=0)
        sender.publish_soon(UP, b"fence")
        got = payloads(await until(hub, carries(b"fence")))
        if b"fence 0" not in got:
            got += payloads(await until(hub, carries(b"fence 0")))
        await hub.publish("fence", b"")  # behind the acknowledgements on the same wire
        bench.cut("hub")
        await until(hub, is_connected)
        await sender.publish(UP, b"again")
        after = payloads(await until(hub, carries(b"again")))

    assert sorted(got) == [b"fence", b"fence 0", b"x" * 1000, b"x" * 1000]
    assert hub.counters.oversize_count == 4
    assert after == [b"again"]


async def test_a_reader_that_is_behind_stops_the_reading_and_loses_nothing(bench: Bench) -> None:
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=HEARS_UP, inbound_max_count=10)
    count = 3000
    async with running(hub, sender):
        for number in range(count):
            sender.publish_soon(UP, b"%04d" % number + b"x" * 1000)
        await eventually(
            lambda: hub.counters.pause_count > 0 and sender.counters.puback_count == count
        )
        # What one read of the socket brought may be above the limit, not more.
        waiting_count = len(hub._inbox)  # type: ignore[attr-defined]
        last = b"%04d" % (count - 1) + b"x" * 1000
        got = payloads(await until(hub, carries(last)))

    assert waiting_count < count
    assert [each[:4] for each in got] == [b"%04d" % number for number in range(count)]


async def test_a_writer_that_is_too_fast_is_told_so(bench: Bench) -> None:
    sender = await bench.client("pump", outbound_max_count=10, inflight_max_count=2)
    hub = await bench.client("hub", subscriptions=HEARS_UP)
    async with running(hub, sender):
        taken = publish_until_congested(sender, 1)
        got = await until(hub, carries(b"%d" % (taken - 1)))
        await sender.publish(UP, b"there is room again")

    assert 10 <= taken <= 12
    assert payloads(got) == [b"%d" % number for number in range(taken)]
    assert sender.counters.congested_count == 1


async def test_outbound_bytes_are_limited_too(bench: Bench) -> None:
    sender = await bench.client("pump", outbound_max_bytes=10_000, inflight_max_count=1)
    async with running(sender):
        taken = publish_until_congested(sender, 1000)

    assert 9 <= taken <= 11
    assert sender.counters.congested_count == 1


def publish_until_congested(sender: Transport, width_bytes: int) -> int:
    """Publish 0, 1, 2 and so on without a pause; return how many were taken."""
    for number in range(100):
        try:
            sender.publish_soon(UP, (b"%d" % number).ljust(width_bytes))
        except Congested:
            return number
    raise AssertionError("never congested")


# Presence.


async def test_the_will_follows_an_abrupt_death_with_the_number_of_its_birth(
    bench: Bench,
) -> None:
    births = Births()
    device = await bench.client("pump", presence=Presence(PRESENCE, births))
    hub = await bench.client("hub", subscriptions=[Subscription("ff/1/+/presence")])
    async with running(hub):
        await stands(hub, "ff/1/fence/presence")
        async with running(device):
            born = births.count  # an attempt in a version that the broker refuses is a birth, too
            await until(hub, carries(b"online %d" % born))
            bench.keep_out("pump")
            death = await until(hub, carries(b"offline %d" % born))
            bench.let_in("pump")
            back = await until(hub, lambda event: event_payload(event).startswith(b"online"))

    assert payloads(death) == [b"offline %d" % born]
    assert payloads(back)[-1] == b"online %d" % births.count
    assert births.count > born


def event_payload(event: object) -> bytes:
    return event.payload if isinstance(event, Delivery) else b""


async def test_a_clean_stop_says_so_and_leaves_no_will(bench: Bench) -> None:
    births = Births()
    device = await bench.client("pump", presence=Presence(PRESENCE, births))
    hub = await bench.client("hub", subscriptions=[Subscription("ff/1/+/presence")])
    late = await bench.client("late", subscriptions=[Subscription("ff/1/+/presence")])
    async with running(hub):
        async with running(device):
            await until(hub, carries(b"online %d" % births.count))
            device.publish_soon(UP, b"last words")
            device.publish_soon(PRESENCE, b"still here")
        # Published by the session that a will would belong to, behind the will.
        async with running(device):
            got = await until(hub, carries(b"online %d" % births.count))
        async with running(late):
            kept = await until(late, carries(b"stopped %d" % births.count))

    assert [each.split()[0] for each in payloads(got)] == [b"still", b"stopped", b"online"]
    assert payloads(kept) == [b"stopped %d" % births.count]
    assert not device.connected


# Ends and new beginnings.


async def test_without_a_connection_messages_are_dropped_and_counted(bench: Bench) -> None:
    sender = await bench.client("pump")

    assert not sender.publish_soon(UP, b"x")
    with pytest.raises(LinkDown):
        await sender.publish(UP, b"x")
    assert sender.counters.dropped_not_connected_count == 1
    assert not sender.connected


async def test_an_unacknowledged_message_comes_again_after_a_reconnect(bench: Bench) -> None:
    if not bench.redelivers_at_reconnect:
        pytest.skip("this broker repeats an unacknowledged message only after 30 s")
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=HEARS_UP)
    async with running(hub, sender):
        await sender.publish(UP, b"acknowledged")
        await until(hub, carries(b"acknowledged"))
        await hub.publish("fence", b"")  # behind the acknowledgement on the same wire
        await sender.publish(UP, b"not acknowledged")
        first = await until(hub, carries(b"not acknowledged"), acknowledge=False)
        bench.cut("hub")
        await until(hub, is_connected)
        again = await until(hub, carries(b"not acknowledged"))
        stale = first[-1]
        assert isinstance(stale, Delivery)
        hub.acknowledge(stale)
        await sender.publish(UP, b"fence")
        rest = await until(hub, carries(b"fence"))

    assert b"acknowledged" not in payloads(again)
    assert [each.duplicate for each in again if isinstance(each, Delivery)] == [True]
    assert payloads(rest) == [b"fence"]
    assert hub.counters.stale_acknowledge_count == 1


async def test_the_session_keeps_messages_for_an_absent_client(bench: Bench) -> None:
    numbers = {b"%d" % number for number in range(50)}
    sender = await bench.client("pump")
    hub = await bench.client("hub", subscriptions=HEARS_UP)
    async with running(sender, hub):
        await sender.publish(UP, b"the subscription stands")
        await until(hub, carries(b"the subscription stands"))
        bench.keep_out("hub")
        await until(hub, is_disconnected)
        for number in range(50):
            await sender.publish(UP, b"%d" % number)
        bench.let_in("hub")
        got = await until(hub, carries(b"49"))
        in_time = [payload for payload in payloads(got) if payload in numbers]
        # What was sent into the connection that was cut comes again: at the reconnect or, from a
        # broker that does not do that, after 30 s.
        async with asyncio.timeout(2 * PATIENCE_S):
            while not numbers <= set(payloads(got)):
                assert not bench.redelivers_at_reconnect
                got += await hub.receive(1)

    assert in_time == sorted(in_time, key=int)
    kept = [event.session_present for event in got if isinstance(event, Connected)]
    assert kept == [True]


async def test_a_killed_broker_is_noticed_and_found_again(bench: Bench) -> None:
    sender = await bench.client("pump")
    async with running(sender):
        bench.kill()
        lost = await until(sender, is_disconnected)
        assert not sender.connected
        assert not sender.publish_soon(UP, b"x")
        await bench.restart(forget=False)
        await until(sender, is_connected)
        await sender.publish(UP, b"x")

    assert lost[-1].reason  # type: ignore[union-attr]
    assert sender.counters.disconnect_count == 1
    assert sender.counters.connect_count == 2


async def test_everything_works_again_after_the_broker_forgot_everything(bench: Bench) -> None:
    births = Births()
    hub = await bench.client("hub", subscriptions=HEARS_UP)
    hub.subscribe("ff/1/+/presence")
    device = await bench.client("pump", presence=Presence(PRESENCE, births))
    late = await bench.client("late", subscriptions=[Subscription(PRESENCE)])
    async with running(hub, device):
        await bench.restart(forget=True)
        back = await until(hub, is_connected)
        await until(device, is_connected)
        device.publish_soon(UP, b"hello again")
        await until(hub, carries(b"hello again"))
        async with running(late):
            announced = await until(late, lambda event: event_payload(event) != b"")

    assert back[-1].session_present is False  # type: ignore[union-attr]
    assert payloads(announced) == [b"online %d" % births.count]


async def test_a_second_run_is_refused_and_the_first_goes_on(bench: Bench) -> None:
    device = await bench.client("pump")
    async with running(device):
        with pytest.raises(RuntimeError, match="runs already"):
            await device.run()
        await device.publish(UP, b"x")


async def test_cancelling_ends_the_run_and_leaves_no_task(bench: Bench) -> None:
    device = await bench.client("pump", presence=Presence(PRESENCE, Births()))
    before = asyncio.all_tasks()
    task = asyncio.create_task(device.run())
    await until(device, is_connected)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not device.connected
    own = {each for each in asyncio.all_tasks() - before if "LinkProxy" not in repr(each)}
    assert not own


# Only a real network can do these.


async def test_a_frozen_broker_is_noticed_by_its_silence(real_bench: RealBench) -> None:
    device = await real_bench.client("pump", keepalive_s=1)
    async with running(device):
        real_bench.broker.freeze()
        lost = await until(device, is_disconnected)
        real_bench.broker.thaw()
        await until(device, is_connected)

    assert "silent" in lost[-1].reason  # type: ignore[union-attr]


@pytest.mark.broker
async def test_an_idle_connection_survives_many_keepalives(one_bench: RealBench) -> None:
    device = await one_bench.client("pump", keepalive_s=2)
    async with running(device):
        silence = asyncio.create_task(device.receive(1))
        await asyncio.wait({silence}, timeout=4.5)  # brokers cut after 1.5 silent keepalives
        await stop_waiting(silence)
        assert device.connected

    assert device.counters.disconnect_count == 0


@pytest.mark.broker
async def test_not_reading_is_not_mistaken_for_silence(one_bench: RealBench) -> None:
    sender = await one_bench.client("pump")
    hub = await one_bench.client("hub", subscriptions=HEARS_UP, keepalive_s=2, inbound_max_count=1)
    async with running(hub, sender):
        for number in range(20):
            await sender.publish(UP, b"%d" % number)
        waiting = asyncio.create_task(asyncio.Event().wait())
        await asyncio.wait({waiting}, timeout=4.5)  # brokers cut after 1.5 silent keepalives
        await stop_waiting(waiting)
        got = await until(hub, carries(b"19"))

    assert payloads(got) == [b"%d" % number for number in range(20)]
    assert hub.counters.disconnect_count == 0


async def test_waiting_for_a_puback_ends_with_the_deadline_or_with_the_link(
    real_bench: RealBench,
) -> None:
    sender = await real_bench.client("pump")
    async with running(sender):
        real_bench.proxies["pump"].stall()
        with pytest.raises(PublishTimedOut):
            await sender.publish(UP, b"x", deadline_s=0.05)
        waiting = asyncio.create_task(sender.publish(UP, b"y"))
        await asyncio.sleep(0)
        real_bench.proxies["pump"].cut()
        with pytest.raises(LinkDown):
            await waiting

    assert sender.counters.dropped_link_lost_count == 2


async def test_a_broker_that_acknowledges_nothing_is_given_up(real_bench: RealBench) -> None:
    sender = await real_bench.client("pump", keepalive_s=1, inflight_max_count=1, puback_max_s=0.3)
    async with running(sender):
        real_bench.proxies["pump"].stall()
        sender.publish_soon(UP, b"x")
        sender.publish_soon(UP, b"y")
        lost = await until(sender, is_disconnected)
        real_bench.proxies["pump"].resume()
        await until(sender, is_connected)

    assert "acknowledged nothing" in lost[-1].reason  # type: ignore[union-attr]


async def test_a_goodbye_that_nobody_answers_ends_in_time_and_the_will_says_it(
    real_bench: RealBench, caplog: pytest.LogCaptureFixture
) -> None:
    births = Births()
    device = await real_bench.client("pump", presence=Presence(PRESENCE, births), close_max_s=0.1)
    hub = await real_bench.client("hub", subscriptions=[Subscription(PRESENCE)])
    async with running(hub):
        async with running(device) as tasks:
            real_bench.proxies["pump"].stall()
            await stop(tasks[0])
        real_bench.proxies["pump"].cut()
        real_bench.proxies["pump"].resume()
        got = await until(hub, carries(b"offline %d" % births.count))

    assert not any(each.startswith(b"stopped") for each in payloads(got))
    assert "without a goodbye" in caplog.text


async def test_cancelling_an_attempt_that_hangs_ends_at_once(real_bench: RealBench) -> None:
    device = await real_bench.client("pump", connect_max_s=3600)
    real_bench.proxies["pump"].stall()
    task = asyncio.create_task(device.run())
    await eventually(lambda: real_bench.proxies["pump"].connection_count > 0)
    await stop(task)

    assert task.cancelled()


async def test_an_attempt_that_hangs_is_given_up_and_repeated(real_bench: RealBench) -> None:
    device = await real_bench.client("pump", connect_max_s=0.2)
    real_bench.proxies["pump"].stall()
    task = asyncio.create_task(device.run())
    await eventually(lambda: device.counters.connect_failed_count >= 2)
    real_bench.proxies["pump"].resume()
    await until(device, is_connected)
    await stop(task)
