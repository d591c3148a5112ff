"""One MQTT connection, from its CONNECT to its end.

This module owns the byte stream to the broker: asyncio carries it, `packets` cuts it up and reads
the traffic, `engine` (paho-mqtt) reads and makes every other packet, `outbox` numbers our messages.
It never reconnects; `mqtt` makes a new one.
Its rules: all packets of one turn of the event loop leave in one `send`; while the program is
behind, the socket is not read; a connection ends once, with one reason that people can read.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import cast

from sync.transport.engine import Accepted, ConnectRefused, Engine
from sync.transport.inbox import Inbox
from sync.transport.outbox import PACKET_ID_MAX, PACKET_ID_MIN, Outbox
from sync.transport.packets import (
    DUP,
    LENGTH_MAX,
    PINGREQ_PACKET,
    RETAIN,
    Malformed,
    Splitter,
    encode_puback,
)
from sync.transport.port import Birth, Connected, Counters, Delivery, Link, Version

logger = logging.getLogger(__name__)

WRITE_HIGH_BYTES = 256 * 1024
"""Bytes that asyncio may hold for the socket before packets gather in `Connection` instead."""

GATHER_S = 0.0005
"""When pieces of the stream follow each other faster than this, the socket is left alone for as
long, so that many messages cost one wake-up. Mosquitto sends each message by itself: receiving and
acknowledging took 11 to 18 microseconds of CPU a message without this, 4 with it."""

FILTERS_PER_SUBSCRIBE = 200
"""Keeps a SUBSCRIBE packet below 32 kB even with the longest topics of this program."""


class Connection(asyncio.Protocol):
    """One connection; give it to `loop.create_connection` as its protocol.

    Args:
        link: Settings.
        version: MQTT version to speak.
        number: Tells this connection's receipts from those of others; 1 or more.
        subscriptions: Filter to QoS.
        presence: Topic and payloads of the presence, if any.
        inbox: Takes the events.
        counters: Counts.
    """

    def __init__(
        self,
        link: Link,
        version: Version,
        number: int,
        *,
        subscriptions: dict[str, int],
        presence: tuple[str, Birth] | None,
        inbox: Inbox,
        counters: Counters,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[Accepted] = loop.create_future()
        """Done when the connection was reported as `Connected`; raises `ConnectRefused`."""
        self.ended: asyncio.Future[str] = loop.create_future()
        """Done with the reason when the connection is gone."""
        self._link = link
        self._version: Version = version
        self._receipt_base = number << 16
        self._subscriptions = subscriptions
        self._presence = presence
        self._inbox = inbox
        self._counters = counters
        self._io: asyncio.Transport | None = None
        self._splitter = Splitter(
            self, version5=version == "5", payload_max_bytes=link.payload_max_bytes
        )
        self._engine = Engine(link, version, presence, self.write)
        self.outbox = self._make_outbox(link.inflight_max_count, LENGTH_MAX)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_planned = False
        self._writing_paused = False
        self._reading_paused = False
        self._is_live = False
        self._leaving = False
        self._end_reason = ""
        self._keepalive_s = float(link.keepalive_s)
        self._received_at = self._sent_at = self._puback_at = loop.time()
        self._probed_at: float | None = None
        self._tick_timer: asyncio.TimerHandle | None = None

    # What the transport asks of a connection.

    @property
    def live(self) -> bool:
        """Whether the connection was reported as `Connected` and has not ended."""
        return self._is_live and not self._end_reason

    def acknowledge(self, receipt: int) -> bool:
        """Acknowledge a delivery; False if another connection brought it."""
        packet_id = receipt - self._receipt_base
        if not 0 < packet_id <= PACKET_ID_MAX or self._end_reason:
            return False
        self.write(encode_puback(packet_id))
        return True

    def subscribe(self, filters: Iterable[tuple[str, int]]) -> None:
        """Ask the broker for messages on these filters."""
        wanted = list(filters)
        for first in range(0, len(wanted), FILTERS_PER_SUBSCRIBE):
            self._check(self._engine.subscribe(wanted[first : first + FILTERS_PER_SUBSCRIBE]))

    def unsubscribe(self, topic_filter: str) -> None:
        """Ask the broker for no more messages on this filter."""
        self._check(self._engine.unsubscribe(topic_filter))

    def resume(self) -> None:
        """Read again, because the program took events."""
        if self._reading_paused and self._io is not None and not self._io.is_closing():
            self._reading_paused = False
            self._io.resume_reading()

    async def farewell(self) -> None:
        """Send what waits, say that this client stopped, and disconnect.

        The caller limits the time and aborts what is left; the broker then publishes the will,
        so a presence is never left saying "online".

        Raises:
            TransportError: The goodbye could not be sent.
        """
        self._leaving = True
        self.resume()
        if self._presence is not None:
            topic, birth = self._presence
            payload = birth.offline if birth.stopped is None else birth.stopped
            self.outbox.publish(topic.encode(), payload, retain=True, qos=1)
        await self.outbox.drained()
        self._engine.disconnect()
        self._end_reason = self._end_reason or "stopped"
        self._flush()
        if self._io is not None:
            self._io.close()
        await self.ended

    def abort(self, reason: str) -> None:
        """End the connection at once; what is unsent is lost. The first reason counts."""
        self._end_reason = self._end_reason or reason
        if self._io is not None:
            self._io.abort()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT. asyncio has set TCP_NODELAY; without it a window of messages stalls."""
        self._io = cast("asyncio.Transport", transport)
        self._io.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._received_at = self._sent_at = self._puback_at = self._loop.time()
        self._engine.connect()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the broker and stop reading when the program is behind."""
        now = self._loop.time()
        if now - self._received_at < GATHER_S and self._io is not None:
            self._io.pause_reading()
            self._loop.call_later(GATHER_S, self._gathered)
        self._received_at = now
        try:
            self._splitter.feed(data)
        except Malformed as broken:
            self._fail(f"the broker broke the protocol: {broken}")
            return
        if self._inbox.full and not self._leaving and not self._reading_paused:
            self._reading_paused = True
            self._counters.pause_count += 1
            if self._io is not None:
                self._io.pause_reading()

    def pause_writing(self) -> None:
        """Gather packets here while the socket takes no more."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Write what gathered."""
        self._writing_paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self._end_reason = self._end_reason or (
            "the broker closed the connection" if exc is None else f"the connection broke: {exc}"
        )
        self._io = None
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._out.clear()
        self._out_bytes = 0
        self.outbox.lose(self._end_reason)
        # Some brokers close without a word when they do not know the version.
        self._refuse(ConnectRefused(self._end_reason, wrong_version=True, by_broker=False))
        if not self.ended.done():
            self.ended.set_result(self._end_reason)

    # packets.Sink.

    def on_publish(self, topic: bytes, payload: bytes, flags: int, packet_id: int) -> None:
        """Queue a message for the program."""
        if self._leaving or self._end_reason:
            return  # unacknowledged: the broker delivers it again
        if not self._is_live:
            self._report()  # it delivers, so the session has its subscriptions already
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            # Ending the connection instead would let one publisher keep it down for ever.
            self._counters.bad_topic_count += 1
            self._acknowledge_dropped(packet_id)
            return
        receipt = self._receipt_base + packet_id if packet_id else 0
        self._inbox.add(Delivery(name, payload, flags & RETAIN > 0, flags & DUP > 0, receipt))

    def on_oversize(self, packet_id: int) -> None:
        """Count a message that is skipped, and acknowledge it so that it does not come again."""
        self._counters.oversize_count += 1
        self._acknowledge_dropped(packet_id)

    def on_puback(self, packet_id: int, reason_code: int | None) -> None:
        """Pass an acknowledgement on."""
        self._puback_at = self._received_at
        self.outbox.on_puback(packet_id, reason_code)

    def on_rest(self, packet: bytes) -> None:
        """Let paho-mqtt read a packet, then act on what it found."""
        if self._end_reason:
            return
        before = self._engine.outcome
        self._engine.read(packet)
        outcome = self._engine.outcome
        if isinstance(outcome, ConnectRefused):
            self._refuse(outcome)
        elif self._engine.closed:
            self._fail(self._engine.close_reason or "the broker broke the protocol")
        elif outcome is not None and before is None:
            self._begin(outcome)
        if outcome is not None and not self._is_live and not self._engine.subscribing:
            self._report()
        for topic_filter in self._engine.refused_filters:
            self._counters.subscribe_refused_count += 1
            logger.warning(
                "the broker refused the subscription to %s: check its access rules for client %s",
                topic_filter,
                self._link.client_id,
            )
        self._engine.refused_filters.clear()

    # Writing.

    def write(self, packet: bytes) -> None:
        """Queue a whole packet; all of one turn of the loop leave together."""
        self._out.append(packet)
        self._out_bytes += len(packet)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        if self._writing_paused or self._io is None or not self._out:
            return
        joined = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        self._sent_at = self._loop.time()
        self._io.write(joined)

    def _unsent(self) -> tuple[int, int]:
        held_bytes = self._out_bytes
        if self._writing_paused and self._io is not None:
            held_bytes += self._io.get_write_buffer_size()
        return len(self._out), held_bytes

    def _acknowledge_dropped(self, packet_id: int) -> None:
        if packet_id:
            self.write(encode_puback(packet_id))

    def _make_outbox(self, window_count: int, packet_max_bytes: int) -> Outbox:
        return Outbox(
            self._link,
            self._counters,
            version5=self._version == "5",
            window_count=window_count,
            packet_max_bytes=packet_max_bytes,
            write=self.write,
            unsent=self._unsent,
        )

    # Life.

    def _begin(self, accepted: Accepted) -> None:
        """Subscribe and announce this client."""
        self._keepalive_s = accepted.keepalive_s or float(self._link.keepalive_s)
        self._tick_timer = self._loop.call_later(self._keepalive_s / 4, self._tick)
        self.outbox = self._make_outbox(accepted.window_count, accepted.packet_max_bytes)
        self.subscribe(self._subscriptions.items())
        if self._presence is not None:
            topic, birth = self._presence
            self.outbox.publish(topic.encode(), birth.online, retain=True, qos=1)

    def _report(self) -> None:
        """Report the connection, once the broker confirmed the subscriptions or delivers."""
        accepted = self._engine.outcome
        if self._end_reason or not isinstance(accepted, Accepted):
            return
        self._is_live = True
        if not self.accepted.done():  # it is when the attempt was given up at this moment
            self.accepted.set_result(accepted)
        self._inbox.add(Connected(self._loop.time(), accepted.session_present, self._version))

    def _fail(self, reason: str) -> None:
        if reason != self._engine.close_reason:
            self._counters.malformed_count += 1
        self.abort(reason)

    def _refuse(self, refused: ConnectRefused) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(refused)
            self.accepted.exception()  # seen: nobody may be left who asks
        self.abort(str(refused))

    def _gathered(self) -> None:
        if self._io is not None and not self._reading_paused and not self._io.is_closing():
            self._io.resume_reading()

    def _check(self, packet_id: int) -> None:
        if packet_id >= PACKET_ID_MIN:
            self.abort("packet identifiers for subscriptions are used up; starting over")

    def _tick(self) -> None:
        """Probe a silent broker, and end a connection on which it stays silent.

        Probes leave after three quarters of the keepalive; half of it is given for the answer.
        While reading is paused nothing is concluded: not looking is not silence.
        """
        now = self._loop.time()
        if self._reading_paused:
            self._received_at = self._puback_at = now
        if self._probed_at is not None and self._received_at > self._probed_at:
            self._probed_at = None
        if not self.outbox.blocked:
            self._puback_at = now
        if self._probed_at is not None and now - self._probed_at >= self._keepalive_s / 2:
            self.abort(f"the broker was silent for {now - self._received_at:.0f} s")
        elif now - self._puback_at >= self._link.puback_max_s:
            self.abort(f"the broker acknowledged nothing for {now - self._puback_at:.0f} s")
        else:
            silent_s = now - min(self._received_at, self._sent_at)
            if self._probed_at is None and silent_s >= self._keepalive_s * 3 / 4:
                self._probed_at = now
                self.write(PINGREQ_PACKET)
            self._tick_timer = self._loop.call_later(self._keepalive_s / 4, self._tick)
