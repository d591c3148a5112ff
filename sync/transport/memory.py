"""A transport inside one process, on a `MemoryBroker`.

This module owns the client side of the port without a network.
It opens no socket and starts no timer: a client reconnects as soon as the broker takes it.
Its rule: it passes the same contract suite as the transport over a real broker.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from sync.transport.filters import check_filter, check_message
from sync.transport.inbox import Inbox
from sync.transport.memory_broker import PACKET_ID_MAX, MemoryBroker, Message
from sync.transport.port import (
    NO_SUBSCRIBER,
    Birth,
    Congested,
    Connected,
    Counters,
    Delivery,
    Disconnected,
    Event,
    Link,
    LinkDown,
    Presence,
    Published,
    PublishTimedOut,
    Subscription,
    Version,
)


class MemoryTransport:
    """A link to a `MemoryBroker`; see `port.Transport` for every method."""

    def __init__(
        self,
        broker: MemoryBroker,
        link: Link,
        *,
        subscriptions: Sequence[Subscription] = (),
        presence: Presence | None = None,
    ) -> None:
        self._broker = broker
        self._link = link
        for each in subscriptions:
            check_filter(each.topic_filter, each.qos)
        self._subscriptions = {each.topic_filter: each.qos for each in subscriptions}
        self._presence = presence
        self._version: Version = "3.1.1" if link.version == "3.1.1" else "5"
        self._counters = Counters()
        self._inbox = Inbox(
            max_count=link.inbound_max_count,
            max_bytes=link.inbound_max_bytes,
            counters=self._counters,
        )
        self._inbox.on_room = lambda: broker.plan_pump(link.client_id)
        self._number = 0
        self._running = False
        self._ended: asyncio.Future[str] | None = None
        self._outbound: deque[tuple[Message, bool, asyncio.Future[Published] | None]] = deque()
        self._outbound_bytes = 0
        self.will: Message | None = None
        """What the broker publishes when the connection breaks."""

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        return self._counters

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._ended is not None and not self._ended.done()

    async def run(self) -> None:
        """Keep the connection up until cancelled; then say goodbye."""
        if self._running:
            raise RuntimeError("this transport runs already")
        self._running = True
        try:
            while True:
                await self._inbox.room()
                await self._broker.admitted(self._link.client_id)
                await self._connect_and_stay()
        finally:
            self._running = False

    async def _connect_and_stay(self) -> None:
        loop = asyncio.get_running_loop()
        birth = None if self._presence is None else self._presence.birth()
        self._number += 1
        self._ended = ended = loop.create_future()
        self._begin(birth)
        try:
            reason = await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._leave(birth)
            raise
        self._counters.disconnect_count += 1
        self._inbox.add(Disconnected(loop.time(), reason))

    async def receive(self, max_count: int) -> list[Event]:
        """Wait for at least one event, then return all that wait, up to `max_count`."""
        return await self._inbox.take(max_count)

    def acknowledge(self, delivery: Delivery) -> None:
        """Tell the broker that the message was dealt with."""
        if not delivery.receipt:
            return
        number, packet_id = divmod(delivery.receipt, PACKET_ID_MAX + 1)
        if number == self._number and self.connected:
            self._counters.acknowledged_count += 1
            self._broker.acknowledge(self._link.client_id, packet_id)
        else:
            self._counters.stale_acknowledge_count += 1

    def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> bool:
        """Hand a message to the link and return at once; False if there is no connection."""
        check_message(self._link, topic, payload, qos)
        if not self.connected:
            self._counters.dropped_not_connected_count += 1
            return False
        self._queue(Message(topic, payload, qos), retain=retain)
        return True

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        deadline_s: float = 10.0,
    ) -> Published:
        """Send a message and wait until the broker took it."""
        check_message(self._link, topic, payload, qos)
        if not self.connected:
            raise LinkDown("no connection to the broker")
        done: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self._queue(Message(topic, payload, qos), retain=retain, done=done)
        try:
            async with asyncio.timeout(deadline_s):
                return await done
        except TimeoutError:
            raise PublishTimedOut(f"a message on {topic} was not taken in time") from None

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Want messages on `topic_filter` from now on and after every reconnect."""
        check_filter(topic_filter, qos)
        self._subscriptions[topic_filter] = qos
        if self.connected:
            self._broker.subscribe(self._link.client_id, topic_filter, qos)

    def unsubscribe(self, topic_filter: str) -> None:
        """Want no more messages on `topic_filter`."""
        if self._subscriptions.pop(topic_filter, None) is not None and self.connected:
            self._broker.unsubscribe(self._link.client_id, topic_filter)

    # What the broker asks of a client.

    def takes(self, unacknowledged_count: int) -> bool:
        """Whether another message may be delivered now."""
        paused = self._inbox.full
        if paused:
            self._counters.pause_count += 1
        return not paused and unacknowledged_count < self._link.receive_maximum

    def deliver(self, message: Message, packet_id: int) -> None:
        """Take a message."""
        if len(message.payload) > self._link.payload_max_bytes:
            self._counters.oversize_count += 1
            if packet_id:
                self._broker.acknowledge(self._link.client_id, packet_id)
            return
        receipt = self._number * (PACKET_ID_MAX + 1) + packet_id if packet_id else 0
        self._inbox.add(
            Delivery(message.topic, message.payload, message.retained, message.duplicate, receipt)
        )

    def dropped(self, reason: str) -> None:
        """Learn that the connection is gone."""
        self.will = None
        self._counters.dropped_link_lost_count += len(self._outbound)
        for _, _, done in self._outbound:
            if done is not None and not done.done():
                done.set_exception(LinkDown(f"the connection to the broker ended: {reason}"))
        self._outbound.clear()
        self._outbound_bytes = 0
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)

    # Within.

    def _begin(self, birth: Birth | None) -> None:
        client_id = self._link.client_id
        kept = self._broker.connect(self, client_id)
        self._counters.connect_count += 1
        self._inbox.add(Connected(asyncio.get_running_loop().time(), kept, self._version))
        self._broker.plan_pump(client_id)
        for topic_filter, qos in self._subscriptions.items():
            self._broker.subscribe(client_id, topic_filter, qos)
        if self._presence is not None and birth is not None:
            self.will = Message(self._presence.topic, birth.offline, 1)
            self._queue(Message(self._presence.topic, birth.online, 1), retain=True)

    def _leave(self, birth: Birth | None) -> None:
        if not self.connected:
            return
        self._send_queued()
        if self._presence is not None and birth is not None:
            payload = birth.offline if birth.stopped is None else birth.stopped
            self._broker.route(Message(self._presence.topic, payload, 1))
        self._broker.disconnect(self._link.client_id)

    def _queue(
        self, message: Message, *, retain: bool, done: "asyncio.Future[Published] | None" = None
    ) -> None:
        if (
            len(self._outbound) >= self._link.outbound_max_count
            or self._outbound_bytes + len(message.payload) > self._link.outbound_max_bytes
        ):
            self._counters.congested_count += 1
            raise Congested(f"{len(self._outbound)} messages wait for the broker already")
        if not self._outbound:
            asyncio.get_running_loop().call_soon(self._send_queued)
        self._outbound.append((message, retain, done))
        self._outbound_bytes += len(message.payload)

    def _send_queued(self) -> None:
        while self._outbound:
            message, retain, done = self._outbound.popleft()
            self._outbound_bytes -= len(message.payload)
            self._counters.sent_count += 1
            self._counters.sent_bytes += len(message.payload)
            heard = self._broker.route(message, retain=retain)
            if message.qos:
                self._counters.puback_count += 1
                self._counters.nobody_listens_count += not heard and self._version == "5"
            if done is not None and not done.done():
                reason = (0 if heard else NO_SUBSCRIBER) if self._version == "5" else None
                done.set_result(Published(reason if message.qos else None))
