"""The link proxy: spoils a link between two packets, and tells nobody."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.broker_plan import BrokerKind
from hub.link_proxy import LinkProxy, read_publish, take_packets
from sync.transport.mqtt import MqttTransport
from sync.transport.packets import encode_length, encode_puback, encode_publish
from sync.transport.port import Connected, Link, Presence, Subscription
from tests.fakes.links import (
    Births,
    carries,
    eventually,
    is_connected,
    is_disconnected,
    payloads,
    running,
    until,
)
from tests.fakes.scripted_broker import CONNACK_3, Peer, ScriptedBroker
from tests.system.brokers import RealBroker, running_broker

UP = "ff/1/pump/up"
DOWN = "ff/1/pump/down"
PRESENCE = "ff/1/pump/presence"

Version = Literal["auto", "3.1.1", "5"]


@pytest.fixture(
    params=[
        pytest.param((BrokerKind.MOSQUITTO, "5"), id="mosquitto-5", marks=pytest.mark.broker),
        pytest.param((BrokerKind.MOSQUITTO, "3.1.1"), id="mosquitto-3", marks=pytest.mark.broker),
        pytest.param((BrokerKind.NATS, "3.1.1"), id="nats-3", marks=pytest.mark.broker),
    ]
)
async def broker(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[RealBroker, Version]]:
    kind, version = request.param
    async with running_broker(kind, tmp_path) as real:
        yield real, version


def client(
    port: int, client_id: str, version: Version, *filters: str, **more: Any
) -> MqttTransport:
    link = Link(
        client_id=client_id,
        port=port,
        version=version,
        keepalive_s=more.pop("keepalive_s", 60),
        reconnect_min_s=0.02,
        reconnect_max_s=0.1,
        will_delay_s=0,
    )
    return MqttTransport(link, subscriptions=[Subscription(each) for each in filters], **more)


async def test_a_deaf_device_seems_alive_and_takes_nothing(
    broker: tuple[RealBroker, Version],
) -> None:
    real, version = broker
    async with LinkProxy(real.port) as proxy:
        device = client(
            proxy.port,
            "pump",
            version,
            DOWN,
            presence=Presence(PRESENCE, Births()),
            keepalive_s=2,
        )
        hub = client(real.port, "hub", version, "ff/1/+/up", "ff/1/+/presence")
        async with running(hub, device):
            await hub.publish(DOWN, b"heard")
            await until(device, carries(b"heard"))
            proxy.deafen()
            # More than a window: the broker only goes on because each is acknowledged.
            for number in range(1200):
                hub.publish_soon(DOWN, b"%d" % number)
            hub.publish_soon(DOWN, b"light", qos=0)
            await eventually(lambda: proxy.swallowed_count == 1201)
            await device.publish(UP, b"I am well")
            before = payloads(await until(hub, carries(b"I am well")))
            silence = asyncio.create_task(device.receive(1))
            await asyncio.wait({silence}, timeout=4)  # pings pass: 3 s without would end it
            assert not silence.done()
            proxy.undeafen()
            await hub.publish(DOWN, b"heard again")
            (next_event,) = await silence

    assert getattr(next_event, "payload", None) == b"heard again"
    assert not any(each.startswith(b"offline") for each in before)
    assert device.counters.disconnect_count == 0
    assert hub.counters.publish_refused_count == 0


async def test_what_a_deaf_device_did_not_hear_never_comes_back(
    broker: tuple[RealBroker, Version],
) -> None:
    real, version = broker
    async with LinkProxy(real.port) as proxy:
        device = client(proxy.port, "pump", version, DOWN)
        hub = client(real.port, "hub", version)
        async with running(hub, device):
            proxy.deafen()
            await hub.publish(DOWN, b"swallowed")
            await eventually(lambda: proxy.swallowed_count == 1)
            # Behind the PUBACK that the proxy sent in the device's name.
            await device.publish("fence", b"")
            proxy.undeafen()
            proxy.cut()
            proxy.restore()
            await until(device, is_disconnected)
            await until(device, is_connected)
            await hub.publish(DOWN, b"fence")
            got = await until(device, carries(b"fence"))

    assert payloads(got) == [b"fence"]


async def test_deafness_can_be_to_some_topics_only(broker: tuple[RealBroker, Version]) -> None:
    real, version = broker
    async with LinkProxy(real.port) as proxy:
        device = client(proxy.port, "pump", version, DOWN, "ff/1/hub/presence")
        hub = client(real.port, "hub", version)
        async with running(hub, device):
            proxy.deafen("ff/1/+/down")
            await hub.publish(DOWN, b"swallowed")
            await hub.publish("ff/1/hub/presence", b"heard")
            got = await until(device, carries(b"heard"))

    assert payloads(got) == [b"heard"]
    assert proxy.swallowed_count == 1


async def test_a_cut_link_stays_cut_until_restored(broker: tuple[RealBroker, Version]) -> None:
    real, version = broker
    async with LinkProxy(real.port) as proxy:
        device = client(proxy.port, "pump", version)
        async with running(device):
            proxy.cut()
            await until(device, is_disconnected)
            await eventually(lambda: device.counters.connect_failed_count > 2)
            assert not device.connected
            proxy.restore()
            (event,) = await until(device, is_connected)

    assert isinstance(event, Connected)


async def test_a_stalled_link_loses_nothing(broker: tuple[RealBroker, Version]) -> None:
    real, version = broker
    async with LinkProxy(real.port) as proxy:
        device = client(proxy.port, "pump", version, DOWN)
        hub = client(real.port, "hub", version, UP)
        async with running(hub, device):
            proxy.stall()
            for number in range(10):
                await hub.publish(DOWN, b"%d" % number)
                device.publish_soon(UP, b"%d" % number)
            proxy.resume()
            down = await until(device, carries(b"9"))
            up = await until(hub, carries(b"9"))

    assert payloads(down) == payloads(up) == [b"%d" % number for number in range(10)]
    assert device.counters.disconnect_count == 0


async def test_a_slow_link_carries_everything() -> None:
    sent = [encode_publish(b"t", bytes(500), qos=0, retain=False, packet_id=0, version5=False)] * 8
    started_at = asyncio.get_running_loop().time()

    async def send(peer: Peer) -> None:
        await peer.accept(CONNACK_3)
        peer.write(*sent)
        await peer.until_gone()

    async with ScriptedBroker(send) as scripted, LinkProxy(scripted.port) as proxy:
        proxy.limit(20_000)
        device = client(proxy.port, "pump", "3.1.1")
        async with running(device):
            await eventually(lambda: len(device._inbox) == 8)
    lasted_s = asyncio.get_running_loop().time() - started_at

    # Not a measurement of the machine: 4 kB at 20 kB a second take 0.2 s or more.
    assert lasted_s > 0.19
    with pytest.raises(ValueError, match="above 0"):
        proxy.limit(0)


async def test_without_a_broker_the_device_is_turned_away() -> None:
    async with ScriptedBroker(_nothing) as scripted:
        dead_port = scripted.port
    async with LinkProxy(dead_port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            ended = await reader.read(1)
        except OSError:
            ended = b""
        writer.close()

    assert ended == b""


async def _nothing(peer: Peer) -> None:
    del peer


async def test_a_stream_that_is_not_mqtt_ends() -> None:
    async def talk(peer: Peer) -> None:
        peer.write(b"\x30\xff\xff\xff\xff\xff")
        await peer.until_gone()

    async with ScriptedBroker(talk) as scripted, LinkProxy(scripted.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises((OSError, EOFError)):
            await reader.readexactly(1)
        writer.close()


# The pure part.


@given(
    bodies=st.lists(st.tuples(st.integers(1, 15), st.binary(max_size=300)), max_size=6),
    data=st.data(),
)
def test_whole_packets_are_taken_and_the_rest_stays(
    bodies: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    packets = [bytes((kind << 4,)) + encode_length(len(body)) + body for kind, body in bodies]
    stream = b"".join(packets)
    cut = data.draw(st.integers(0, len(stream)))

    gathered = bytearray(stream[:cut])
    first = take_packets(gathered)
    gathered += stream[cut:]
    second = take_packets(gathered)

    assert first + second == packets
    assert not gathered


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("version5", [False, True])
def test_topic_and_identifier_of_a_message_are_read(qos: int, version5: bool) -> None:
    packet = encode_publish(
        b"a/b", bytes(200), qos=qos, retain=True, packet_id=515, version5=version5
    )

    assert read_publish(packet) == ("a/b", 515 * qos)


@pytest.mark.parametrize("packet", [b"\x30\x00", b"\x30\x02\x00\x05", b"\x32\x03\x00\x01t"])
def test_a_broken_message_ends_the_connection(packet: bytes) -> None:
    with pytest.raises(EOFError):
        read_publish(packet)


def test_what_the_proxy_says_is_a_puback() -> None:
    assert encode_puback(0x1234) == b"\x40\x02\x12\x34"
