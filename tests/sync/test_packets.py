"""Packets: the stream is cut at the right places, however it arrives and whoever wrote it."""

import random
from importlib import import_module
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from sync.transport.packets import (
    DUP,
    Malformed,
    Splitter,
    encode_length,
    encode_puback,
    encode_publish,
)

Found = tuple[object, ...]
LIMIT = 1000


class Collected:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.found: list[Found] = []

    def on_publish(self, topic: bytes, payload: bytes, flags: int, packet_id: int) -> None:
        self.found.append(("publish", topic, payload, flags & 0x0F, packet_id))

    def on_oversize(self, packet_id: int) -> None:
        self.found.append(("oversize", packet_id))

    def on_puback(self, packet_id: int, reason_code: int | None) -> None:
        self.found.append(("puback", packet_id, reason_code))

    def on_rest(self, packet: bytes) -> None:
        self.found.append(("rest", packet))


def split(
    stream: bytes, *, version5: bool = False, cuts: list[int] | None = None
) -> tuple[list[Found], int]:
    """Feed the stream in pieces; return what was found and the most that was held."""
    sink = Collected()
    splitter = Splitter(sink, version5=version5, payload_max_bytes=LIMIT)
    edges = [0, *sorted(cuts or []), len(stream)]
    most_held = 0
    for start, stop in pairwise(edges):
        if start != stop:
            splitter.feed(stream[start:stop])
        most_held = max(most_held, splitter.held_bytes)
    return sink.found, most_held


TOPICS = st.text(min_size=1, max_size=40).map(str.encode)


@st.composite
def packets(draw: st.DrawFn, *, version5: bool) -> tuple[bytes, Found]:
    """Draw one packet and what the sink shall hear of it."""
    kind = draw(st.sampled_from(["publish", "puback", "rest", "oversize"]))
    packet_id = draw(st.integers(1, 65_535))
    if kind == "puback":
        if version5 and draw(st.booleans()):
            reason = draw(st.integers(0, 255))
            packet = b"\x40\x03" + packet_id.to_bytes(2, "big") + bytes((reason,))
            return packet, ("puback", packet_id, reason)
        return encode_puback(packet_id), ("puback", packet_id, 0 if version5 else None)
    if kind == "rest":
        first = draw(st.sampled_from([0x20, 0x90, 0xB0, 0xD0, 0xE0]))
        body = draw(st.binary(max_size=300))
        packet = bytes((first,)) + encode_length(len(body)) + body
        return packet, ("rest", packet)
    qos = draw(st.integers(0, 1))
    topic = draw(TOPICS)
    if kind == "oversize":
        payload = bytes(draw(st.integers(LIMIT + 1, 3 * LIMIT)))
    else:
        payload = draw(st.binary(max_size=200) | st.just(bytes(LIMIT)))
    retain = draw(st.booleans())
    packet = encode_publish(
        topic, payload, qos=qos, retain=retain, packet_id=packet_id, version5=version5
    )
    packet_id *= qos
    if kind == "oversize":
        return packet, ("oversize", packet_id)
    return packet, ("publish", topic, payload, qos << 1 | retain, packet_id)


@pytest.mark.parametrize("version5", [False, True])
@given(data=st.data())
def test_a_stream_is_split_alike_however_it_is_cut(version5: bool, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(packets(version5=version5), max_size=8))
    stream = b"".join(packet for packet, _ in drawn)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))

    found, _ = split(stream, version5=version5, cuts=cuts)
    one_by_one, _ = split(stream, version5=version5, cuts=list(range(len(stream))))

    assert found == [expected for _, expected in drawn]
    assert one_by_one == found


def test_properties_of_mqtt_5_are_skipped() -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("name", "value" * 40)
    properties.MessageExpiryInterval = 7
    middle = properties.pack()
    body = b"\x00\x01t" + b"\x00\x09" + middle + b"payload"
    stream = b"\x32" + encode_length(len(body)) + body

    assert split(stream, version5=True)[0] == [("publish", b"t", b"payload", 2, 9)]


def test_paho_reads_what_is_encoded() -> None:
    # A part of paho-mqtt that promises nothing: where it is gone, this must be written anew.
    decode = import_module("paho.mqtt._packet").decode_publish
    for version5 in (False, True):
        packet = encode_publish(
            b"a/b", b"x" * 300, qos=1, retain=True, packet_id=77, version5=version5
        )
        head = 1 + len(encode_length(len(packet) - 3))
        protocol = MQTTProtocolVersion.MQTTv5 if version5 else MQTTProtocolVersion.MQTTv311
        decoded = decode(packet[0], packet[head:], protocol)

        assert (decoded.topic, decoded.payload, decoded.mid) == (b"a/b", b"x" * 300, 77)
        assert (decoded.qos, decoded.retain) == (1, True)


def test_the_duplicate_mark_is_passed_on() -> None:
    packet = bytearray(encode_publish(b"t", b"x", qos=1, retain=False, packet_id=1, version5=False))
    packet[0] |= DUP

    assert split(bytes(packet))[0] == [("publish", b"t", b"x", DUP | 2, 1)]


@pytest.mark.parametrize("qos", [0, 1])
def test_of_an_oversize_payload_only_the_head_is_ever_held(qos: int) -> None:
    huge = encode_publish(
        b"topic", bytes(5_000_000), qos=qos, retain=False, packet_id=3, version5=False
    )
    after = encode_publish(b"t", b"next", qos=0, retain=False, packet_id=0, version5=False)
    stream = huge + after

    found, most_held = split(stream, cuts=list(range(0, len(stream), 1000)))

    assert found == [("oversize", 3 * qos), ("publish", b"t", b"next", 0, 0)]
    assert most_held <= LIMIT + 20


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"\x30\x80\x80\x80\x80\x01", id="length of five bytes"),
        pytest.param(b"\x30\x00", id="no topic length"),
        pytest.param(b"\x30\x01\x00", id="half a topic length"),
        pytest.param(b"\x30\x02\x00\x00", id="empty topic"),
        pytest.param(b"\x30\x03\x00\x05t", id="topic beyond the packet"),
        pytest.param(b"\x32\x04\x00\x01t\x00", id="no packet identifier"),
        pytest.param(b"\x32\x05\x00\x01t\x00\x00", id="packet identifier 0"),
        pytest.param(b"\x34\x05\x00\x01t\x00\x01", id="QoS 2"),
        pytest.param(b"\x36\x05\x00\x01t\x00\x01", id="QoS 3"),
        pytest.param(b"\x40\x01\x00", id="short PUBACK"),
        pytest.param(b"\x20\xff\xff\xff\x7f", id="CONNACK of 256 MB"),
    ],
)
@pytest.mark.parametrize("version5", [False, True])
def test_a_broken_stream_is_refused(stream: bytes, version5: bool) -> None:
    with pytest.raises(Malformed):
        split(stream, version5=version5)


@pytest.mark.parametrize(
    "tail", [b"", b"\x80", b"\x05", b"\xff\xff\xff\xff\x01", b"\x80\x80\x80\x80"]
)
def test_broken_properties_are_refused(tail: bytes) -> None:
    body = b"\x00\x01t" + tail
    with pytest.raises(Malformed):
        split(b"\x30" + encode_length(len(body)) + body, version5=True)


def test_any_bytes_are_split_or_refused_and_never_gathered() -> None:
    rng = random.Random(7)
    for _ in range(5_000):
        stream = rng.randbytes(rng.randrange(60))
        version5 = rng.random() < 0.5
        try:
            _, most_held = split(stream, version5=version5, cuts=[rng.randrange(61)])
        except Malformed:
            continue
        assert most_held <= len(stream)


@given(st.integers(0, 268_435_455))
def test_a_length_takes_as_few_bytes_as_it_can(length: int) -> None:
    encoded = encode_length(length)

    assert len(encoded) == max(1, -(-length.bit_length() // 7))
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded)) == length
