"""What devices send becomes durable: one batch of messages, one transaction, then the answers.

Owns the way of a batch. Runs on the writer's thread, inside a transaction; never begins or ends
one, never publishes. What `take` returns may go out only after the transaction has ended well.

Rules: a device is who its topic says, never who its message says. What one device sends is bounded
in size, number and cost (`hub.flood`), and counted under its name when it is wrong; the others'
messages in the same batch are not touched by it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from hub.admission import Admission
from hub.anchors import Anchors
from hub.clock import Now
from hub.clones import Clones
from hub.correspondence import Correspondence, Speaker
from hub.entries import Entries, Source
from hub.flood import BYTES_PER_TOKEN, HELD_BYTES_PER_TOKEN, Flood
from hub.offences import Offence, Offences
from hub.presence import BadPresence, parse_presence
from hub.store import devices, documents
from hub.store import identity as identity_store
from hub.store import presence as presence_store
from hub.store.database import Connection
from hub.store.presence import Known
from hub.watch import Stranger, Watch
from sync.documents import ACK, BadName, DocumentName, Kind
from sync.follower import Followed, follow
from sync.gate import Refusal
from sync.messages import (
    BadFrame,
    Diff,
    Fetch,
    Frame,
    Full,
    Have,
    Message,
    Open,
    Refuse,
    Whole,
    decode_frame,
    in_frames,
)
from sync.replica import Holding
from sync.topics import ROOT, VERSION, Topic, TopicKind, parse_topic
from sync.transport.port import Delivery

HEARD_EVERY_MS: Final = 600_000
"""How precisely it is kept when a device was heard that sent nothing new; a document that changed
says it to the millisecond, and costs no row of its own."""

PAID_BY_FRAME: Final = 1.5
"""A frame was charged for when it came; what a short message on a short document costs beside that
is not worth counting."""

TOPICS_REMEMBERED: Final = 65_536

_OWN: Final = Kind.DEVICE.value
_TELEMETRY: Final = Kind.TELEMETRY.value

_PERHAPS_OURS: Final = frozenset({Refusal.ENGINE, Refusal.FORECAST})
"""Refusals that may be for what is held and not for what was sent."""

_ABOUT_OURS: Final = (Have, Whole, Refuse)
"""Messages about documents that the hub writes."""


@dataclass(slots=True)
class Outcome:
    """What may go out once the batch is durable."""

    send: list[tuple[str, bytes]] = field(default_factory=list)
    """Topic and payload; nobody waits for their PUBACK, a session repeats what is lost."""
    stale_groups: set[str] = field(default_factory=set)
    """Group documents to publish."""


@dataclass(slots=True)
class _Sender:
    """One device in this batch."""

    device: str
    n: int
    stray_count: int
    holding: Holding | None
    """What is held of its document, and then what came of it."""
    telemetry: Holding | None = None
    """The same of its telemetry, once it was asked for in this batch."""
    has_telemetry: bool = False
    is_measured: bool = False
    """Whether its telemetry has changed."""

    def save_telemetry(self, connection: Connection, now: Now) -> None:
        """Store its telemetry, if it has changed."""
        if self.is_measured and self.telemetry is not None:
            document = DocumentName(Kind.TELEMETRY, self.device)
            documents.save(connection, document, self.telemetry, now.ms)


@dataclass(slots=True)
class Counters:
    """What came in since the start. Every value only grows."""

    batch_count: int = 0
    frame_count: int = 0
    message_count: int = 0
    update_count: int = 0
    """Changes of documents that became durable."""
    dropped_count: int = 0
    """Messages dropped because their device was over its limit, or their topic is none of ours."""


class Ingest:
    """The way in. One object for the life of the hub, used on the writer's thread only."""

    def __init__(
        self,
        *,
        run: bytes,
        flood: Flood,
        offences: Offences,
        entries: Entries,
        watch: Watch,
        correspondence: Correspondence,
        admission: Admission,
    ) -> None:
        """Answer as start `run` of the hub."""
        self.counters = Counters()
        self._run = run
        self._flood = flood
        self._offences = offences
        self._entries = entries
        self._watch = watch
        self._correspondence = correspondence
        self._anchors = Anchors()
        self._admission = admission
        self.enrolled_only = False
        """Whether to listen only to devices whose identity counts."""
        self._clones = Clones()
        self._topic = lru_cache(TOPICS_REMEMBERED)(_parse_topic)

    def forget(self) -> None:
        """A transaction has failed: what is in memory may be ahead of what is stored.

        Nobody owes anything for a batch that will be taken again.
        """
        self._flood.pardon()
        self._offences.forget()
        self._anchors.forget()
        self._correspondence.forget()
        self._entries.forget()
        self._admission.forget()

    def take(
        self,
        connection: Connection,
        deliveries: Iterable[Delivery],
        now: Now,
    ) -> Outcome:
        """Take a batch and return what to send after it.

        Args:
            connection: In a transaction.
            deliveries: Messages from the broker, in order.
            now: Not before any of them arrived.
        """
        self._flood.forget(now.mono_s)
        mail, presences = self._sort(deliveries, now)
        outcome = Outcome()
        if self.enrolled_only:
            presences = self._turn_away(connection, mail, presences, now)
        if mail:
            self._take_mail(connection, mail, now, outcome)
        if presences:
            self._take_presences(connection, presences, now)
        if self._offences:
            self._save_offences(connection, now)
        presence_store.go_on_listening(connection, now.ms)
        self._correspondence.save(connection, now)
        outcome.stale_groups = set(self._correspondence.stale_groups)
        self._correspondence.stale_groups.clear()
        self.counters.batch_count += 1
        return outcome

    # ------------------------------------------------------------------------------ sorting
    def _sort(
        self, deliveries: Iterable[Delivery], now: Now
    ) -> tuple[dict[str, list[Frame]], list[tuple[str, bytes]]]:
        """Decode what is allowed, and put it in order by device."""
        mail: dict[str, list[Frame]] = {}
        presences: list[tuple[str, bytes]] = []
        topic_of, admits, now_mono = self._topic, self._flood.admits, now.mono_s
        clones = self._clones.suspects
        frame_count = message_count = 0
        for topic, payload, *_ in deliveries:
            kind, device = topic_of(topic)
            if kind is TopicKind.UP:
                if not admits(device, 1 + len(payload) / BYTES_PER_TOKEN, now_mono):
                    self.counters.dropped_count += 1
                    self._offences.add(device, Offence.FLOOD, "sends too much", now_mono)
                    continue
                try:
                    frame = decode_frame(payload)
                except BadFrame as error:
                    self._offences.add(device, Offence.BAD_FRAME, str(error), now_mono)
                    continue
                if clones(device, frame.sender, now_mono):
                    detail = "a boot of it came back: two devices have this name"
                    self._offences.add(device, Offence.CLONE_SUSPECTED, detail, now_mono)
                frame_count += 1
                message_count += len(frame.messages)
                if device in mail:
                    mail[device].append(frame)
                else:
                    mail[device] = [frame]
            elif kind is TopicKind.PRESENCE:
                presences.append((device, payload))
            elif kind is not TopicKind.HUB_PRESENCE:
                self.counters.dropped_count += 1
        self.counters.frame_count += frame_count
        self.counters.message_count += message_count
        return mail, presences

    def _turn_away(
        self,
        connection: Connection,
        mail: dict[str, list[Frame]],
        presences: list[tuple[str, bytes]],
        now: Now,
    ) -> list[tuple[str, bytes]]:
        """Drop what comes from names without an identity; return the presences that are left.

        The broker has checked who they are, if its configuration is ours. This is the second lock:
        for a broker that was set up otherwise, and for the time until it knows of a revocation.
        The end of a connection is heard all the same, or a revoked device would count as connected
        for ever.
        """
        named = {*mail, *(device for device, _ in presences)}
        strangers = named - identity_store.live_of(connection, named)
        detail = "is not enrolled, or was revoked"
        for device in strangers:
            self._offences.add(device, Offence.NOT_ENROLLED, detail, now.mono_s)
            self.counters.dropped_count += len(mail.pop(device, ()))
        known = devices.registered_of(connection, strangers) if strangers else set()
        return [
            (device, payload)
            for device, payload in presences
            if device not in strangers or (device in known and _is_death(payload))
        ]

    # ------------------------------------------------------------------------------ frames
    def _take_mail(
        self, connection: Connection, mail: dict[str, list[Frame]], now: Now, outcome: Outcome
    ) -> None:
        # In the order of their names, so that neighbours in the tables are written together.
        order = sorted(mail)
        stored = devices.load_many(connection, order)
        updates: list[tuple[int, bytes, bytes, bytes, int, int]] = []
        heard: list[tuple[int, int]] = []
        timed: list[tuple[int, Frame]] = []
        for device in order:
            frames = mail[device]
            held, document_n = None, None
            if device in stored:
                _, n, heard_ms, stray_count, document_n, epoch, *columns = stored[device]
                if document_n is not None:
                    held = documents.holding_of(f"{_OWN}/{device}", epoch, *columns)
            else:
                registered = self._register(connection, device, now)
                if registered is None:
                    continue
                n, heard_ms, stray_count = registered, now.ms, 0
            self._time(n, frames, now, timed)
            sender = _Sender(device, n, stray_count, held)
            replies = self._hear(connection, sender, frames, now)
            holding = sender.holding
            if holding is not None and holding is not held:
                if document_n is None:
                    documents.save(connection, DocumentName(Kind.DEVICE, device), holding, now.ms)
                else:
                    vector = documents.encode_column(holding.vector)
                    absorbed = documents.encode_absorbed(holding.absorbed)
                    updates.append(
                        (holding.epoch, holding.state, vector, absorbed, now.ms, document_n)
                    )
            elif now.ms - heard_ms > HEARD_EVERY_MS:
                heard.append((now.ms, n))
            sender.save_telemetry(connection, now)
            if replies:
                topic = f"{ROOT}/{VERSION}/{device}/down"
                for payload in in_frames(replies, sender=self._run, sent_ms=now.ms):
                    outcome.send.append((topic, payload))
        documents.update_many(connection, updates)
        devices.save_heard(connection, heard)
        self._entries.save(connection, now)
        self._anchors.keep(connection, timed, now.ms)

    def _register(self, connection: Connection, device: str, now: Now) -> int | None:
        refusal = self._admission.refusal(connection, now)
        if refusal:
            self._offences.add(device, Offence.NOT_ADMITTED, refusal, now.mono_s)
            return None
        return devices.register(connection, device, now.ms)

    def _time(
        self, n: int, frames: Sequence[Frame], now: Now, timed: list[tuple[int, Frame]]
    ) -> None:
        """Choose the frames that may say something about the device's clock.

        Of several that arrived together the last was on its way the shortest.
        """
        could_tighten = self._anchors.could_tighten
        last = len(frames) - 1
        for position, frame in enumerate(frames):
            if (position == last or frame.anchor is not None) and could_tighten(n, frame, now.ms):
                timed.append((n, frame))

    def _hear(
        self, connection: Connection, sender: _Sender, frames: Sequence[Frame], now: Now
    ) -> list[Message]:
        """Go through what a device says, in its order; return the answers.

        Answers state what is held, so of each kind the last one counts, and it goes out once.
        """
        device = sender.device
        document = DocumentName(Kind.DEVICE, device)
        names = (_OWN, f"{_OWN}/{device}")
        telemetry = (_TELEMETRY, f"{_TELEMETRY}/{device}")
        answers: dict[type[Message], Message] = {}
        measured: dict[type[Message], Message] = {}
        others: list[Message] = []
        changed: dict[str, bytes | None] = {}
        tokens = 0.0
        for frame in frames:
            for message in frame.messages:
                if isinstance(message, _ABOUT_OURS):
                    others += self._other(connection, sender, frame, message, now)
                elif message.document in names:
                    followed = follow(document, sender.holding, message, device)
                    answers[type(followed.reply)] = followed.reply
                    if followed.holding is not None:
                        sender.holding = followed.holding
                        self.counters.update_count += 1
                        _merge(changed, followed)
                    elif followed.offence is not None or isinstance(message, Fetch):
                        self._refused(sender, document, followed, now)
                    tokens += _cost(message, sender.holding)
                elif message.document in telemetry:
                    reply = self._measured(connection, sender, message, now)
                    measured[type(reply)] = reply
                    tokens += _cost(message, sender.telemetry)
                else:
                    detail = f"writes {message.document}, which is not its document"
                    self._offences.add(device, Refusal.FOREIGN_WRITER, detail, now.mono_s)
        if tokens > PAID_BY_FRAME:
            self._flood.charge(device, tokens - 1, now.mono_s)
        if changed:
            source = Source(device, sender.n, sender.stray_count)
            self._entries.add(connection, source, changed, now)
        return [*answers.values(), *measured.values(), *others]

    def _measured(
        self,
        connection: Connection,
        sender: _Sender,
        message: Open | Diff | Full | Fetch,
        now: Now,
    ) -> Message:
        """Take one message about a device's telemetry; return the answer."""
        document = DocumentName(Kind.TELEMETRY, sender.device)
        if not sender.has_telemetry:
            sender.telemetry = documents.load(connection, document)
            sender.has_telemetry = True
        followed = follow(document, sender.telemetry, message, sender.device)
        if followed.holding is not None:
            sender.telemetry = followed.holding
            sender.is_measured = True
            self.counters.update_count += 1
            source = Source(sender.device, sender.n, sender.stray_count)
            self._entries.add_telemetry(source, followed.changed, now)
        elif followed.offence is not None or isinstance(message, Fetch):
            self._refused(sender, document, followed, now)
        return followed.reply

    def _refused(
        self, sender: _Sender, document: DocumentName, followed: Followed, now: Now
    ) -> None:
        """Count an offence, unless what is held is to blame, or what is sent of it would be.

        Raises:
            DamagedDocument: It is. The batch is taken again once it is mended.
        """
        offence = followed.offence
        held = sender.telemetry if document.kind is Kind.TELEMETRY else sender.holding
        if held is not None and (offence is None or offence.refusal in _PERHAPS_OURS):
            documents.check(document, held)
        if offence is not None:
            self._offences.add(sender.device, offence.refusal, offence.detail, now.mono_s)

    def _other(
        self,
        connection: Connection,
        sender: _Sender,
        frame: Frame,
        message: Have | Whole | Refuse,
        now: Now,
    ) -> list[Message]:
        try:
            speaker = Speaker(sender.n, sender.device, frame)
            return self._correspondence.hear(connection, speaker, message, now)
        except BadFrame as error:
            self._offences.add(sender.device, Offence.BAD_FRAME, str(error), now.mono_s)
            return []

    # ------------------------------------------------------------------------------ the rest
    def _take_presences(
        self, connection: Connection, presences: Sequence[tuple[str, bytes]], now: Now
    ) -> None:
        names = {device for device, _ in presences}
        known = dict(presence_store.load_many(connection, names))
        for device, payload in presences:
            found = self._watch.take(connection, device, payload, known, now)
            if isinstance(found, Stranger):
                n = self._register(connection, device, now)
                if n is None:
                    continue
                known[device] = n
                found = self._watch.take(connection, device, payload, known, now)
            if isinstance(found, Known):
                known[device] = found

    def _save_offences(self, connection: Connection, now: Now) -> None:
        registered = devices.registered_of(connection, self._offences.names())
        rows_count = devices.count_offenders(connection)
        devices.save_offences(
            connection, self._offences.take(registered, now.ms, rows_count=rows_count)
        )


def _is_death(payload: bytes) -> bool:
    try:
        said = parse_presence(payload)
    except BadPresence:
        return False
    return said is not None and not said.online


def _cost(message: Message, holding: Holding | None) -> float:
    """Return the tokens for a message about a document: it is loaded, or even sent."""
    if holding is None:
        return 1.0
    return 1.0 + len(holding.state) / (
        BYTES_PER_TOKEN if isinstance(message, Fetch) else HELD_BYTES_PER_TOKEN
    )


def _merge(changed: dict[str, bytes | None], followed: Followed) -> None:
    """Add what one message changed to what those before it have.

    An acknowledgement that came and was pruned within one batch was seen all the same.
    """
    if None not in followed.changed.values():
        changed.update(followed.changed)
        return
    changed.update(
        (key, value)
        for key, value in followed.changed.items()
        if value is not None or not key.startswith(ACK)
    )


def _parse_topic(topic: str) -> tuple[TopicKind | None, str]:
    try:
        found: Topic = parse_topic(topic)
    except BadName:
        return None, ""
    return found.kind, found.name
