"""The hub's own documents on their way to the broker, and what the broker said about it.

Owns what waits to be published, and the stages `published` and `broker_acked`. Never writes a
document.

Rule: a document goes out whole, as it is stored at that moment, so ten changes that wait make one
message. What fails waits for the next connection: nothing here is a queue that could grow, since a
document waits once. Neither stage proves anything about a device.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from hub.clock import Clock
from hub.groups import Groups, full_of
from hub.store import deployments, devices, documents
from hub.store.database import Connection, Database
from hub.store.deployments import ALL
from sync.documents import DEPLOYMENT, DocumentName, Kind
from sync.messages import in_frames
from sync.replica import values_of
from sync.stages import Stage
from sync.topics import down_topic, group_topic
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

CONGESTED_PAUSE_S: Final = 1.0


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
        self._wake = asyncio.Event()

    def ask(self, wanted: Iterable[DocumentName]) -> None:
        """Publish these documents as soon as there is a connection."""
        for document in wanted:
            self._waiting[document] = None
        if self._waiting:
            self._wake.set()

    def connected(self) -> None:
        """There is a new connection: what waits can go out."""
        self._wake.set()

    async def run(self) -> None:
        """Publish what waits, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting and self._transport.connected:
                document = next(iter(self._waiting))
                del self._waiting[document]
                if not await self._publish(document):
                    self._waiting[document] = None
                    break

    async def _publish(self, document: DocumentName) -> bool:
        """Publish one document; False if it must wait for a better moment."""
        loaded = await self._database.read(lambda connection: _load(connection, document))
        if loaded is None:
            return True
        epoch_frame, live = loaded
        is_group = document.kind is Kind.GROUP
        topic = group_topic(document.about) if is_group else down_topic(document.about)
        payload = epoch_frame(self._run, self._clock.now_ms())
        published_ms = self._clock.now_ms()
        answer: Published | None = None
        try:
            answer = await self._transport.publish(
                topic, payload, retain=is_group, deadline_s=PUBACK_MAX_S
            )
        except LinkDown:
            return False
        except Congested:
            await asyncio.sleep(CONGESTED_PAUSE_S)
            self._wake.set()
            return False
        except PublishTimedOut as error:
            logger.warning("%s; devices that connect say what they lack", error)
        except PublishRefused as error:
            logger.warning("%s", error)
            return True
        acked_ms = self._clock.now_ms()
        now_mono = self._clock.mono_s()

        def note(connection: Connection) -> None:
            if is_group:
                self._groups.published(str(document), now_mono)
            if not live:
                return
            n = ALL if is_group else devices.number_of(connection, document.about)
            if n is None:
                return
            rows: list[tuple[str, int, str, int, int | None]] = [
                (each, n, Stage.PUBLISHED.value, published_ms, None) for each in live
            ]
            if answer is not None:
                code = answer.reason_code
                rows += [(each, n, Stage.BROKER_ACKED.value, acked_ms, code) for each in live]
            deployments.save_stages(connection, rows)

        await self._database.write(note)
        return True


def _load(
    connection: Connection, document: DocumentName
) -> tuple[Callable[[bytes, int], bytes], list[str]] | None:
    """Return what makes the frame, and the deployments that were not published before."""
    holding = documents.load(connection, document)
    if holding is None:
        return None
    about_device = document.kind is not Kind.GROUP
    name = document.kind.value if about_device else str(document)
    message = full_of(name, holding)

    def frame(run: bytes, now_ms: int) -> bytes:
        (payload,) = in_frames([message], sender=run, sent_ms=now_ms)
        return payload

    live = [key[len(DEPLOYMENT) :] for key in values_of(holding) if key.startswith(DEPLOYMENT)]
    n = devices.number_of(connection, document.about) if about_device else ALL
    return frame, [
        each for each in live if not deployments.has_stage(connection, each, n, Stage.BROKER_ACKED)
    ]
