"""What devices say about the hub's documents, and what the hub answers.

Owns the way of such a message: it becomes a receipt, evidence for or against deliveries, and an
answer if the device lacks something. Runs on the writer's thread inside a transaction; never
publishes.

Rule: evidence is a device's own state vector. That a broker took a message is none.
"""

import logging
from dataclasses import dataclass, field
from typing import Final

from hub.anchors import contacts_in
from hub.clock import Now
from hub.conversations import Conversations, Said, desired_of
from hub.desired import DesiredDocuments, is_possible_epoch
from hub.groups import Groups
from hub.offences import Offence, Offences
from hub.receipts import Evidence, judge
from hub.store import devices, documents, receipts
from hub.store.database import Connection
from sync.contacts import interval_of
from sync.documents import DocumentName, Kind
from sync.messages import Frame, Have, Message, Refuse, Whole, document_of, vector_of
from sync.moves import Peer
from sync.stamps import Stamp

logger = logging.getLogger(__name__)


GROUPS_MAX: Final = 1000
"""With so many group documents, none is made any more because a device says that it holds one."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who said it, and in which frame."""

    n: int
    device: str
    frame: Frame


@dataclass(slots=True)
class _Rows:
    """What one batch adds to the tables of evidence."""

    receipts: dict[tuple[int, str], tuple[int, str, int, bytes, int]] = field(default_factory=dict)
    covered: list[tuple[int, str, int]] = field(default_factory=list)
    missed: list[tuple[Speaker, list[str]]] = field(default_factory=list)


class Correspondence:
    """The hub's documents, seen from the devices."""

    def __init__(
        self,
        desired: DesiredDocuments,
        groups: Groups,
        conversations: Conversations,
        offences: Offences,
    ) -> None:
        self._desired = desired
        self._groups = groups
        self._conversations = conversations
        self._offences = offences
        self._rows = _Rows()
        self.stale_groups: set[str] = set()
        """Group documents that were stored anew and must be published; the caller empties it."""

    def hear(
        self,
        connection: Connection,
        speaker: Speaker,
        message: Have | Whole | Refuse,
        now: Now,
    ) -> list[Message]:
        """Take one message and return what to answer.

        Raises:
            BadFrame: It names no document, or its vector cannot be read.
        """
        document = document_of(message, speaker.device)
        if document == desired_of(speaker.device):
            return self._desired_heard(connection, speaker, document, message, now)
        if document.kind is Kind.GROUP:
            return self._group_heard(connection, speaker, document, message, now)
        detail = f"speaks about {document}, which is not the hub's to send to it"
        self._offences.add(speaker.device, Offence.BAD_FRAME, detail, now.mono_s)
        return []

    def _desired_heard(
        self,
        connection: Connection,
        speaker: Speaker,
        document: DocumentName,
        message: Have | Whole | Refuse,
        now: Now,
    ) -> list[Message]:
        if isinstance(message, Have):
            peer = Peer(message.epoch, vector_of(message.vector))
            if not self._is_possible(speaker, document, peer, now):
                return []
            own = documents.load(connection, document)
            if own is not None:
                written = receipts.load_written(connection, str(document))
                self._note(speaker, str(document), peer, judge(own, peer, written), now)
        elif isinstance(message, Refuse):
            self._refused(speaker, document, message, now)
        said = self._conversations.heard(connection, speaker.device, message, now.mono_s)
        return self.carry_out(connection, speaker.device, said, now)

    def carry_out(self, connection: Connection, device: str, said: Said, now: Now) -> list[Message]:
        """Replace the desired document if the conversation asks for it; return what to say."""
        if said.reset_above is None:
            return said.messages
        document = desired_of(device)
        self._desired.reset(connection, document, now.ms, above=said.reset_above)
        more = self._conversations.was_reset(connection, device, now.mono_s)
        return [*said.messages, *more.messages]

    def _group_heard(
        self,
        connection: Connection,
        speaker: Speaker,
        document: DocumentName,
        message: Have | Whole | Refuse,
        now: Now,
    ) -> list[Message]:
        name = str(document)
        if isinstance(message, Whole):
            return []
        if self._groups.holding(name) is None:
            self._orphan_heard(connection, speaker, document, message, now)
            return []
        if isinstance(message, Refuse):
            self._refused(speaker, document, message, now)
            return []
        peer = Peer(message.epoch, vector_of(message.vector))
        if not self._is_possible(speaker, document, peer, now):
            return []
        if self._groups.must_reset(name, peer, now.mono_s):
            self.reset_group(connection, document, now, above=peer.epoch)
            return []
        self._note(speaker, name, peer, self._groups.judge(name, peer), now)
        healing = self._groups.heal(name, speaker.n, peer, now.mono_s)
        return [] if healing is None else [healing]

    def _orphan_heard(
        self,
        connection: Connection,
        speaker: Speaker,
        document: DocumentName,
        message: Have | Refuse,
        now: Now,
    ) -> None:
        """End what a device obeys of a hub that was here before: with an empty document."""
        if isinstance(message, Refuse) or not vector_of(message.vector):
            return
        peer = Peer(message.epoch, vector_of(message.vector))
        if not self._is_possible(speaker, document, peer, now):
            return
        if self._groups.count() >= GROUPS_MAX:
            detail = (
                f"holds {document}, which this hub never wrote, and there are {GROUPS_MAX} groups"
            )
            self._offences.add(speaker.device, Offence.FOREIGN_GROUP, detail, now.mono_s)
            return
        logger.warning(
            "%s holds %s, which this hub never wrote: made it anew, empty", speaker.device, document
        )
        self.reset_group(connection, document, now, above=peer.epoch)

    def reset_group(
        self, connection: Connection, document: DocumentName, now: Now, *, above: int = 0
    ) -> None:
        """Give a group document a new epoch, to be published."""
        self._desired.reset(connection, document, now.ms, above=above)
        self._groups.load(connection, [document])
        self.stale_groups.add(str(document))

    def _is_possible(self, speaker: Speaker, document: DocumentName, peer: Peer, now: Now) -> bool:
        if is_possible_epoch(peer.epoch):
            return True
        detail = f"claims epoch {peer.epoch} of {document}, which no hub gives"
        self._offences.add(speaker.device, Offence.BAD_EPOCH, detail, now.mono_s)
        return False

    def _refused(self, speaker: Speaker, document: DocumentName, message: Refuse, now: Now) -> None:
        detail = f"refuses epoch {message.epoch} of {document}: {message.code}"
        self._offences.add(speaker.device, Offence.REFUSES, detail, now.mono_s)

    def _note(self, speaker: Speaker, name: str, peer: Peer, evidence: Evidence, now: Now) -> None:
        row = (speaker.n, name, peer.epoch, documents.encode_column(peer.vector), now.ms)
        self._rows.receipts[speaker.n, name] = row
        self._rows.covered += [(now.ms, each, speaker.n) for each in evidence.covered]
        if evidence.missed:
            self._rows.missed.append((speaker, evidence.missed))

    def save(self, connection: Connection, now: Now) -> None:
        """Write down what was heard since the last time."""
        rows, self._rows = self._rows, _Rows()
        if rows.receipts:
            receipts.save_receipts(connection, rows.receipts.values())
        if rows.covered:
            receipts.save_covered(connection, rows.covered)
        if not rows.missed:
            return
        columns = devices.load_contacts(connection, {speaker.n for speaker, _ in rows.missed})
        missed: list[tuple[int, int | None, str, int]] = []
        for speaker, deployments in rows.missed:
            sent = interval_of(
                Stamp(speaker.frame.sender, speaker.frame.sent_ms, wall_ms=0),
                contacts_in(columns.get(speaker.n)),
                seen_at_ms=now.ms,
            )
            missed += [(now.ms, sent.lo_ms, each, speaker.n) for each in deployments]
        receipts.save_missed(connection, missed)

    def forget(self) -> None:
        """Drop what was not written: its transaction has failed."""
        self._rows = _Rows()
        self.stale_groups.clear()
