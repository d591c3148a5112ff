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

from hub.anchors import Anchors
from hub.correspondence import Correspondence, Speaker
from hub.entries import Entries
from hub.flood import BYTES_PER_TOKEN, HELD_BYTES_PER_TOKEN, Flood
from hub.offences import Offence, Offences
from hub.store import devices, documents
from hub.store import presence as presence_store
from hub.store.database import Connection
from hub.watch import Watch
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
from sync.vector import encode_vector

HEARD_EVERY_MS: Final = 600_000
"""How precisely it is kept when a device was heard that sent nothing new; a document that changed
says it to the millisecond, and costs no row of its own."""

TOPICS_REMEMBERED: Final = 65_536

_OWN: Final = Kind.DEVICE.value


@dataclass(slots=True)
class Outcome:
    """What may go out once the batch is durable."""

    send: list[tuple[str, bytes]] = field(default_factory=list)
    """Topic and payload; nobody waits for their PUBACK, a session repeats what is lost."""
    stale_groups: set[str] = field(default_factory=set)
    """Group documents to publish."""


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
        devices_max_count: int,
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
        self._devices_max_count = devices_max_count
        self._devices_count = -1
        self._topic = lru_cache(TOPICS_REMEMBERED)(_parse_topic)

    def forget(self) -> None:
        """A transaction has failed: what is in memory may be ahead of what is stored."""
        self._anchors.forget()
        self._correspondence.forget()
        self._entries.forget()
        self._devices_count = -1

    def take(
        self,
        connection: Connection,
        deliveries: Iterable[Delivery],
        now_ms: int,
        now_mono: float,
    ) -> Outcome:
        """Take a batch and return what to send after it.

        Args:
            connection: In a transaction.
            deliveries: Messages from the broker, in order.
            now_ms: Hub UTC, not before any of them arrived.
            now_mono: Monotonic seconds.
        """
        self._flood.forget(now_mono)
        mail, presences = self._sort(deliveries, now_mono)
        outcome = Outcome()
        if mail:
            self._take_mail(connection, mail, now_ms, now_mono, outcome)
        if presences:
            self._take_presences(connection, presences, now_ms, now_mono)
        if self._offences:
            self._save_offences(connection, now_ms)
        presence_store.go_on_listening(connection, now_ms)
        self._correspondence.save(connection, now_ms)
        outcome.stale_groups = set(self._correspondence.stale_groups)
        self._correspondence.stale_groups.clear()
        self.counters.batch_count += 1
        return outcome

    # ------------------------------------------------------------------------------ sorting
    def _sort(
        self, deliveries: Iterable[Delivery], now_mono: float
    ) -> tuple[dict[str, list[Frame]], list[tuple[str, bytes]]]:
        """Decode what is allowed, and put it in order by device."""
        mail: dict[str, list[Frame]] = {}
        presences: list[tuple[str, bytes]] = []
        flood = self._flood
        counters = self.counters
        for delivery in deliveries:
            kind, device = self._topic(delivery.topic)
            if kind is TopicKind.UP:
                if not flood.allows(device, now_mono):
                    counters.dropped_count += 1
                    self._offences.add(device, Offence.FLOOD, "sends too much", now_mono)
                    continue
                payload = delivery.payload
                try:
                    frame = decode_frame(payload)
                except BadFrame as error:
                    flood.charge(device, 1 + len(payload) / BYTES_PER_TOKEN, now_mono)
                    self._offences.add(device, Offence.BAD_FRAME, str(error), now_mono)
                    continue
                tokens = len(frame.messages) + len(payload) / BYTES_PER_TOKEN
                flood.charge(device, tokens, now_mono)
                counters.frame_count += 1
                counters.message_count += len(frame.messages)
                frames = mail.get(device)
                if frames is None:
                    mail[device] = [frame]
                else:
                    frames.append(frame)
            elif kind is TopicKind.PRESENCE:
                presences.append((device, delivery.payload))
            elif kind is not TopicKind.HUB_PRESENCE:
                counters.dropped_count += 1
        return mail, presences

    # ------------------------------------------------------------------------------ frames
    def _take_mail(
        self,
        connection: Connection,
        mail: dict[str, list[Frame]],
        now_ms: int,
        now_mono: float,
        outcome: Outcome,
    ) -> None:
        # In the order of their names, so that neighbours in the tables are written together.
        order = sorted(mail)
        stored = devices.load_many(connection, order)
        updates: list[tuple[int, bytes, bytes, bytes, int, int]] = []
        heard: list[tuple[int, int]] = []
        timed: list[tuple[int, Frame]] = []
        for device in order:
            frames = mail[device]
            known = stored.get(device)
            if known is None:
                n = self._register(connection, device, now_ms, now_mono)
                if n is None:
                    continue
                held, stray_count = None, 0
            else:
                n, stray_count = known.n, known.stray_count
                held = (
                    documents.holding_of(known.epoch, known.state, known.vector, known.absorbed)
                    if known.document_n is not None
                    else None
                )
            self._time(n, frames, now_ms, timed)
            replies, holding = self._hear(
                connection, device, n, held, stray_count, frames, now_ms, now_mono
            )
            if holding is not None and holding is not held:
                vector = encode_vector(holding.vector)
                absorbed = documents.encode_absorbed(holding.absorbed)
                if known is not None and known.document_n is not None:
                    updates.append(
                        (holding.epoch, holding.state, vector, absorbed, now_ms, known.document_n)
                    )
                else:
                    documents.save(connection, DocumentName(Kind.DEVICE, device), holding, now_ms)
            elif known is not None and now_ms - known.heard_ms > HEARD_EVERY_MS:
                heard.append((now_ms, n))
            if replies:
                topic = f"{ROOT}/{VERSION}/{device}/down"
                for payload in in_frames(replies, sender=self._run, sent_ms=now_ms):
                    outcome.send.append((topic, payload))
        documents.update_many(connection, updates)
        devices.save_heard(connection, heard)
        self._entries.save(connection, now_ms)
        self._anchors.keep(connection, timed, now_ms)

    def _register(
        self, connection: Connection, device: str, now_ms: int, now_mono: float
    ) -> int | None:
        if self._devices_count < 0:
            self._devices_count = devices.count(connection)
        if self._devices_count >= self._devices_max_count:
            detail = f"is not registered, and {self._devices_count} devices are already"
            self._offences.add(device, Offence.NOT_ADMITTED, detail, now_mono)
            return None
        self._devices_count += 1
        return devices.register(connection, device, now_ms)

    def _time(
        self, n: int, frames: Sequence[Frame], now_ms: int, timed: list[tuple[int, Frame]]
    ) -> None:
        """Choose the frames that may say something about the device's clock.

        Of several that arrived together the last was on its way the shortest.
        """
        could_tighten = self._anchors.could_tighten
        last = len(frames) - 1
        for position, frame in enumerate(frames):
            if (position == last or frame.anchor is not None) and could_tighten(n, frame, now_ms):
                timed.append((n, frame))

    def _hear(
        self,
        connection: Connection,
        device: str,
        n: int,
        held: Holding | None,
        stray_count: int,
        frames: Sequence[Frame],
        now_ms: int,
        now_mono: float,
    ) -> tuple[list[Message], Holding | None]:
        """Go through what a device says, in its order; return the answers and what is held now.

        Answers state what is held, so of each kind the last one counts, and it goes out once.
        """
        document = DocumentName(Kind.DEVICE, device)
        full_name = f"{_OWN}/{device}"
        holding = held
        answers: dict[type[Message], Message] = {}
        others: list[Message] = []
        changed: dict[str, bytes | None] = {}
        for frame in frames:
            for message in frame.messages:
                name = message.document
                if isinstance(message, Have | Whole | Refuse):
                    others += self._other(connection, device, n, frame, message, now_ms, now_mono)
                elif name == _OWN or name == full_name:  # noqa: PLR1714 - twice as fast
                    followed = follow(document, holding, message, device)
                    answers[type(followed.reply)] = followed.reply
                    if followed.holding is not None:
                        holding = followed.holding
                        self.counters.update_count += 1
                        _merge(changed, followed)
                    if followed.offence is not None:
                        code, detail = followed.offence.refusal, followed.offence.detail
                        self._offences.add(device, code, detail, now_mono)
                    if holding is not None:
                        weight = len(holding.state) / HELD_BYTES_PER_TOKEN
                        if isinstance(message, Fetch):
                            weight = len(holding.state) / BYTES_PER_TOKEN
                        self._flood.charge(device, weight, now_mono)
                else:
                    detail = f"writes {name}, which is not its document"
                    self._offences.add(device, Refusal.FOREIGN_WRITER, detail, now_mono)
        if changed:
            self._entries.add(connection, device, n, stray_count, changed, now_ms, now_mono)
        return [*answers.values(), *others], holding

    def _other(
        self,
        connection: Connection,
        device: str,
        n: int,
        frame: Frame,
        message: Have | Whole | Refuse,
        now_ms: int,
        now_mono: float,
    ) -> list[Message]:
        try:
            speaker = Speaker(n, device, frame)
            return self._correspondence.hear(connection, speaker, message, now_ms, now_mono)
        except BadFrame as error:
            self._offences.add(device, Offence.BAD_FRAME, str(error), now_mono)
            return []

    # ------------------------------------------------------------------------------ the rest
    def _take_presences(
        self,
        connection: Connection,
        presences: Sequence[tuple[str, bytes]],
        now_ms: int,
        now_mono: float,
    ) -> None:
        names = {device for device, _ in presences}
        known = dict(presence_store.load_many(connection, names))
        for device, payload in presences:
            found = self._watch.take(
                connection, device, payload, known, self._register, now_ms, now_mono
            )
            if found is not None:
                known[device] = found

    def _save_offences(self, connection: Connection, now_ms: int) -> None:
        offenders = self._offences.names()
        registered = devices.registered_of(connection, offenders)
        rows_count = devices.count_offenders(connection)
        devices.save_offences(
            connection, self._offences.take(registered, now_ms, rows_count=rows_count)
        )


def _merge(changed: dict[str, bytes | None], followed: Followed) -> None:
    """Add what one message changed to what those before it have.

    An acknowledgement that came and was pruned within one batch was seen all the same.
    """
    for key, value in followed.changed.items():
        if value is not None or not key.startswith(ACK):
            changed[key] = value


def _parse_topic(topic: str) -> tuple[TopicKind | None, str]:
    try:
        found: Topic = parse_topic(topic)
    except BadName:
        return None, ""
    return found.kind, found.name
