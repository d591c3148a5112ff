"""What becomes of a stored document that cannot be read any more.

Owns that decision: it is moved aside and kept, and something sound takes its place. A device's
document is asked of the device again; one of the hub's own is made anew from what was noted of it.
Runs on the writer's thread in a transaction of its own (`hub.store.database`); never publishes.
"""

import logging
from dataclasses import dataclass

from hub.clock import Clock
from hub.desired import DesiredDocuments
from hub.errors import DamagedDocument
from hub.store import devices, documents, projection, quarantine
from hub.store.database import Connection
from sync.documents import Side, parse_document

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Mender:
    """Mends one document at a time."""

    clock: Clock
    desired: DesiredDocuments | None = None
    """Writes the hub's own; None before it has an identity. A start makes anew what is missing."""
    mended_count: int = 0
    """Since the start."""

    def mend(self, connection: Connection, damage: DamagedDocument) -> None:
        """Put something sound in the place of a document, unless it is sound."""
        document = parse_document(damage.document)
        try:
            documents.load(connection, document)
        except DamagedDocument as found:
            reason = found.reason
        else:
            return
        now_ms = self.clock.now_ms()
        epoch = quarantine.move_aside(connection, document, reason=reason, now_ms=now_ms)
        if document.writer is Side.DEVICE:
            n = devices.number_of(connection, document.about)
            if n is not None:
                projection.drop(connection, n, document.kind)
        elif self.desired is not None:
            self.desired.rebuild(connection, document, now_ms, above=epoch or 0)
        self.mended_count += 1
        logger.error(
            "the stored document %s is damaged (%s): it was moved aside, and %s",
            document,
            reason,
            "made anew from what was noted of it"
            if document.writer is Side.HUB
            else "the device is asked for it",
        )
