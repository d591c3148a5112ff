"""A device or a hub in memory: a disk that survives, a memory that does not, and the lock rule.

Owns the shell around authors and sessions, as the real programs have it. Never decides what happens
next and never draws a random number.

Everything a machine does is a generator that stops before and after each durable step. A test runs
it to its end, or to one of the stops and kills the machine there.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

from sync.author import Author, Upkeep
from sync.client_ids import counter_after
from sync.documents import DocumentName, Side
from sync.gate import Refused
from sync.messages import Message, decode_frame
from sync.moves import Role
from sync.replica import Holding
from sync.session import Session, Step

Line = tuple[str, str]
"""The peer at the other end, and the device that the line is about."""

Steps = Iterator[str]
"""What a machine is doing, stop by stop."""

UPKEEP = Upkeep(writes_per_generation=25, client_ids_max=5, state_bytes_max=2048)
"""Small limits, so that a short test meets rolls and resets."""


@dataclass(frozen=True, slots=True)
class Image:
    """Everything on a disk at one moment."""

    counter: int = 0
    holdings: Mapping[DocumentName, Holding] = field(default_factory=dict)


class Disk:
    """What survives: every commit is atomic, and every earlier image can come back."""

    def __init__(self) -> None:
        self.images = [Image()]

    @property
    def image(self) -> Image:
        return self.images[-1]

    def commit_counter(self, counter: int) -> None:
        self.images.append(replace(self.image, counter=counter))

    def commit(self, document: DocumentName, holding: Holding) -> None:
        holdings = {**self.image.holdings, document: holding}
        self.images.append(replace(self.image, holdings=holdings))

    def restore(self, number: int) -> None:
        self.images.append(self.images[number])


class Surroundings(Protocol):
    """What a machine needs of the world around it."""

    now_s: float
    offences: list[tuple[str, Line, Exception]]

    def client_id(self, machine: "Machine", counter: int) -> int:
        """Return an id for a start of `machine`."""

    def wrote(self, document: DocumentName, entries: Mapping[str, bytes]) -> None:
        """Note what the writer of `document` is about to store."""

    def committed(self, machine: "Machine", document: DocumentName, holding: Holding) -> None:
        """Note that `holding` is durable."""

    def send(self, sender: str, line: Line, messages: list[Message]) -> None:
        """Take messages on their way."""


class Machine:
    """The shell of a device or a hub, as plain as the real ones: it obeys `Step`, nothing else."""

    persists_first = True

    def __init__(
        self,
        world: Surroundings,
        name: str,
        side: Side,
        writes: Iterable[DocumentName],
        lines: Mapping[Line, tuple[Mapping[DocumentName, Role], Iterable[DocumentName]]],
    ) -> None:
        self.world = world
        self.name = name
        self.side = side
        self.writes = tuple(writes)
        self.lines = lines
        self.disk = Disk()
        self.is_up = False
        self.client_id = 0
        self.authors: dict[DocumentName, Author] = {}
        self.sessions: dict[Line, Session] = {}

    # ------------------------------------------------------------------------ life and death
    def start(self) -> Steps:
        """Come up from what is on disk."""
        self.is_up = True
        yield "starting"
        held = self.disk.image.holdings
        yield from self._new_client_id()
        for document in self.writes:
            author = Author(held.get(document), client_id=self.client_id, upkeep=UPKEEP)
            self.authors[document] = author
            if author.upkeep():  # the power may have failed before the last one was stored
                yield "rolled"
                self.commit(document, author.holding())
                yield "roll stored"
        for line, (sends, follows) in self.lines.items():
            random = Random(self.client_id)
            self.sessions[line] = Session(line[1], sends=sends, follows=follows, random=random)

    def kill(self) -> None:
        """Lose everything that is not on disk."""
        self.is_up = False
        self.authors.clear()
        self.sessions.clear()

    def _new_client_id(self, *seen: Iterable[int]) -> Steps:
        own = [holding.vector for holding in self.disk.image.holdings.values()]
        counter = counter_after(self.disk.image.counter, *seen, *(own if not seen else ()))
        self.disk.commit_counter(counter)
        self.client_id = self.world.client_id(self, counter)
        yield "id stored"

    def shelf(self, document: DocumentName) -> Holding | None:
        """Return what is durably held."""
        return self.disk.image.holdings.get(document)

    def commit(self, document: DocumentName, holding: Holding) -> None:
        """Make `holding` durable."""
        self.disk.commit(document, holding)
        self.world.committed(self, document, holding)

    # ------------------------------------------------------------------------ events
    def write(self, document: DocumentName, entries: Mapping[str, bytes]) -> Steps:
        """Write into a document of ours, keep it, then tell everybody."""
        author = self.authors[document]
        author.write(entries)
        self.world.wrote(document, entries)
        yield "written"
        if not self.persists_first:
            yield from self._publish(document, author.holding())
            yield "published"
        self.commit(document, author.holding())
        yield "stored"
        if author.upkeep():
            yield "rolled"
            self.commit(document, author.holding())
            yield "roll stored"
        yield from self._publish(document)

    def receive(self, line: Line, payload: bytes) -> Steps:
        """Take one frame from the other end of `line`."""
        for message in decode_frame(payload).messages:
            step = self.sessions[line].receive(message, self.shelf, self.world.now_s)
            if step.offence is not None:
                self.world.offences.append((self.name, line, step.offence))
            yield from self._carry_out(line, step)

    def connect(self, line: Line) -> Steps:
        """The other end of `line` can be reached again."""
        step = self.sessions[line].opened(self.shelf, self.world.now_s)
        yield from self._carry_out(line, step)

    def repeat(self) -> Steps:
        """Say again what has gone unanswered for too long."""
        for line, session in list(self.sessions.items()):
            yield from self._carry_out(line, session.due(self.shelf, self.world.now_s))

    # ------------------------------------------------------------------------ the lock rule
    def _carry_out(self, line: Line, step: Step) -> Steps:
        """Make durable, then send; then let authors do what the step asks of them."""
        if not self.persists_first:
            self.world.send(self.name, line, step.send)
        stored = []
        for document, followed in step.store.items():
            if followed.holding is not None:
                yield "received"
                self.commit(document, followed.holding)
                stored.append(document)
                yield "stored"
        if self.persists_first:
            self.world.send(self.name, line, step.send)
        for document in stored:
            yield from self._publish(document, besides=line)
        for document, theirs in step.rebase.items():
            yield from self.rebase(document, theirs)
        for document, above in step.reset.items():
            self.authors[document].reset(above=above)
            yield from self._replaced(document)

    def rebase(self, document: DocumentName, theirs: Holding) -> Steps:
        """Take in what a follower holds and we lack."""
        yield from self._new_client_id(theirs.vector)
        try:
            self.authors[document].rebase(theirs, client_id=self.client_id)
        except Refused as offence:
            self.world.offences.append((self.name, ("", document.about), offence))
            return
        yield from self._replaced(document)

    def _replaced(self, document: DocumentName) -> Steps:
        yield "replaced"
        self.commit(document, self.authors[document].holding())
        yield "stored"
        yield from self._publish(document)

    def _publish(
        self, document: DocumentName, unstored: Holding | None = None, besides: Line | None = None
    ) -> Steps:
        for line, session in list(self.sessions.items()):
            if line != besides:
                step = session.changed(
                    document,
                    self.shelf if unstored is None else lambda _: unstored,
                    self.world.now_s,
                )
                yield from self._carry_out(line, step)
