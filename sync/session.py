"""One side's conversation with one peer: what to send next, and when to send it again.

Owns the plan of a conversation; device and hub run the same class. Never stores, sends or reads a
clock: holdings and `now_mono` are arguments, and a `Step` says what must be durable (`store`)
before what may go out (`send`).

Rule: everything is answered by a statement of what is durably held (`Have`), and the next thing
sent is always computed from the last such statement. Loss, duplication and reordering of messages
can therefore delay a conversation, never mislead it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from sync.documents import DocumentName, Kind, Side
from sync.follower import Followed, follow, have
from sync.gate import Gap, Refusal, Refused, admit
from sync.messages import (
    BadFrame,
    Diff,
    Fetch,
    Full,
    Have,
    Message,
    Open,
    Refuse,
    Whole,
    document_of,
    name_on_line,
    vector_of,
)
from sync.moves import Move, Peer, Role, is_lie, next_move
from sync.replica import (
    DOCUMENT_BYTES_MAX,
    Holding,
    absorbed_with,
    diff_of,
    digest_of,
    values_of,
)
from sync.vector import encode_vector, tag_of


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to wait for an answer before saying it again. Seconds."""

    first_s: float = 5.0
    longest_s: float = 300.0

    def delay_s(self, attempt: int, random: Random) -> float:
        """Return the wait after try number `attempt` (from 0), with jitter over its upper half."""
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 16))
        return ceiling * random.uniform(0.5, 1.0)


SILENT_TRIES_MAX = 2
"""After so many unanswered tries ask what the peer has, before sending more bytes into silence."""

NOTHING = Holding(0, b"\0\0", {})
"""What an author has of a document that it has not begun. Its follower may hold one all the same: a
disk was lost, a hub was set up anew; asking is the only way to find out."""

REFUSED_PAUSE_S = 600.0
"""After a refused epoch was replaced and the new one refused as well, wait this long."""

UPHEAVALS_MAX = 8
"""Most epochs that one peer can make an author begin within `UPHEAVAL_WINDOW_S`. Two hubs restored
at once need three; a peer that lies must not wear out a memory card."""

UPHEAVAL_WINDOW_S = 600.0


@dataclass(slots=True)
class _Line:
    """One document we send to the peer."""

    role: Role
    peer: Peer | None = None
    asked: Move = Move.REST
    """What was sent last."""
    attempt: int = 0
    due_mono: float | None = None
    """When to send again; None while no answer is outstanding."""
    drifted: bool = False
    """Equal vectors but different content: an id was used twice."""
    refused_mono: float | None = None
    window_mono: float = -UPHEAVAL_WINDOW_S
    """When upheavals were last counted from zero."""
    upheavals: int = 0

    def may_upheave(self, now_mono: float) -> bool:
        """Count an epoch that the peer makes us begin; False if there were too many lately."""
        if now_mono - self.window_mono >= UPHEAVAL_WINDOW_S:
            self.window_mono, self.upheavals = now_mono, 0
        self.upheavals += 1
        return self.upheavals <= UPHEAVALS_MAX


@dataclass(slots=True)
class Step:
    """What one event led to. Make `store` durable, then send `send`; the rest asks the author."""

    store: dict[DocumentName, Followed] = field(default_factory=dict)
    send: list[Message] = field(default_factory=list)
    rebase: dict[DocumentName, Holding] = field(default_factory=dict)
    """Follower's holding that our author must take in (`Author.rebase`) before `changed`."""
    reset: dict[DocumentName, int] = field(default_factory=dict)
    """Documents that must start an epoch above this number before `changed`."""
    heard: dict[DocumentName, Peer] = field(default_factory=dict)
    """What the peer said it holds: the receipts."""
    offence: Refused | BadFrame | None = None
    """What the peer did wrong, to be counted against it."""


Shelf = Callable[[DocumentName], Holding | None]
"""Gives what is durably held of a document."""


class Session:
    """The conversation with one peer. `device` is the device on the line, whichever side we are."""

    def __init__(
        self,
        device: str,
        *,
        sends: Mapping[DocumentName, Role],
        follows: Iterable[DocumentName] = (),
        retry: Retry = Retry(),
        random: Random | None = None,
    ) -> None:
        """Prepare to send the documents in `sends` and to follow those in `follows`."""
        self.device = device
        self._lines = {document: _Line(role) for document, role in sends.items()}
        self._follows = set(follows)
        self._retry = retry
        self._is_open = False
        self._random = random if random is not None else Random()  # noqa: S311 - jitter only

    def opened(self, shelf: Shelf, now_mono: float) -> Step:
        """Begin anew after a connection was made: nothing that was in flight counts."""
        step = Step()
        self._is_open = True
        for document, line in self._lines.items():
            line.peer, line.attempt, line.due_mono = None, 0, None
            self._move(document, line, shelf, now_mono, step)
        for document in sorted(self._follows):
            step.send.append(have(document, shelf(document), self.device))
        return step

    def closed(self) -> None:
        """The connection is gone: nothing is due until `opened`."""
        self._is_open = False
        for line in self._lines.values():
            line.peer, line.due_mono = None, None

    def changed(self, document: DocumentName, shelf: Shelf, now_mono: float) -> Step:
        """Our copy of `document` has durably changed: say so, unless an answer is outstanding.

        While one is, its arrival triggers the next, larger diff: writes made meanwhile share it.
        """
        step = Step()
        line = self._lines.get(document)
        if line is not None and self._is_open and line.due_mono is None:
            line.attempt = 0
            if line.asked is Move.WAIT:  # the writer may have settled it with the peer meanwhile
                line.peer = None
            self._move(document, line, shelf, now_mono, step)
        return step

    def receive(self, message: Message, shelf: Shelf, now_mono: float) -> Step:
        """Take one message from the peer. Nothing in it makes this raise."""
        step = Step()
        try:
            document = document_of(message, self.device)
            match message:
                case Open() | Diff() | Full() | Fetch():
                    self._followed(document, message, shelf, step)
                case Have() | Whole() | Refuse():
                    self._answered(document, message, shelf, now_mono, step)
        except (BadFrame, Refused) as error:
            step.offence = error
        except Gap as error:
            step.offence = Refused(Refusal.BAD_REFERENCE, str(error))
        return step

    def due(self, shelf: Shelf, now_mono: float) -> Step:
        """Say again what has gone unanswered for too long."""
        step = Step()
        if not self._is_open:
            return step
        for document, line in self._lines.items():
            if line.due_mono is not None and line.due_mono <= now_mono:
                line.attempt += 1
                self._move(document, line, shelf, now_mono, step)
        return step

    def wake_mono(self) -> float | None:
        """Return when `due` next has something to say, or None."""
        times = [line.due_mono for line in self._lines.values() if line.due_mono is not None]
        return min(times, default=None)

    def is_settled(self, document: DocumentName, shelf: Shelf) -> bool:
        """Tell whether the peer durably holds everything that we hold of `document`."""
        line = self._lines.get(document)
        own = self._own(document, line, shelf) if line is not None else None
        if line is None or own is None:
            return True
        settled = next_move(document, own, line.peer, line.role) is Move.REST
        return settled and not line.drifted

    def _followed(
        self, document: DocumentName, message: Open | Diff | Full | Fetch, shelf: Shelf, step: Step
    ) -> None:
        if document not in self._follows:
            raise Refused(Refusal.FOREIGN_WRITER, f"{document} is not the sender's to write")
        followed = follow(document, shelf(document), message, self.device)
        step.offence = followed.offence
        step.store[document] = followed
        step.send.append(followed.reply)

    def _answered(
        self,
        document: DocumentName,
        message: Have | Whole | Refuse,
        shelf: Shelf,
        now_mono: float,
        step: Step,
    ) -> None:
        line = self._lines.get(document)
        if line is None:
            self._overheard(document, message, step)
            return
        own = self._own(document, line, shelf)
        if own is None:
            return
        match message:
            case Have():
                peer = _peer(message)
                step.heard[document] = peer
                if self._is_news(line, peer, own):
                    line.due_mono = None
                    self._move(document, line, shelf, now_mono, step)
            case Whole():
                if line.asked is Move.FETCH:
                    self._fetched(document, line, message, now_mono, step)
            case Refuse() if message.epoch == own.epoch:
                self._refused(document, line, own, now_mono, step)
            case _:  # a refusal of what has been replaced since
                pass

    def _overheard(
        self, document: DocumentName, message: Have | Whole | Refuse, step: Step
    ) -> None:
        """Take a receipt for a document that went out by another road: a group's is retained."""
        if document.kind is not Kind.GROUP and document.about != self.device:
            raise Refused(Refusal.FOREIGN_WRITER, f"{document} is not on the sender's line")
        if isinstance(message, Have) and document not in self._follows:
            step.heard[document] = _peer(message)

    def _fetched(
        self, document: DocumentName, line: _Line, message: Whole, now_mono: float, step: Step
    ) -> None:
        if len(message.update) > DOCUMENT_BYTES_MAX:
            raise Refused(Refusal.TOO_LARGE, f"a document of {len(message.update)} bytes")
        vector = admit(message.update, {}, document.writer).forecast
        if line.may_upheave(now_mono):
            step.rebase[document] = Holding(message.epoch, message.update, vector)
            line.due_mono, line.drifted = None, False

    def _is_news(self, line: _Line, peer: Peer, own: Holding) -> bool:
        """Note what the peer holds; False if that is what we knew and an answer is still due.

        Without the second half two sides that cannot agree would answer each other at line speed.
        """
        known, line.peer = line.peer, peer
        moved = known is None or (known.epoch, known.vector) != (peer.epoch, peer.vector)
        answered = moved or line.asked is Move.OPEN
        if answered:
            line.attempt = 0
        if peer.digest or moved:
            line.drifted = bool(
                peer.digest
                and (peer.epoch, peer.vector) == (own.epoch, own.vector)
                and peer.digest != digest_of(values_of(own))
            )
        return answered or line.due_mono is None

    def _refused(
        self, document: DocumentName, line: _Line, own: Holding, now_mono: float, step: Step
    ) -> None:
        pause = line.refused_mono is not None and now_mono - line.refused_mono < REFUSED_PAUSE_S
        if line.role is Role.AUTHOR and not pause:
            line.refused_mono = now_mono
            line.peer, line.due_mono = None, None
            step.reset[document] = own.epoch
        else:
            line.due_mono = now_mono + REFUSED_PAUSE_S

    def _own(self, document: DocumentName, line: _Line, shelf: Shelf) -> Holding | None:
        """Return what we have to send, or None for a carrier to whom nothing was brought yet."""
        own = shelf(document)
        return NOTHING if own is None and line.role is Role.AUTHOR else own

    def _move(
        self, document: DocumentName, line: _Line, shelf: Shelf, now_mono: float, step: Step
    ) -> None:
        """Send what the follower needs next and arrange to repeat it."""
        own = self._own(document, line, shelf)
        if own is None:
            return
        peer = line.peer if line.attempt < SILENT_TRIES_MAX else None
        move = next_move(document, own, peer, line.role)
        if line.drifted and move is Move.REST and line.role is Role.AUTHOR:
            move = Move.RESET if document.writer is Side.HUB else Move.FETCH
        line.asked, line.due_mono = move, None
        if move is Move.RESET and peer is not None:
            if line.may_upheave(now_mono):
                step.reset[document] = peer.epoch
                line.drifted = False
            else:
                line.due_mono = now_mono + UPHEAVAL_WINDOW_S
        message = self._message(document, own, peer, move)
        if message is not None:
            step.send.append(message)
            line.due_mono = now_mono + self._retry.delay_s(line.attempt, self._random)

    def _message(
        self, document: DocumentName, own: Holding, peer: Peer | None, move: Move
    ) -> Message | None:
        name = name_on_line(document, self.device)
        match move:
            case Move.OPEN:
                digest = digest_of(values_of(own))
                return Open(name, own.epoch, encode_vector(own.vector), digest)
            case Move.DIFF if peer is not None:
                update = diff_of(own, peer.vector)
                return Diff(name, own.epoch, update, tag_of(own.vector))
            case Move.FULL if peer is not None:
                absorbed = own.absorbed
                if document.writer is Side.HUB and is_lie(own, peer):
                    absorbed = absorbed_with(absorbed, (peer.epoch, peer.vector))
                listed = [(epoch, encode_vector(seen)) for epoch, seen in absorbed]
                return Full(name, own.epoch, own.state, listed)
            case Move.FETCH:
                return Fetch(name)
            case _:
                return None


def _peer(message: Have) -> Peer:
    return Peer(message.epoch, vector_of(message.vector), message.digest)
