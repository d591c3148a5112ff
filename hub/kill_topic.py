"""The short retained list of kill orders of each group, on a topic of its own.

Owns what is on it, and when it is published: after each order, and again on every connection, since
the broker may have forgotten it. The same orders stand in the groups' documents, which heal what is
lost here; this road is only faster.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from hub.clock import Clock
from hub.errors import StorageUnusable
from hub.store import authored, kills
from hub.store.database import Connection, Database
from sync.documents import KILL, DocumentName, Kind
from sync.records import Kill, select
from sync.topics import kill_topic
from sync.transport.port import (
    Congested,
    LinkDown,
    PublishRefused,
    PublishTimedOut,
    Transport,
)

logger = logging.getLogger(__name__)

VERSION: Final = 1

PAYLOAD_BYTES_MAX: Final = 16 * 1024
ORDERS_MAX: Final = 400
"""Devices take no more, nor longer ones."""

PUBACK_MAX_S: Final = 5.0
PAUSE_S: Final = 1.0
REFUSED_PAUSE_S: Final = 5.0


def payload_of(orders: Mapping[str, Kill], now_ms: int) -> tuple[bytes, int]:
    """Return the list as it is published, and how many orders that something is off lack room.

    What is off goes before what was taken back, and the latest first.
    """
    ranked = sorted(orders.items(), key=lambda each: (each[1].is_killed, each[1].clock))[::-1]
    rows: list[tuple[str, int, bool, str]] = []
    length_bytes = len(_encoded(now_ms, rows))
    for what, kill in ranked:
        row = (what, kill.clock, kill.is_killed, kill.why)
        # Two more: the length of a list takes up to three bytes.
        length_bytes += len(msgspec.msgpack.encode(row))
        if length_bytes + 2 > PAYLOAD_BYTES_MAX or len(rows) == ORDERS_MAX:
            break
        rows.append(row)
    without_count = sum(kill.is_killed for _, kill in ranked[len(rows) :])
    return _encoded(now_ms, rows), without_count


def _encoded(now_ms: int, rows: list[tuple[str, int, bool, str]]) -> bytes:
    return msgspec.msgpack.encode([VERSION, now_ms, rows])


class KillTopic:
    """What waits to be published there. One task runs it."""

    def __init__(self, transport: Transport, database: Database, clock: Clock) -> None:
        self._transport = transport
        self._database = database
        self._clock = clock
        self._waiting: dict[str, None] = {}
        self._is_every_wanted = False
        self._wake = asyncio.Event()

    def ask(self, groups: Iterable[str]) -> None:
        """Publish the lists of these groups as soon as there is a connection."""
        self._waiting.update(dict.fromkeys(groups))
        self._wake.set()

    def connected(self) -> None:
        """There is a new connection: publish every list anew."""
        self._is_every_wanted = True
        self._wake.set()

    async def run(self) -> None:
        """Publish what waits, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._is_every_wanted:
                self._is_every_wanted = False
                self._waiting.update(dict.fromkeys(await self._database.read(kills.groups)))
            while self._waiting and self._transport.connected:
                group = next(iter(self._waiting))
                del self._waiting[group]
                if not await self._publish(group):
                    self._waiting.setdefault(group)
                    break

    async def _publish(self, group: str) -> bool:
        """Publish one list; False if it must wait for the next connection or for room."""
        orders = await self._database.read(lambda db: _orders(db, group))
        now_ms = self._clock.now_ms()
        payload, without_count = payload_of(orders, now_ms)
        if without_count:
            logger.warning(
                "%d kill orders of group %s have no room on its topic, and travel only in its "
                "document: take back what is no longer needed",
                without_count,
                group,
            )
        try:
            await self._transport.publish(
                kill_topic(group), payload, retain=True, deadline_s=PUBACK_MAX_S
            )
        except LinkDown:
            return False
        except PublishTimedOut as error:
            logger.warning("%s", error)  # it is sent again once there is a new connection
        except (Congested, PublishRefused) as error:
            is_refused = isinstance(error, PublishRefused)
            if is_refused:
                logger.warning("%s; the groups' documents carry the orders too", error)
            await asyncio.sleep(REFUSED_PAUSE_S if is_refused else PAUSE_S)
            self._wake.set()
            return False
        with contextlib.suppress(StorageUnusable):  # a figure only; the order itself is durable
            clocks = [kill.clock for kill in orders.values()]
            await self._database.write(lambda db: kills.note_published(db, clocks, now_ms))
        return True


def _orders(connection: Connection, group: str) -> dict[str, Kill]:
    return select(Kill, KILL, authored.load(connection, DocumentName(Kind.GROUP, group)))
