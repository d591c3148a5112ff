"""Tells receivers what happened, one event after the other, until they have it.

Owns the pace: what is due at which receiver, when it is tried again, when it is given up. What an
event is stands in `hub.export.gathering`, its form in `hub.export.events`.

Promise: each receiver is told each event at least once and in order, across restarts of the hub,
unless it did not take it for `webhook_give_up_s` or more than `KEPT_MAX` others came after it. Both
are logged and counted. An event that is told twice has the same id.
"""

import asyncio
import contextlib
import http.client
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from hub import views
from hub.clock import Clock
from hub.errors import StorageUnusable
from hub.export import gathering
from hub.export.events import Event, headers
from hub.settings import Settings
from hub.store import deployments, outbox
from hub.store.database import Connection, Database
from hub.store.outbox import Kept, Place

logger = logging.getLogger(__name__)

SEND_S: Final = 10.0
"""Longest wait for a receiver, for each step of a request."""

ANSWER_BYTES_MAX: Final = 64 * 1024

KEPT_MAX: Final = 10_000
"""Events that wait at most; at about 2 KB each, 20 MB."""

FIRST_RETRY_S: Final = 2.0
LONGEST_RETRY_S: Final = 3600.0

OK: Final = range(200, 300)


def retry_s(attempts: int, random: Random) -> float:
    """Return the pause after so many attempts that failed, with full jitter."""
    longest_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempts - 1, 20))
    return random.uniform(0.1, 1.0) * longest_s


def after_attempt(
    place: Place, event_n: int, *, is_taken: bool, now_ms: int, give_up_ms: int, pause_ms: int
) -> tuple[Place, bool]:
    """Return how a receiver stands after an attempt, and whether the event was given up."""
    if is_taken:
        return Place(place.url, event_n, 0, 0, 0), False
    first_ms = place.first_ms or now_ms
    if now_ms - first_ms >= give_up_ms:
        return Place(place.url, event_n, 0, 0, now_ms + pause_ms), True
    return Place(place.url, place.told_n, place.attempts + 1, first_ms, now_ms + pause_ms), False


@dataclass(slots=True)
class Counters:
    """What the webhooks have done since the start."""

    webhook_told_count: int = 0
    webhook_failed_count: int = 0
    """Attempts that failed."""
    webhook_lost_count: int = 0
    """Events that a receiver was never told."""


@dataclass(slots=True, kw_only=True)
class Webhooks:
    """Every receiver. One task runs it."""

    settings: Settings
    database: Database
    clock: Clock
    source: str
    """The hub's own name in events."""
    secret: bytes | None = None
    counters: Counters = field(default_factory=Counters)
    _random: Random = field(default_factory=Random)
    _has_news: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Look and tell until cancelled."""
        await self.database.write(self._begin)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look(), name="webhooks look")
            for url in self.settings.webhook_urls:
                tasks.create_task(self._tell(url), name=f"webhook {url}")

    async def look(self) -> bool:
        """Gather what there is to tell; return whether there is something new."""
        changes = await self.database.write(gathering.gather_changes)
        verdicts = await self.database.write(self._verdicts)
        lost = await self.database.write(self._clean)
        if lost:
            self.counters.webhook_lost_count += lost
            logger.error("%d events went before every receiver was told: too many wait", lost)
        return bool(changes or verdicts)

    async def _look(self) -> None:
        while True:
            try:
                if await self.look():
                    self._has_news.set()
                    self._has_news.clear()
            except StorageUnusable as error:
                logger.warning("what there is to tell was not gathered: %s", error)
            await asyncio.sleep(self.settings.webhook_look_s)

    def _begin(self, db: Connection) -> None:
        """Let new receivers begin with what happens from now on, and forget former ones."""
        known = outbox.places(db)
        newest = outbox.newest(db)
        for url in self.settings.webhook_urls:
            if url not in known:
                outbox.put_place(db, Place(url, newest, 0, 0, 0))
        outbox.forget_places(db, self.settings.webhook_urls)

    def _verdicts(self, db: Connection) -> bool:
        now_ms = self.clock.now_ms()
        found = deployments.latest(db, views.DEPLOYMENTS_SHOWN)
        is_new = False
        left_count = views.DEVICES_REPORTED_MAX
        for deployed in found:
            left_count -= deployments.count_targeted(db, deployed.id)
            if left_count < 0:
                break
            report = views.report_of(db, deployed, silence_s=self.settings.silence_s, now_ms=now_ms)
            is_new |= gathering.gather_verdicts(db, deployed, report)
        outbox.forget_deployments(db, [each.id for each in found])
        return is_new

    def _clean(self, db: Connection) -> int:
        told = min((each.told_n for each in outbox.places(db).values()), default=0)
        return outbox.drop(db, told_n=told, kept_max_count=KEPT_MAX)

    async def _tell(self, url: str) -> None:
        """Tell one receiver, for ever."""
        while True:
            wait_s = self.settings.webhook_look_s
            with contextlib.suppress(StorageUnusable):
                wait_s = await self.tell_next(url)
            if wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._has_news.wait()

    async def tell_next(self, url: str) -> float:
        """Tell a receiver the next event if it is due; return after how many seconds to ask again.

        Raises:
            StorageUnusable: What came of it could not be written; the event is told again.
        """

        def peek(db: Connection) -> tuple[Place, Kept | None]:
            place = outbox.places(db)[url]
            return place, outbox.after(db, place.told_n)

        place, kept = await self.database.read(peek)
        if kept is None:
            return self.settings.webhook_look_s
        now_ms = self.clock.now_ms()
        if place.due_ms > now_ms:
            return min((place.due_ms - now_ms) / 1000, LONGEST_RETRY_S)
        event = self._event(kept)
        body = event.body(self.source)
        signed = headers(event, body, self.secret, now_ms // 1000)
        answer = await asyncio.to_thread(post, url, body, signed)
        pause_s = 0.0 if answer.is_taken else retry_s(place.attempts + 1, self._random)
        next_place, gave_up = after_attempt(
            place,
            kept.n,
            is_taken=answer.is_taken,
            now_ms=now_ms,
            give_up_ms=round(self.settings.webhook_give_up_s * 1000),
            pause_ms=round(pause_s * 1000),
        )
        await self.database.write(lambda db: outbox.put_place(db, next_place))
        if answer.is_taken:
            self.counters.webhook_told_count += 1
            return 0.0
        self.counters.webhook_failed_count += 1
        if gave_up:
            self.counters.webhook_lost_count += 1
            logger.error("%s was not told event %s: %s; given up", url, event.id, answer.said)
        elif place.attempts == 0:
            logger.warning("%s did not take event %s: %s", url, event.id, answer.said)
        return pause_s

    def _event(self, kept: Kept) -> Event:
        return Event(
            id=f"{self.source.rpartition(':')[2]}-{kept.n}",
            type=kept.type,
            subject=kept.subject,
            at_ms=kept.at_ms,
            content=msgspec.json.decode(kept.content),
        )


class Answer(NamedTuple):
    """What a receiver said."""

    is_taken: bool
    said: str
    """Its status, or what kept the event from arriving."""


def post(url: str, body: bytes, named: Mapping[str, str]) -> Answer:
    """Send one event and wait for the answer.

    Follows no redirection: an event goes where the operator said, and nowhere else.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None  # noqa: S101 - the setting was checked
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=SEND_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=SEND_S)
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    try:
        connection.request("POST", path, body, dict(named))
        answer = connection.getresponse()
        answer.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        return Answer(is_taken=False, said=f"{type(error).__name__}: {error}"[:200])
    else:
        return Answer(is_taken=answer.status in OK, said=f"status {answer.status}")
    finally:
        connection.close()
