"""The outbound side: a window of unacknowledged messages, limits, and identifiers of its own."""

import asyncio
from typing import Any

import pytest

from sync.transport.outbox import PACKET_ID_MAX, PACKET_ID_MIN, Outbox
from sync.transport.port import Congested, Counters, Link, LinkDown, Published, PublishRefused


class Wire:
    """What an outbox wrote."""

    def __init__(self, *, window_count: int = 2, version5: bool = False, **settings: Any) -> None:
        self.packets: list[bytes] = []
        self.counters = Counters()
        self.held = (0, 0)
        self.outbox = Outbox(
            Link(client_id="pump", **settings),
            self.counters,
            version5=version5,
            window_count=window_count,
            write=self.packets.append,
            unsent=lambda: self.held,
        )

    def payloads(self) -> list[bytes]:
        """Return the last byte of each packet: tests send payloads of one byte."""
        return [packet[-1:] for packet in self.packets]

    def packet_ids(self) -> list[int]:
        """Return the identifier of each QoS 1 packet with a topic of one byte."""
        return [int.from_bytes(packet[5:7], "big") for packet in self.packets]


def test_at_most_a_window_of_messages_is_unacknowledged_and_order_is_kept() -> None:
    wire = Wire(window_count=2)
    for payload in (b"1", b"2", b"3", b"4"):
        wire.outbox.publish(b"t", payload, retain=False, qos=1)
    assert wire.payloads() == [b"1", b"2"]

    blocked = [wire.outbox.blocked]
    first, second = wire.packet_ids()
    wire.outbox.on_puback(second, None)
    assert wire.payloads() == [b"1", b"2", b"3"]
    wire.outbox.on_puback(first, None)
    blocked.append(wire.outbox.blocked)
    assert wire.payloads() == [b"1", b"2", b"3", b"4"]
    assert blocked == [True, False]
    assert wire.counters.puback_count == 2


def test_qos_0_waits_for_no_window() -> None:
    wire = Wire(window_count=1)
    wire.outbox.publish(b"t", b"1", retain=False, qos=1)
    wire.outbox.publish(b"t", b"2", retain=False, qos=1)
    wire.outbox.publish(b"t", b"3", retain=False, qos=0)

    assert wire.payloads() == [b"1", b"3"]


def test_identifiers_never_meet_those_of_subscriptions_nor_one_that_is_in_use() -> None:
    wire = Wire(window_count=2)
    wire.outbox.publish(b"t", b"x", retain=False, qos=1)
    (kept,) = wire.packet_ids()
    for _ in range(PACKET_ID_MAX):
        wire.packets.clear()
        wire.outbox.publish(b"t", b"x", retain=False, qos=1)
        (packet_id,) = wire.packet_ids()
        assert PACKET_ID_MIN <= packet_id <= PACKET_ID_MAX
        assert packet_id != kept
        wire.outbox.on_puback(packet_id, None)


def test_a_puback_for_nothing_changes_nothing() -> None:
    wire = Wire()
    for packet_id in (0, 1, PACKET_ID_MIN, PACKET_ID_MAX):
        wire.outbox.on_puback(packet_id, 0x87)

    assert wire.counters == Counters()


def test_what_waits_is_limited_in_count_and_nothing_of_a_refused_message_remains() -> None:
    wire = Wire(window_count=1, outbound_max_count=3)
    for payload in (b"1", b"2", b"3", b"4"):
        wire.outbox.publish(b"t", payload, retain=False, qos=1)
    with pytest.raises(Congested):
        wire.outbox.publish(b"t", b"5", retain=False, qos=1)
    with pytest.raises(Congested):
        wire.outbox.publish(b"t", b"6", retain=False, qos=0)
    for at in range(4):
        wire.outbox.on_puback(wire.packet_ids()[at], None)

    assert wire.payloads() == [b"1", b"2", b"3", b"4"]
    assert wire.counters.congested_count == 2


def test_what_the_socket_has_not_taken_counts_as_waiting() -> None:
    wire = Wire(outbound_max_count=10, outbound_max_bytes=100)
    wire.held = (10, 0)
    with pytest.raises(Congested):
        wire.outbox.publish(b"t", b"x", retain=False, qos=0)
    wire.held = (0, 100)
    with pytest.raises(Congested):
        wire.outbox.publish(b"t", b"x", retain=False, qos=0)
    wire.held = (9, 99)
    wire.outbox.publish(b"t", b"x", retain=False, qos=0)

    assert wire.payloads() == [b"x"]


async def test_everyone_who_waits_learns_of_the_end() -> None:
    wire = Wire(window_count=1)
    sent, queued = _futures(2)
    wire.outbox.publish(b"t", b"1", retain=False, qos=1, done=sent)
    wire.outbox.publish(b"t", b"2", retain=False, qos=1, done=queued)
    drained = asyncio.create_task(wire.outbox.drained())
    await asyncio.sleep(0)
    wire.outbox.lose("the cable is out")

    for waiting in (sent, queued, drained):
        with pytest.raises(LinkDown, match="the cable is out"):
            await waiting
    assert wire.counters.dropped_link_lost_count == 2
    assert not wire.outbox.blocked


async def test_the_answer_reaches_the_one_who_asked() -> None:
    wire = Wire(window_count=4, version5=True)
    taken, unheard, refused, given_up = _futures(4)
    for done in (taken, unheard, refused, given_up):
        wire.outbox.publish(b"t", b"x", retain=False, qos=1, done=done)
    given_up.cancel()
    for packet_id, reason in zip(wire.packet_ids(), (0x00, 0x10, 0x97, 0x00), strict=True):
        wire.outbox.on_puback(packet_id, reason)

    assert await taken == Published(0)
    assert (await unheard).nobody_listens
    with pytest.raises(PublishRefused) as refusal:
        await refused
    assert refusal.value.reason_code == 0x97
    assert wire.counters.nobody_listens_count == 1
    assert wire.counters.publish_refused_count == 1


async def test_drained_waits_for_the_last_puback() -> None:
    wire = Wire(window_count=1)
    wire.outbox.publish(b"t", b"1", retain=False, qos=1)
    wire.outbox.publish(b"t", b"2", retain=False, qos=1)
    drained = asyncio.create_task(wire.outbox.drained())
    await asyncio.sleep(0)
    wire.outbox.on_puback(wire.packet_ids()[0], None)
    await asyncio.sleep(0)
    assert not drained.done()

    wire.outbox.on_puback(wire.packet_ids()[1], None)
    await drained


def _futures(count: int) -> list["asyncio.Future[Published]"]:
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]
