"""What the hub does once at each start, before anybody hears of it: one transaction.

Owns the identity of a start. Runs in a transaction; never publishes.

Rules: the client id of a start is durable before anything is written under it, and never used
again. Every group document begins a new epoch, above any that this hub has given, so that what a
restored backup has forgotten cannot be mistaken for what it knows.
"""

import logging
import secrets
from typing import Final, NamedTuple

from hub.desired import DesiredDocuments
from hub.store import authored, documents, presence, projection
from hub.store.database import Connection, load_number, save_number
from sync.client_ids import RANDOM_BITS, client_id, counter_after
from sync.documents import Kind, Side
from sync.replica import values_of

logger = logging.getLogger(__name__)

STARTS: Final = "starts"
"""Name of the number that counts starts."""

BIRTHS_BITS: Final = 20
"""A million connections in one start have birth numbers of their own."""

RUN_BYTES: Final = 6


class Identity(NamedTuple):
    """One start of the hub."""

    counter: int
    client_id: int
    run: bytes
    """Random; devices see in each frame which start sent it."""

    def birth(self, connections_count: int) -> int:
        """Return the birth number of a connection of this start."""
        return (self.counter << BIRTHS_BITS) + connections_count


def begin(connection: Connection, now_ms: int) -> Identity:
    """Prepare the store for this start and return its identity."""
    if projection.ensure(connection):
        logger.info("built the tables for queries anew from the documents")
    vectors = [
        holding.vector
        for kind in (Kind.GROUP, Kind.DESIRED)
        for document in documents.names(connection, kind)
        if (holding := documents.load(connection, document)) is not None
    ]
    counter = counter_after(load_number(connection, STARTS), *vectors)
    save_number(connection, STARTS, counter)
    own_id = client_id(Side.HUB, counter, secrets.randbits(RANDOM_BITS))
    desired = DesiredDocuments(own_id)
    for document in authored.lost(connection):
        desired.rebuild(connection, document, now_ms)
    for document in documents.names(connection, Kind.GROUP):
        desired.reset(connection, document, now_ms)
    for document in documents.names(connection, Kind.DESIRED):
        if not authored.load(connection, document):
            authored.save(connection, document, values_of(documents.load(connection, document)))
    # The last start may have ended without a word; it was listening until it last said so.
    presence.end_listening(connection)
    return Identity(counter, own_id, secrets.token_bytes(RUN_BYTES))
