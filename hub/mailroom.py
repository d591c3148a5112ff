"""From the transport to the store and back: the loop that takes batches in.

Owns the order "durable, then acknowledged, then answered", what happens when the disk is full, and
what a new or lost connection to the broker means. Never looks into a message (`hub.ingest`).

Rule: nothing is acknowledged to the broker, and nothing is answered to a device, before the
transaction that holds it has ended. While the disk is full the same batch is tried again; nothing
more is read meanwhile, so the broker keeps what comes.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from hub.clock import Clock
from hub.conversations import Conversations, Said
from hub.correspondence import Correspondence
from hub.errors import StorageFull
from hub.groups import Groups
from hub.ingest import Ingest, Outcome
from hub.publisher import Publisher
from hub.store import presence, receipts
from hub.store.database import Connection, Database
from hub.watch import Watch
from sync.documents import DocumentName, Kind, parse_document
from sync.messages import Message, in_frames
from sync.topics import down_topic
from sync.transport.port import Congested, Connected, Delivery, Disconnected, Event, Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")

FULL_PAUSE_S: Final = 2.0
FULL_LOG_EVERY_S: Final = 60.0

TICK_S: Final = 1.0
ALIVE_EVERY_S: Final = 15.0
"""How often it is noted that the hub is still connected, when no batch does."""

SWEEP_EVERY_S: Final = 60.0
SWEEP_MAX: Final = 1000
"""Devices that one sweep begins a conversation with."""


class Mailroom:
    """The loop, and the clock that says things again."""

    def __init__(
        self,
        *,
        transport: Transport,
        database: Database,
        ingest: Ingest,
        watch: Watch,
        groups: Groups,
        conversations: Conversations,
        correspondence: Correspondence,
        publisher: Publisher,
        clock: Clock,
        run: bytes,
        batch_max_count: int,
    ) -> None:
        self._transport = transport
        self._database = database
        self._ingest = ingest
        self._watch = watch
        self._groups = groups
        self._conversations = conversations
        self._correspondence = correspondence
        self._publisher = publisher
        self._clock = clock
        self._run = run
        self._batch_max_count = batch_max_count
        self._full_logged_mono: float | None = None
        self._alive_mono = 0.0
        self._sweep_mono = 0.0
        self.unsent_count = 0
        """Answers that were dropped because the link was gone or behind; sessions repeat them."""

    # ------------------------------------------------------------------------------ the way in
    async def run(self) -> None:
        """Take in what comes, until cancelled."""
        while True:
            events = await self._transport.receive(self._batch_max_count)
            for part in _parts(events):
                if isinstance(part, Connected):
                    await self._connected()
                elif isinstance(part, Disconnected):
                    await self._durably(lambda db: self._watch.end(db, self._clock.now_ms()))
                else:
                    await self._take(part)

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        def job(db: Connection) -> Outcome:
            return self._ingest.take(db, deliveries, self._clock.now_ms(), self._clock.mono_s())

        outcome = await self._durably(job)
        acknowledge = self._transport.acknowledge
        for delivery in deliveries:
            acknowledge(delivery)
        self._send(outcome.send)
        self._publisher.ask(map(parse_document, outcome.stale_groups))

    async def _connected(self) -> None:
        """Say everything again: the broker may have forgotten all of it."""

        def job(db: Connection) -> list[str]:
            self._watch.begin(db, self._clock.now_ms())
            return receipts.unsettled(db, SWEEP_MAX)

        lacking = await self._durably(job)
        wanted = [parse_document(name) for name in self._groups.names()]
        wanted += [DocumentName(Kind.DESIRED, device) for device in lacking]
        self._publisher.ask(wanted)
        self._publisher.connected()

    async def _durably(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in a transaction, again and again while the disk is full."""
        while True:
            try:
                return await self._database.write(job)
            except StorageFull as error:
                self._log_full(error)
                self._ingest.forget()
                await asyncio.sleep(FULL_PAUSE_S)

    def _log_full(self, error: StorageFull) -> None:
        now_mono = self._clock.mono_s()
        logged_mono = self._full_logged_mono
        if logged_mono is None or now_mono - logged_mono >= FULL_LOG_EVERY_S:
            self._full_logged_mono = now_mono
            logger.error("%s", error)

    # ----------------------------------------------------------------------------- the way out
    async def keep_time(self) -> None:
        """Say again what goes unanswered, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            with contextlib.suppress(StorageFull):  # said by the way in
                self._send(await self._database.write(self._tick))

    def _tick(self, db: Connection) -> list[tuple[str, bytes]]:
        now_ms, now_mono = self._clock.now_ms(), self._clock.mono_s()
        if not self._transport.connected:
            return []
        if now_mono >= self._alive_mono:
            self._alive_mono = now_mono + ALIVE_EVERY_S
            presence.go_on_listening(db, now_ms)
        said = self._conversations.due(db, now_mono)
        if now_mono >= self._sweep_mono:
            self._sweep_mono = now_mono + SWEEP_EVERY_S
            for device in receipts.unsettled(db, SWEEP_MAX):
                said.setdefault(device, self._conversations.begin(db, device, now_mono))
        return list(self._framed(db, said.items(), now_ms, now_mono))

    def _framed(
        self, db: Connection, said: Iterable[tuple[str, Said]], now_ms: int, now_mono: float
    ) -> Iterable[tuple[str, bytes]]:
        for device, each in said:
            messages: list[Message] = self._correspondence.carry_out(
                db, device, each, now_ms, now_mono
            )
            for payload in in_frames(messages, sender=self._run, sent_ms=now_ms):
                yield down_topic(device), payload

    def _send(self, frames: Iterable[tuple[str, bytes]]) -> None:
        """Send without waiting, and at QoS 0: what is lost is said again."""
        publish = self._transport.publish_soon
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
