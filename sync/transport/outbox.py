"""Messages on their way to the broker over one connection: the QoS 1 window and its limits.

This module owns packet identifiers of our PUBLISHes, who waits for which PUBACK, and when the
caller is told that it is too fast.
It does no I/O: finished packets go to the `write` it was given.
Its rule: what is queued belongs to one connection and dies with it.
The session above sends again what matters, so a queue that outlives its connection would only
repeat stale messages.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from sync.transport.packets import LENGTH_MAX, encode_publish
from sync.transport.port import (
    NO_SUBSCRIBER,
    REFUSED_FROM,
    Congested,
    Counters,
    Link,
    LinkDown,
    Published,
    PublishRefused,
)

PACKET_ID_MIN = 0x1000
"""Identifiers below belong to paho-mqtt's SUBSCRIBE and UNSUBSCRIBE packets."""

PACKET_ID_MAX = 0xFFFF

HEAD_MAX_BYTES = 5 + 2 + 2 + 1
"""Bytes of a PUBLISH packet besides topic and payload."""


class _Message(NamedTuple):
    topic: bytes
    payload: bytes
    retain: bool
    done: "asyncio.Future[Published] | None"


class Outbox:
    """The outbound side of one connection.

    Args:
        link: Limits.
        counters: Counts what goes out.
        version5: Whether the connection speaks MQTT 5.
        window_count: Most QoS 1 messages awaiting a PUBACK.
        packet_max_bytes: Largest packet that the broker takes.
        write: Takes a finished packet.
        unsent: Tells how many packets and bytes `write` still holds.
    """

    def __init__(
        self,
        link: Link,
        counters: Counters,
        *,
        version5: bool,
        window_count: int,
        packet_max_bytes: int = LENGTH_MAX,
        write: Callable[[bytes], None],
        unsent: Callable[[], tuple[int, int]],
    ) -> None:
        self._link = link
        self._counters = counters
        self._version5 = version5
        self._window_count = window_count
        self._packet_max_bytes = packet_max_bytes
        self._write = write
        self._unsent = unsent
        self._packet_id = PACKET_ID_MAX
        self._unacknowledged: dict[int, _Message] = {}
        self._waiting: deque[_Message] = deque()
        self._waiting_bytes = 0
        self._drained: asyncio.Future[None] | None = None

    @property
    def blocked(self) -> bool:
        """Whether messages wait only because the broker acknowledges none."""
        return bool(self._waiting)

    def publish(
        self,
        topic: bytes,
        payload: bytes,
        *,
        retain: bool,
        qos: int,
        done: "asyncio.Future[Published] | None" = None,
    ) -> None:
        """Write the message now or once the window opens.

        Raises:
            Congested: Too much waits already; nothing was taken.
            ValueError: The broker takes no packet of this size; nothing was taken.
        """
        if len(topic) + len(payload) + HEAD_MAX_BYTES > self._packet_max_bytes:
            raise ValueError(
                f"a message of {len(payload)} bytes is too large for the broker, "
                f"which takes packets up to {self._packet_max_bytes} bytes"
            )
        unsent_count, unsent_bytes = self._unsent()
        if (
            unsent_count + len(self._waiting) >= self._link.outbound_max_count
            or unsent_bytes + self._waiting_bytes + len(payload) > self._link.outbound_max_bytes
        ):
            self._counters.congested_count += 1
            raise Congested(
                f"{unsent_count + len(self._waiting)} messages of "
                f"{unsent_bytes + self._waiting_bytes} bytes wait for the broker already"
            )
        if not qos:
            self._send(topic, payload, retain=retain, packet_id=0)
            if done is not None:
                done.set_result(Published(None))
        elif len(self._unacknowledged) < self._window_count:
            self._send_numbered(_Message(topic, payload, retain, done))
        else:
            self._waiting.append(_Message(topic, payload, retain, done))
            self._waiting_bytes += len(payload)

    def on_puback(self, packet_id: int, reason_code: int | None) -> None:
        """Take the broker's acknowledgement and send what waited for it."""
        entry = self._unacknowledged.pop(packet_id, None)
        if entry is None:
            return  # not ours, or twice: MQTT 3.1.1 asks nothing of us here
        self._counters.puback_count += 1
        if reason_code:
            self._answer_reason(reason_code)
        if entry.done is not None and not entry.done.done():
            if reason_code is not None and reason_code >= REFUSED_FROM:
                entry.done.set_exception(PublishRefused(entry.topic.decode(), reason_code))
            else:
                entry.done.set_result(Published(reason_code))
        while self._waiting and len(self._unacknowledged) < self._window_count:
            first = self._waiting.popleft()
            self._waiting_bytes -= len(first.payload)
            self._send_numbered(first)
        if self._drained is not None and not self._unacknowledged and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Wait until the broker acknowledged everything."""
        if self._unacknowledged:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def lose(self, reason: str) -> None:
        """Give up everything, because the connection is gone."""
        pending = [entry.done for entry in self._unacknowledged.values()]
        pending += [entry.done for entry in self._waiting]
        self._counters.dropped_link_lost_count += len(pending)
        self._unacknowledged.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        for done in (*pending, self._drained):
            if done is not None and not done.done():
                done.set_exception(LinkDown(f"the connection to the broker ended: {reason}"))

    def _answer_reason(self, reason_code: int) -> None:
        if reason_code == NO_SUBSCRIBER:
            self._counters.nobody_listens_count += 1
        elif reason_code >= REFUSED_FROM:
            self._counters.publish_refused_count += 1

    def _send_numbered(self, message: _Message) -> None:
        packet_id = self._packet_id
        while True:
            packet_id = packet_id + 1 if packet_id < PACKET_ID_MAX else PACKET_ID_MIN
            if packet_id not in self._unacknowledged:
                break
        self._packet_id = packet_id
        self._unacknowledged[packet_id] = message
        self._send(message.topic, message.payload, retain=message.retain, packet_id=packet_id)

    def _send(self, topic: bytes, payload: bytes, *, retain: bool, packet_id: int) -> None:
        self._counters.sent_count += 1
        self._counters.sent_bytes += len(payload)
        self._write(
            encode_publish(
                topic,
                payload,
                qos=1 if packet_id else 0,
                retain=retain,
                packet_id=packet_id,
                version5=self._version5,
            )
        )
