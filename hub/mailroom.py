"""From the transport to the store and back: the loop that takes batches in.

Owns the order "durable, then acknowledged, then answered", what happens while the disk is full, and
what a new or lost connection to the broker means. Never looks into a message (`hub.ingest`).

Rule: nothing is acknowledged to the broker, and nothing is answered to a device, before the
transaction that holds it has ended. While nothing can be written the same batch is tried again;
nothing more is read meanwhile, so the broker keeps what comes.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from hub.clock import Clock, Now, now_of
from hub.conversations import Conversations, Said
from hub.correspondence import Correspondence
from hub.errors import StorageUnusable
from hub.groups import Groups
from hub.ingest import Ingest, Outcome
from hub.publisher import Publisher
from hub.store import presence, receipts
from hub.store.database import Connection, Database
from hub.watch import Watch
from sync.documents import DocumentName, Kind, parse_document
from sync.messages import Message, in_frames
from sync.topics import EVERY_PRESENCE, down_topic
from sync.transport.port import Congested, Connected, Delivery, Disconnected, Event, Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")

UNUSABLE_PAUSE_S: Final = 2.0
UNUSABLE_LOG_EVERY_S: Final = 60.0

TICK_S: Final = 1.0
ALIVE_EVERY_S: Final = 15.0
"""How often it is noted that the hub is still connected, when no batch does."""

LISTEN_AGAIN_S: Final = 5.0
"""How long after connecting the hub asks once more who is there. A birth that is published while
the hub subscribes can be lost: nats-server 2.10 lost 7 of 150, Mosquitto none."""

SWEEP_EVERY_S: Final = 60.0
SWEEP_MAX: Final = 1000
"""Devices that one sweep begins a conversation with."""


def _nothing() -> None:
    """Nobody watches."""


@dataclass(slots=True, kw_only=True)
class Mailroom:
    """The loop, and the clock that says things again."""

    transport: Transport
    database: Database
    ingest: Ingest
    watch: Watch
    groups: Groups
    conversations: Conversations
    correspondence: Correspondence
    publisher: Publisher
    clock: Clock
    run_id: bytes
    """Of this start of the hub, as devices see it."""
    batch_max_count: int
    fault_count: int = 0
    """Messages dropped because the hub has a fault; its log says which."""
    unsent_count: int = 0
    """Answers that were dropped because the link was gone or behind; sessions repeat them."""
    turned: Callable[[], None] = _nothing
    """Called once a second, each time the writer has answered: not while anything hangs. A disk
    that is full is no reason to end the hub, so it counts as an answer."""
    _unusable_logged_mono: float = -UNUSABLE_LOG_EVERY_S
    _alive_mono: float = 0.0
    _sweep_mono: float = 0.0
    _listen_again_mono: float | None = None

    # ------------------------------------------------------------------------------ the way in
    async def run(self) -> None:
        """Take in what comes, until cancelled."""
        while True:
            events = await self.transport.receive(self.batch_max_count)
            for part in _parts(events):
                if isinstance(part, Connected):
                    await self._connected()
                elif isinstance(part, Disconnected):
                    await self._durably(lambda db: self.watch.end(db, self.clock.now_ms()))
                else:
                    await self._take(part)

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        def job(db: Connection) -> Outcome:
            return self.ingest.take(db, deliveries, now_of(self.clock))

        try:
            outcome = await self._durably(job)
        except Exception:  # one message that meets a fault of ours must not stop the hub for all
            logger.exception("a batch of %d messages met a fault of the hub", len(deliveries))
            await self._take_apart(deliveries)
            return
        acknowledge = self.transport.acknowledge
        for delivery in deliveries:
            acknowledge(delivery)
        self._send(outcome.send)
        self.publisher.ask(map(parse_document, outcome.stale_groups))

    async def _take_apart(self, deliveries: Sequence[Delivery]) -> None:
        """Take a batch that failed in halves; drop the one message that cannot be taken."""
        if len(deliveries) > 1:
            middle = len(deliveries) // 2
            await self._take(deliveries[:middle])
            await self._take(deliveries[middle:])
            return
        (delivery,) = deliveries
        self.fault_count += 1
        logger.error("dropped a message on %s that the hub cannot take", delivery.topic[:100])
        self.transport.acknowledge(delivery)

    async def _connected(self) -> None:
        """Say everything again: the broker may have forgotten all of it."""

        def job(db: Connection) -> list[str]:
            self.watch.begin(db, self.clock.now_ms())
            return receipts.unsettled(db, SWEEP_MAX)

        lacking = await self._durably(job)
        wanted = [parse_document(name) for name in self.groups.names()]
        wanted += [DocumentName(Kind.DESIRED, device) for device in lacking]
        self.publisher.ask(wanted)
        self.publisher.connected()
        self._listen_again_mono = self.clock.mono_s() + LISTEN_AGAIN_S

    def listen_again(self) -> None:
        """Subscribe to presence once more when it is time: retained births then come again."""
        due_mono = self._listen_again_mono
        if due_mono is None or self.clock.mono_s() < due_mono or not self.transport.connected:
            return
        self._listen_again_mono = None
        self.transport.subscribe(EVERY_PRESENCE)

    async def _durably(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in a transaction, again and again while nothing can be written."""
        while True:
            try:
                return await self.database.write(job)
            except StorageUnusable as error:
                self._log_unusable(error)
                await asyncio.sleep(UNUSABLE_PAUSE_S)

    def _log_unusable(self, error: StorageUnusable) -> None:
        now_mono = self.clock.mono_s()
        if now_mono - self._unusable_logged_mono >= UNUSABLE_LOG_EVERY_S:
            self._unusable_logged_mono = now_mono
            logger.error("%s", error)

    def recall(self, connection: Connection) -> None:
        """Make memory agree with the tables again: a transaction has failed on its way.

        On the writer's thread. Conversations go on from what is stored, as after a reconnect.
        """
        self.ingest.forget()
        self.groups.recall(connection)
        self.conversations.end_all()
        self._sweep_mono = 0.0

    # ----------------------------------------------------------------------------- the way out
    async def keep_time(self) -> None:
        """Say again what goes unanswered, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.listen_again()
            try:
                frames, wanted = await self.database.write(self._tick)
            except StorageUnusable:
                self.turned()
                continue  # said by the way in
            except Exception:  # as on the way in: a fault about one document must not stop the hub
                self.fault_count += 1
                logger.exception("saying again what goes unanswered met a fault of the hub")
                continue
            self.turned()
            self._send(frames)
            self.publisher.ask(wanted)

    def _tick(self, db: Connection) -> tuple[list[tuple[str, bytes]], list[DocumentName]]:
        """Return what to say again, and what to publish again."""
        if not self.transport.connected:
            return [], []
        wanted: list[DocumentName] = []
        now = now_of(self.clock)
        if now.mono_s >= self._alive_mono:
            self._alive_mono = now.mono_s + ALIVE_EVERY_S
            presence.go_on_listening(db, now.ms)
        said = self.conversations.due(db, now.mono_s)
        if now.mono_s >= self._sweep_mono:
            self._sweep_mono = now.mono_s + SWEEP_EVERY_S
            for device in receipts.unsettled(db, SWEEP_MAX):
                said.setdefault(device, self.conversations.begin(db, device, now.mono_s))
            wanted += map(parse_document, self.groups.unpublished())
        return list(self._framed(db, said.items(), now)), wanted

    def _framed(
        self, db: Connection, said: Iterable[tuple[str, Said]], now: Now
    ) -> Iterable[tuple[str, bytes]]:
        for device, each in said:
            messages: list[Message] = self.correspondence.carry_out(db, device, each, now)
            for payload in in_frames(messages, sender=self.run_id, sent_ms=now.ms):
                yield down_topic(device), payload

    def _send(self, frames: Iterable[tuple[str, bytes]]) -> None:
        """Send without waiting, and at QoS 0: what is lost is said again."""
        publish = self.transport.publish_soon
        for topic, payload in frames:
            try:
                if not publish(topic, payload, qos=0):
                    self.unsent_count += 1
            except Congested:
                self.unsent_count += 1


def _parts(events: Iterable[Event]) -> Iterable[list[Delivery] | Connected | Disconnected]:
    """Give messages in runs, and what happened to the connection between them, in order."""
    run: list[Delivery] = []
    for event in events:
        if isinstance(event, Delivery):
            run.append(event)
            continue
        if run:
            yield run
            run = []
        yield event
    if run:
        yield run
