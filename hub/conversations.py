"""The hub's side of the conversations about desired documents: one for each device that lacks its.

Owns which conversations exist, and how many. `sync.session` decides what is said in each. Lives on
the writer's thread; never stores, sends or reads a clock.

A conversation begins when a desired document changed, or when a device says that it holds
something else, and ends when the device holds what the hub does, or is known to be away: a device
that returns says what it holds by itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from hub.store import documents
from hub.store.database import Connection
from sync.documents import DocumentName, Kind
from sync.messages import Have, Message, Refuse, Whole, vector_of
from sync.moves import Role
from sync.replica import Holding
from sync.session import Session, Step
from sync.vector import encode_vector

CONVERSATIONS_MAX: Final = 10_000
"""Beyond it the oldest is dropped; the sweep begins it again when there is room."""


@dataclass(slots=True)
class Said:
    """What to say to one device, and what it asks of our copy."""

    messages: list[Message] = field(default_factory=list)
    reset_above: int | None = None
    """The desired document must start an epoch above this number, and be sent then."""


class Conversations:
    """Every conversation that is going on."""

    def __init__(self, random: Random | None = None) -> None:
        self._sessions: dict[str, Session] = {}
        self._random = random if random is not None else Random()  # noqa: S311 - jitter only

    def __len__(self) -> int:
        """Return how many are going on."""
        return len(self._sessions)

    def begin(self, connection: Connection, device: str, now_mono: float) -> Said:
        """Ask the device what it holds, unless that was asked already."""
        if device in self._sessions:
            return Said()
        return self._said(device, self._open(connection, device, now_mono))

    def changed(self, connection: Connection, device: str, now_mono: float) -> None:
        """The desired document was stored anew and goes out whole: see to it that it arrives."""
        self._sessions.pop(device, None)
        self._open(connection, device, now_mono)

    def heard(
        self,
        connection: Connection,
        device: str,
        message: Have | Whole | Refuse,
        now_mono: float,
    ) -> Said:
        """Take what a device says about its desired document."""
        shelf = _shelf(connection)
        document = desired_of(device)
        session = self._sessions.get(device)
        if session is None:
            own = shelf(document)
            if own is None and not _holds_something(message):
                return Said()
            if own is not None and isinstance(message, Have) and _is_same(own, message):
                return Said()
            self._open(connection, device, now_mono)
            session = self._sessions[device]
        said = self._said(device, session.receive(message, shelf, now_mono))
        if said.reset_above is None and session.is_settled(document, shelf):
            self._sessions.pop(device, None)
        return said

    def was_reset(self, connection: Connection, device: str, now_mono: float) -> Said:
        """Our copy was replaced as was asked: go on with the new one.

        The conversation is the same one, because it remembers what the device has refused.
        """
        session = self._sessions.get(device)
        if session is None:
            return Said()
        step = session.changed(desired_of(device), _shelf(connection), now_mono)
        return self._said(device, step)

    def due(self, connection: Connection, now_mono: float) -> dict[str, Said]:
        """Return what to say again to whom."""
        shelf = _shelf(connection)
        found: dict[str, Said] = {}
        for device, session in list(self._sessions.items()):
            wake_mono = session.wake_mono()
            if wake_mono is not None and wake_mono <= now_mono:
                found[device] = self._said(device, session.due(shelf, now_mono))
        return found

    def wake_mono(self) -> float | None:
        """Return when `due` next has something to say, or None."""
        times = [session.wake_mono() for session in self._sessions.values()]
        return min((each for each in times if each is not None), default=None)

    def end(self, devices: Iterable[str]) -> None:
        """The devices are away: they speak first when they return."""
        for device in devices:
            self._sessions.pop(device, None)

    def end_all(self) -> None:
        """The broker is away."""
        self._sessions.clear()

    def _open(self, connection: Connection, device: str, now_mono: float) -> Step:
        while len(self._sessions) >= CONVERSATIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        session = Session(device, sends={desired_of(device): Role.AUTHOR}, random=self._random)
        self._sessions[device] = session
        return session.opened(_shelf(connection), now_mono)

    def _said(self, device: str, step: Step) -> Said:
        above = step.reset.get(desired_of(device))
        if above is not None:
            # What the session would say now is about the epoch that is being replaced.
            return Said([], above)
        return Said(step.send)


def desired_of(device: str) -> DocumentName:
    """Return the document that says what the hub wants of a device."""
    return DocumentName(Kind.DESIRED, device)


def _shelf(connection: Connection) -> Callable[[DocumentName], Holding | None]:
    held: dict[DocumentName, Holding | None] = {}

    def shelf(document: DocumentName) -> Holding | None:
        if document not in held:
            held[document] = documents.load(connection, document)
        return held[document]

    return shelf


def _holds_something(message: Have | Whole | Refuse) -> bool:
    """Tell whether a device says that it obeys a document: there may have been another hub."""
    return isinstance(message, Have) and bool(vector_of(message.vector))


def _is_same(own: Holding, message: Have) -> bool:
    return own.epoch == message.epoch and encode_vector(own.vector) == message.vector
