"""The hub's own documents on their way to the broker, and what the broker said about it.

Owns what waits to be published, and the stages `published` and `broker_acked`. Never writes a
document.

Rule: a document goes out whole, as it is stored at that moment, so ten changes that wait make one
message. What fails waits for the next connection, and what the broker refuses for a while: nothing
here is a queue that could grow, since a document waits once. Neither stage proves anything about a
device.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from random import Random
from typing import Final, NamedTuple

from hub.clock import Clock
from hub.errors import StorageUnusable
from hub.groups import Groups, full_of
from hub.kill_topic import KillTopic
from hub.store import deployments, devices, documents
from hub.store.database import Connection, Database
from hub.store.deployments import ALL
from sync.documents import DEPLOYMENT, DocumentName, Kind
from sync.messages import Full, in_frames
from sync.replica import Holding, values_of
from sync.session import Retry
from sync.stages import Stage
from sync.topics import down_topic, group_topic, presence_topic
from sync.transport.port import (
    Congested,
    LinkDown,
    Published,
    PublishRefused,
    PublishTimedOut,
    Transport,
)

logger = logging.getLogger(__name__)

PUBACK_MAX_S: Final = 5.0
"""Wait for the broker's answer. It is a hint only, so nothing is lost by not having it."""

PAUSE_S: Final = 1.0

REFUSED_RETRY: Final = Retry(first_s=2.0, longest_s=60.0)
"""Pauses before a document that the broker refused is offered again: quotas pass, and somebody
mends access lists."""


class _Handed(NamedTuple):
    """What became of a message at the broker."""

    is_taken: bool
    answer: Published | None = None


class _Loaded(NamedTuple):
    """A document as it is stored now."""

    document: DocumentName
    n: int
    """Number of its device, or `ALL`."""
    holding: Holding
    message: Full
    deployments: list[str]
    """Those in it that the broker has not acknowledged before."""


class Publisher:
    """What waits to be published. One task runs it."""

    def __init__(
        self, transport: Transport, database: Database, groups: Groups, clock: Clock, run: bytes
    ) -> None:
        self._transport = transport
        self._database = database
        self._groups = groups
        self._clock = clock
        self._run = run
        self._waiting: dict[DocumentName, None] = {}
        self._refusals: dict[DocumentName, int] = {}
        """How often in a row the broker has refused a document on this connection."""
        self._again: dict[DocumentName, asyncio.TimerHandle] = {}
        self._random = Random()  # noqa: S311 - jitter only
        self._wake = asyncio.Event()
        self.kill_topic = KillTopic(transport, database, clock)
        """What is published beside the documents; somebody must run it too."""

    def ask(self, wanted: Iterable[DocumentName]) -> None:
        """Publish these documents as soon as there is a connection."""
        for document in wanted:
            self._waiting[document] = None
        if self._waiting:
            self._wake.set()

    def clear_presence(self, device: str) -> None:
        """Let the broker forget that a device was ever there, if there is a connection."""
        with contextlib.suppress(Congested):
            self._transport.publish_soon(presence_topic(device), b"", retain=True)

    def connected(self) -> None:
        """There is a new connection: what waits can go out, and what was refused on the last."""
        self._refusals.clear()
        self._stop_timers()
        self.kill_topic.connected()
        self._wake.set()

    def _stop_timers(self) -> None:
        for document, timer in self._again.items():
            timer.cancel()
            self._waiting[document] = None
        self._again.clear()

    async def run(self) -> None:
        """Publish what waits, until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting and self._transport.connected:
                    document = next(iter(self._waiting))
                    del self._waiting[document]
                    if not await self._publish(document):
                        self._waiting[document] = None
                        break
        finally:
            self._stop_timers()

    async def _publish(self, document: DocumentName) -> bool:
        """Publish one document; False if it must wait for a better moment."""
        loaded = await self._database.read(lambda connection: _load(connection, document))
        if loaded is None:
            return True
        is_group = document.kind is Kind.GROUP
        topic = group_topic(document.about) if is_group else down_topic(document.about)
        published_ms = self._clock.now_ms()
        (payload,) = in_frames([loaded.message], sender=self._run, sent_ms=published_ms)
        handed = await self._hand_over(topic, payload, retain=is_group)
        if handed is None:
            return False
        if not handed.is_taken:
            self._try_later(document)
            return True
        self._refusals.pop(document, None)
        acked_ms = self._clock.now_ms()
        stages: list[tuple[Stage, int, int | None]] = [(Stage.PUBLISHED, published_ms, None)]
        if handed.answer is not None:
            stages.append((Stage.BROKER_ACKED, acked_ms, handed.answer.reason_code))
        try:
            await self._database.write(lambda connection: self._note(connection, loaded, stages))
        except StorageUnusable:  # said by the way in; published again once there is room
            await asyncio.sleep(PAUSE_S)
            self._wake.set()
            return False
        return True

    def _try_later(self, document: DocumentName) -> None:
        """Offer a document that was refused again, after a pause that grows."""
        count = self._refusals.get(document, 0)
        self._refusals[document] = count + 1
        timer = self._again.pop(document, None)
        if timer is not None:
            timer.cancel()
        delay_s = REFUSED_RETRY.delay_s(count, self._random)
        self._again[document] = asyncio.get_running_loop().call_later(
            delay_s, self._offer_again, document
        )

    def _offer_again(self, document: DocumentName) -> None:
        self._again.pop(document, None)
        self.ask([document])

    async def _hand_over(self, topic: str, payload: bytes, *, retain: bool) -> _Handed | None:
        """Give a message to the broker and wait for its word; None if there is no way to it."""
        try:
            answer = await self._transport.publish(
                topic, payload, retain=retain, deadline_s=PUBACK_MAX_S
            )
        except LinkDown:
            return None
        except Congested:
            await asyncio.sleep(PAUSE_S)
            self._wake.set()
            return None
        except PublishTimedOut as error:
            logger.warning("%s; devices that connect say what they lack", error)
            return _Handed(is_taken=True)
        except PublishRefused as error:
            logger.warning("%s", error)
            return _Handed(is_taken=False)
        return _Handed(is_taken=True, answer=answer)

    def _note(
        self,
        connection: Connection,
        loaded: _Loaded,
        stages: Iterable[tuple[Stage, int, int | None]],
    ) -> None:
        if loaded.document.kind is Kind.GROUP:
            self._groups.published(str(loaded.document), loaded.holding, self._clock.mono_s())
        rows = [
            (deployment, loaded.n, stage.value, at_ms, code)
            for deployment in loaded.deployments
            for stage, at_ms, code in stages
        ]
        deployments.save_stages(connection, rows)


def _load(connection: Connection, document: DocumentName) -> _Loaded | None:
    holding = documents.load(connection, document)
    is_group = document.kind is Kind.GROUP
    n = ALL if is_group else devices.number_of(connection, document.about)
    if holding is None or n is None:
        return None
    name = str(document) if is_group else document.kind.value
    live = [key[len(DEPLOYMENT) :] for key in values_of(holding) if key.startswith(DEPLOYMENT)]
    unacknowledged = [
        each for each in live if not deployments.has_stage(connection, each, n, Stage.BROKER_ACKED)
    ]
    return _Loaded(document, n, holding, full_of(name, holding), unacknowledged)
