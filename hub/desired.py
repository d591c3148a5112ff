"""What the hub asks for: the documents `des/<device>` and `grp/<group>`, which it writes.

Owns every change of them: epochs, upkeep, what a new epoch leaves out, and the note of where a
deployment stands. Never publishes; what it returns is durable once the transaction ends.

A document is loaded for each change and dropped again. All changes of one start of the hub are
written under one client id, which was durable before.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from hub.errors import Clash
from hub.store import authored, documents, receipts
from hub.store.database import Connection
from hub.store.receipts import Written
from sync.author import CLIENT_IDS_MAX, Author
from sync.documents import DEPLOYMENT, DESIRED, FLAG, KILL, TERMS, DocumentName
from sync.hlc import COUNTER_BITS
from sync.records import Deployment, Desired, Flag, Kill, Terms, encode, select
from sync.replica import Holding

STATE_BYTES_MAX: Final = 32 * 1024
"""Longest document of the hub: it travels whole to every device of a group."""

TERMS_KEPT_MS: Final = 400 * 86_400 * 1000
"""How long terms for waiting stay, and that a kill order was taken back: longer than any device
waits or is away."""

SLACK_BYTES: Final = 2048
"""What overwritten entries may take beside the live ones before a new epoch leaves them out."""

WITHDRAWN_KEPT_MS: Final = 30 * 86_400 * 1000
"""How long a wish that was taken back, or an ended deployment, stays in the document."""

EPOCH_MAX: Final = 2**53 - 2**21
"""Epochs claimed above this are not answered with a higher one: two million are kept in reserve, so
that no device can use them up."""


def prune(values: Mapping[str, bytes], *, now_ms: int) -> dict[str, bytes]:
    """Return what a new epoch keeps of `values`.

    Of deployments of one component the newest that applies to a device counts, so those go that
    are older than one to the same selector or to every device. A cancelled or expired one stays
    for a month, so that a device that was away meets it.
    """
    kept = dict(values)
    found = select(Deployment, DEPLOYMENT, values)
    newest: dict[tuple[str, str], int] = {}
    for record in found.values():
        place = (record.component, record.where)
        if not record.cancelled:
            newest[place] = max(newest.get(place, 0), record.order)
    for deployment, record in found.items():
        places = ((record.component, record.where), (record.component, ""))
        is_superseded = any(record.order < newest.get(place, 0) for place in places)
        ended_ms = record.order >> COUNTER_BITS if record.cancelled else record.expires_ms
        is_old = bool(ended_ms) and now_ms - ended_ms > WITHDRAWN_KEPT_MS
        if is_superseded or is_old:
            del kept[DEPLOYMENT + deployment]
    for deployment, terms in select(Terms, TERMS, values).items():
        # A device's own terms may be about a deployment in a group's document.
        is_lost = DEPLOYMENT + deployment in values and DEPLOYMENT + deployment not in kept
        if is_lost or now_ms - (terms.clock >> COUNTER_BITS) > TERMS_KEPT_MS:
            del kept[TERMS + deployment]
    return _without_withdrawn(kept, now_ms)


def _without_withdrawn(values: Mapping[str, bytes], now_ms: int) -> dict[str, bytes]:
    """Return `values` without what was taken back long ago."""
    kept = dict(values)
    for key, wish in select(Desired, DESIRED, values).items():
        if wish.value is None and now_ms - (wish.clock >> COUNTER_BITS) > WITHDRAWN_KEPT_MS:
            del kept[DESIRED + key]
    for key, flag in select(Flag, FLAG, values).items():
        if flag.definition is None and now_ms - (flag.clock >> COUNTER_BITS) > WITHDRAWN_KEPT_MS:
            del kept[FLAG + key]
    for what, order in select(Kill, KILL, values).items():
        # One that was taken back may still stand on a device that was away.
        if not order.is_killed and now_ms - (order.clock >> COUNTER_BITS) > TERMS_KEPT_MS:
            del kept[KILL + what]
    return kept


class DesiredDocuments:
    """The documents that this hub writes."""

    def __init__(self, client_id: int) -> None:
        """Write as `client_id`, which is durable and new."""
        self.client_id = client_id

    def write(
        self,
        connection: Connection,
        document: DocumentName,
        entries: Mapping[str, bytes],
        now_ms: int,
        *,
        room_bytes: int = 0,
    ) -> Holding:
        """Set `entries` in `document`, making it if there is none.

        With `room_bytes` it may become so much longer than otherwise.

        Raises:
            Clash: It would become longer than devices take; nothing was written.
        """
        held = documents.load(connection, document)
        author = self._author(held, now_ms)
        if held is None or self.client_id >= max(held.vector, default=0):
            author.write(entries)
        else:
            # A client id above ours: the hub's own counter went back. Only a new epoch is safe.
            author.reset(above=_seconds(now_ms) - 1)
            author.write(entries)
        if self._wants_reset(author):
            author.reset(above=_seconds(now_ms) - 1)
        holding = author.holding()
        if len(holding.state) > STATE_BYTES_MAX + room_bytes:
            raise Clash(
                f"{document} would have {len(holding.state)} bytes, at most {STATE_BYTES_MAX} "
                "travel to a device: cancel deployments or take settings back first"
            )
        self._store(connection, document, holding, author.values(), now_ms, entries)
        return holding

    def reset(
        self, connection: Connection, document: DocumentName, now_ms: int, *, above: int = 0
    ) -> Holding:
        """Start a new epoch of `document`, higher than `above`; an empty one if there is none.

        Devices may hold a document of this name all the same: of a hub that was here before.
        """
        held = documents.load(connection, document)
        author = self._author(held, now_ms)
        author.reset(above=max(above, _seconds(now_ms) - 1))
        holding = author.holding()
        self._store(connection, document, holding, author.values(), now_ms)
        return holding

    def rebuild(
        self, connection: Connection, document: DocumentName, now_ms: int, *, above: int = 0
    ) -> Holding:
        """Make `document`, which was lost, anew from what was noted of it.

        Args:
            connection: In a transaction.
            document: It is not stored.
            now_ms: Hub UTC.
            above: The last epoch that it is known to have had.
        """
        before = max(
            (each.epoch for each in receipts.load_written(connection, str(document))), default=0
        )
        entries = authored.load(connection, document)
        author = self._author(None, now_ms)
        if entries:
            author.write(entries)
        epoch = max(each for each in (above, before, 0) if is_possible_epoch(each))
        author.reset(above=max(epoch, _seconds(now_ms) - 1))
        holding = author.holding()
        self._store(connection, document, holding, author.values(), now_ms)
        return holding

    def _author(self, held: Holding | None, now_ms: int) -> Author:
        return Author(
            held,
            client_id=self.client_id,
            first_epoch=_seconds(now_ms),
            prune=partial(prune, now_ms=now_ms),
        )

    def _wants_reset(self, author: Author) -> bool:
        holding = author.holding()
        live_bytes = sum(len(key) + len(value) + 20 for key, value in author.values().items())
        return (
            len(holding.vector) > CLIENT_IDS_MAX
            or len(holding.state) > 2 * live_bytes + SLACK_BYTES
        )

    def _store(
        self,
        connection: Connection,
        document: DocumentName,
        holding: Holding,
        values: Mapping[str, bytes],
        now_ms: int,
        entries: Iterable[str] = (),
    ) -> None:
        documents.save(connection, document, holding, now_ms)
        authored.save(connection, document, values)
        name = str(document)
        known = {each.deployment: each for each in receipts.load_written(connection, name)}
        live = {key[len(DEPLOYMENT) :] for key in values if key.startswith(DEPLOYMENT)}
        gone = [each for each in known if each not in live and known[each].gone_epoch is None]
        receipts.save_gone(connection, name, gone, holding.epoch)
        clock = holding.vector.get(self.client_id, 0)
        for key in entries:
            deployment = key[len(DEPLOYMENT) :]
            if not key.startswith(DEPLOYMENT) or deployment not in live:
                continue
            place = known.get(deployment)
            if place is None or place.gone_epoch is not None:
                place = Written(deployment, holding.epoch, self.client_id, clock, None)
                receipts.save_written(connection, name, place)


def cancelled(record: Deployment) -> bytes:
    """Return the record of a deployment that an operator took back."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return encode(Deployment(**{**fields, "cancelled": True}))


def _seconds(now_ms: int) -> int:
    return now_ms // 1000


def is_possible_epoch(epoch: int) -> bool:
    """Tell whether a hub would answer a claim to this epoch with a higher one."""
    return epoch <= EPOCH_MAX
