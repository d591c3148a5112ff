"""What the MQTT transport says on the wire, and how it takes brokers that misbehave."""

import asyncio
import logging
import random
import socket
from typing import Any

import pytest

from sync.transport.connection import Connection
from sync.transport.mqtt import MqttTransport
from sync.transport.packets import encode_puback, encode_publish
from sync.transport.port import (
    Connected,
    Delivery,
    Disconnected,
    Link,
    Presence,
    PublishRefused,
    Subscription,
)
from tests.fakes.links import (
    Births,
    carries,
    eventually,
    is_connected,
    is_disconnected,
    running,
    stop,
    until,
)
from tests.fakes.scripted_broker import CONNACK_3, CONNACK_5, PINGRESP, Peer, ScriptedBroker, suback


def transport(
    broker: ScriptedBroker,
    *,
    subscriptions: list[Subscription] | None = None,
    presence: Presence | None = None,
    **settings: Any,
) -> MqttTransport:
    quick: dict[str, Any] = {"reconnect_min_s": 0.01, "reconnect_max_s": 0.02}
    link = Link(client_id="pump", port=broker.port, **(quick | settings))
    return MqttTransport(link, subscriptions=subscriptions or [], presence=presence)


def level(connect: bytes) -> int:
    """Return the protocol level of a CONNECT shorter than 128 bytes."""
    return connect[8]


def flags(connect: bytes) -> int:
    return connect[9]


# Versions.


async def test_mqtt_5_is_tried_first_and_what_worked_is_remembered() -> None:
    levels: list[int] = []

    async def refuse_5(peer: Peer) -> None:
        connect = await peer.read()
        levels.append(level(connect))
        peer.write(CONNACK_3 if level(connect) == 4 else b"\x20\x02\x00\x01")

    async with ScriptedBroker(refuse_5) as broker:
        pump = transport(broker)
        async with running(pump):
            await until(pump, is_disconnected)
            await until(pump, is_connected)

    assert levels[:3] == [5, 4, 4]
    assert pump.counters.connect_failed_count == 1


async def test_mqtt_5_comes_back_when_3_is_refused() -> None:
    levels: list[int] = []

    async def refuse_3_later(peer: Peer) -> None:
        connect = await peer.read()
        levels.append(level(connect))
        wanted = 4 if len(levels) < 3 else 5
        accepted = CONNACK_3 if wanted == 4 else CONNACK_5
        peer.write(accepted if level(connect) == wanted else b"\x20\x02\x00\x01")

    async with ScriptedBroker(refuse_3_later) as broker:
        pump = transport(broker)
        async with running(pump):
            assert (await until(pump, is_connected))[-1].version == "5"  # type: ignore[union-attr]

    assert levels[:4] == [5, 4, 4, 5]


async def test_a_broker_that_closes_without_a_word_is_asked_in_the_other_version() -> None:
    async def hang_up_on_5(peer: Peer) -> None:
        connect = await peer.read()
        if level(connect) == 4:
            peer.write(CONNACK_3)
            await peer.until_gone()

    async with ScriptedBroker(hang_up_on_5) as broker:
        pump = transport(broker)
        task = asyncio.create_task(pump.run())
        (event,) = await until(pump, is_connected)
        await stop(task)

    assert isinstance(event, Connected)
    assert event.version == "3.1.1"


@pytest.mark.parametrize(("version", "expected"), [("3.1.1", 4), ("5", 5)])
async def test_a_chosen_version_is_never_left(version: str, expected: int) -> None:
    levels: list[int] = []

    async def refuse(peer: Peer) -> None:
        levels.append(level(await peer.read()))
        peer.write(b"\x20\x02\x00\x01")

    async with ScriptedBroker(refuse) as broker:
        pump = transport(broker, version=version)
        task = asyncio.create_task(pump.run())
        await eventually(lambda: len(levels) > 3)
        await stop(task)

    assert set(levels) == {expected}
    assert "refused" in pump.last_failure


# What is on the wire.


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_the_session_is_never_started_clean_and_no_alias_is_announced(version: str) -> None:
    connects: list[bytes] = []

    async def note(peer: Peer) -> None:
        connects.append(await peer.accept(CONNACK_3 if version == "3.1.1" else CONNACK_5))

    async with ScriptedBroker(note) as broker:
        pump = transport(
            broker,
            version=version,
            presence=Presence("ff/1/pump/presence", Births()),
            username="me",
            password="secret",
        )
        async with running(pump):
            await until(pump, is_disconnected)
            await until(pump, is_connected)

    for connect in connects[:2]:
        assert not flags(connect) & 0x02, "clean start"
        assert flags(connect) & 0xE4 == 0xE4, "user name, password, will, will retain"
        assert b"\x22" not in connect[12:24], "TopicAliasMaximum among the properties"
        assert b"secret" in connect
    assert b"offline 1" in connects[0]
    assert b"offline 2" in connects[1]


async def test_delay_is_off_and_what_one_turn_publishes_leaves_in_one_segment() -> None:
    chunks: list[bytes] = []
    done = asyncio.Event()

    async def note(peer: Peer) -> None:
        await peer.accept(CONNACK_3)
        while not done.is_set():
            chunk = await peer._reader.read(65_536)
            chunks.append(chunk)
            if b"last" in chunk:
                done.set()

    async with ScriptedBroker(note) as broker:
        pump = transport(broker, version="3.1.1")
        async with running(pump):
            connection = pump._connection
            assert connection is not None
            assert connection._io is not None
            sock = connection._io.get_extra_info("socket")
            no_delay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for number in range(50):
                pump.publish_soon("t", b"%d" % number, qos=0)
            pump.publish_soon("t", b"last", qos=0)
            await done.wait()

    assert no_delay
    assert len(chunks) == 1


async def test_the_brokers_own_limits_win() -> None:
    async def limited(peer: Peer) -> None:
        # CONNACK with receive maximum 2, maximum packet size 100, server keepalive 1 s.
        properties = b"\x21\x00\x02" + b"\x27\x00\x00\x00\x64" + b"\x13\x00\x01"
        await peer.accept(b"\x20\x0e\x00\x00\x0b" + properties)
        assert (await peer.read())[-1:] == b"1"
        assert (await peer.read())[-1:] == b"2"
        ping = await peer.read()  # the third message waits for a PUBACK; the ping does not
        assert ping == b"\xc0\x00"
        peer.write(PINGRESP, encode_puback(0x1000))
        assert (await peer.read())[-1:] == b"3"
        peer.write(encode_puback(0x1001), encode_puback(0x1002))
        await peer.until_gone()

    async with ScriptedBroker(limited) as broker:
        pump = transport(broker)
        async with running(pump):
            with pytest.raises(ValueError, match="too large for the broker"):
                pump.publish_soon("t", bytes(100))
            for number in (b"1", b"2", b"3"):
                pump.publish_soon("t", number)
            await eventually(lambda: pump.counters.puback_count == 3)


async def test_a_refused_message_names_the_reason() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.accept(CONNACK_5)
        packet = await peer.read()
        packet_id = packet[5:7]  # topic "t": 1 + 1 + 2 + 1 bytes before it
        peer.write(b"\x40\x03" + packet_id + b"\x87")
        await peer.until_gone()

    async with ScriptedBroker(refuse) as broker:
        pump = transport(broker)
        async with running(pump):
            with pytest.raises(PublishRefused, match="0x87") as refusal:
                await pump.publish("t", b"x")

    assert refusal.value.topic == "t"
    assert pump.counters.publish_refused_count == 1


@pytest.mark.parametrize("version5", [False, True])
async def test_a_refused_subscription_is_counted_and_named(
    version5: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.accept(CONNACK_5 if version5 else CONNACK_3)
        peer.write(suback(await peer.read(), version5=version5, reason=0x80))
        await peer.until_gone()

    async with ScriptedBroker(refuse) as broker:
        pump = transport(
            broker, version="5" if version5 else "3.1.1", subscriptions=[Subscription("no/entry")]
        )
        async with running(pump):
            assert pump.connected

    assert pump.counters.subscribe_refused_count == 1
    assert "no/entry" in caplog.text


async def test_connected_is_reported_before_anything_is_delivered() -> None:
    """A broker may deliver before it has confirmed the subscription (MQTT 3.1.1, 3.8.4)."""

    async def hasty(peer: Peer) -> None:
        await peer.accept(CONNACK_3)
        subscribe = await peer.read()
        peer.write(_publish(b"early"), suback(subscribe, version5=False), _publish(b"late"))
        await peer.until_gone()

    async with ScriptedBroker(hasty) as broker:
        pump = transport(broker, version="3.1.1", subscriptions=[Subscription("t")])
        task = asyncio.create_task(pump.run())
        events = await until(pump, carries(b"late"))
        await stop(task)

    assert [type(each) for each in events] == [Connected, Delivery, Delivery]


def _publish(payload: bytes, topic: bytes = b"t", packet_id: int = 0) -> bytes:
    return encode_publish(
        topic, payload, qos=int(packet_id > 0), retain=False, packet_id=packet_id, version5=False
    )


# Brokers that misbehave.


async def test_a_topic_that_is_not_text_is_dropped_and_acknowledged() -> None:
    async def odd(peer: Peer) -> None:
        await peer.accept(CONNACK_3)
        peer.write(_publish(b"x", b"\xff\xfe", 9), _publish(b"fence"))
        assert await peer.read() == encode_puback(9)
        await peer.until_gone()

    async with ScriptedBroker(odd) as broker:
        pump = transport(broker, version="3.1.1")
        async with running(pump):
            await until(pump, carries(b"fence"))
            await eventually(lambda: pump.counters.bad_topic_count == 1)

        assert broker.connection_count == 1


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x30\x80\x80\x80\x80\x01", id="endless length"),
        pytest.param(b"\x34\x05\x00\x01t\x00\x01", id="QoS 2"),
        pytest.param(b"\x00\x00", id="reserved packet"),
        pytest.param(b"\x90\x00", id="empty SUBACK"),
        pytest.param(b"\xd0\x01x", id="PINGRESP with a body"),
        pytest.param(b"\xb0\x01\x00", id="short UNSUBACK"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP"),
    ],
)
@pytest.mark.parametrize("version5", [False, True])
async def test_garbage_ends_the_connection_and_another_follows(
    garbage: bytes, version5: bool
) -> None:
    connack = CONNACK_5 if version5 else CONNACK_3

    async def broken(peer: Peer) -> None:
        await peer.accept(connack)
        peer.write(garbage)
        await peer.until_gone()

    async def whole(peer: Peer) -> None:
        await peer.accept(connack)
        await peer.until_gone()

    async with ScriptedBroker(broken, whole) as broker:
        pump = transport(broker, version="5" if version5 else "3.1.1")
        async with running(pump):
            lost = (await until(pump, is_disconnected))[-1]
            await until(pump, is_connected)

    assert isinstance(lost, Disconnected)
    assert "broke the protocol" in lost.reason


async def test_garbage_instead_of_an_answer_is_a_failed_attempt() -> None:
    async def garbage(peer: Peer) -> None:
        await peer.read()
        peer.write(random.Random(3).randbytes(1000))
        await peer.until_gone()

    async def whole(peer: Peer) -> None:
        connect = await peer.read()
        peer.write(CONNACK_5 if level(connect) == 5 else CONNACK_3)
        await peer.until_gone()

    async with ScriptedBroker(garbage, garbage, garbage, whole) as broker:
        pump = transport(broker)
        async with running(pump):
            assert pump.connected

    assert pump.counters.connect_failed_count == 3


@pytest.mark.parametrize(
    ("connack", "word"),
    [
        pytest.param(b"\x20\x03\x00\x87\x00", "not authorized", id="v5"),
        pytest.param(b"\x20\x02\x00\x05", "not authorized", id="v3"),
        pytest.param(b"\x20\x02\x00\x03", "server unavailable", id="unavailable"),
    ],
)
async def test_a_refusal_is_logged_once_for_people_and_tried_again(
    connack: bytes, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def refuse(peer: Peer) -> None:
        await peer.accept(connack)

    async with ScriptedBroker(refuse) as broker:
        pump = transport(broker, version="5" if len(connack) == 5 else "3.1.1")
        task = asyncio.create_task(pump.run())
        await eventually(lambda: pump.counters.connect_failed_count > 3)
        await stop(task)

    lines = [line for line in caplog.messages if "trying again" in line]
    assert len(lines) == 1
    assert word in lines[0].lower()
    assert word in pump.last_failure.lower()
    assert not len(pump._inbox)


async def test_a_goodbye_of_the_broker_names_its_reason() -> None:
    async def take_over(peer: Peer) -> None:
        await peer.accept(CONNACK_5)
        peer.write(b"\xe0\x02\x8e\x00")

    async with ScriptedBroker(take_over) as broker:
        pump = transport(broker)
        async with running(pump):
            lost = (await until(pump, is_disconnected))[-1]

    assert isinstance(lost, Disconnected)
    assert "session taken over" in lost.reason


async def test_a_name_that_nobody_knows_is_a_failed_attempt() -> None:
    for host in ("no-such-name.invalid", "not a name " * 30):
        pump = MqttTransport(
            Link(client_id="pump", host=host, reconnect_min_s=0.01, reconnect_max_s=0.01)
        )
        task = asyncio.create_task(pump.run())
        await eventually(lambda pump=pump: pump.counters.connect_failed_count > 1)  # type: ignore[misc]
        await stop(task)

        assert pump.last_failure


async def test_a_host_name_is_looked_up() -> None:
    async def whole(peer: Peer) -> None:
        await peer.accept(CONNACK_3)
        await peer.until_gone()

    async with ScriptedBroker(whole) as broker:
        pump = transport(broker, version="3.1.1", host="localhost")
        async with running(pump):
            assert pump.connected


# Waiting.


def test_waits_are_jittered_over_a_scale_that_doubles_up_to_its_limit() -> None:
    link = Link(client_id="pump", reconnect_min_s=1.0, reconnect_max_s=10.0)
    pump = MqttTransport(link, rng=random.Random(1))
    for failure_count, scale_s in enumerate([1, 2, 4, 8, 10, 10, 10]):
        waits = [pump._wait_s(failure_count) for _ in range(300)]

        assert 0 <= min(waits) < scale_s * 0.05
        assert scale_s * 0.95 < max(waits) <= scale_s
    assert pump._wait_s(10_000) <= 10


@pytest.mark.parametrize(
    "settings",
    [
        {"client_id": ""},
        {"client_id": "ä"},
        {"port": 0},
        {"port": 70_000},
        {"keepalive_s": 0},
        {"reconnect_min_s": 0.0},
        {"reconnect_min_s": 9.0, "reconnect_max_s": 1.0},
        {"payload_max_bytes": 0},
        {"receive_maximum": 65_536},
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(ValueError, match=name):
        Link(**({"client_id": "pump"} | settings))


async def test_receipts_of_two_connections_are_never_mistaken() -> None:
    async def deliver(peer: Peer) -> None:
        await peer.accept(CONNACK_3)
        peer.write(_publish(b"x", packet_id=1))
        assert await peer.read() == encode_puback(1)

    async with ScriptedBroker(deliver) as broker:
        pump = transport(broker, version="3.1.1")
        task = asyncio.create_task(pump.run())
        first = (await until(pump, carries(b"x")))[-1]
        second = (await until(pump, carries(b"x"), acknowledge=False))[-1]
        assert isinstance(first, Delivery)
        assert isinstance(second, Delivery)
        pump.acknowledge(first)
        pump.acknowledge(second)
        await until(pump, is_disconnected)
        await stop(task)

    assert first.receipt != second.receipt
    assert pump.counters.stale_acknowledge_count == 1


def test_the_connection_is_a_protocol_of_asyncio() -> None:
    assert issubclass(Connection, asyncio.Protocol)
