"""A hub without network and web: store, ingest and documents, with a clock that the test turns."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hub.admission import Admission
from hub.clock import Now
from hub.conversations import Conversations
from hub.correspondence import Correspondence
from hub.deployments import Accepted, Request, accept
from hub.desired import DesiredDocuments
from hub.entries import Entries
from hub.flood import Flood
from hub.groups import Groups
from hub.ingest import Ingest, Outcome
from hub.mending import Mender
from hub.offences import Offences
from hub.start import begin
from hub.store import documents, releases
from hub.store.database import Connection, Database, open_database
from hub.store.releases import Release
from hub.watch import Watch
from sync.documents import DocumentName, Kind
from sync.messages import Frame, Message, decode_frame, encode_frame
from sync.replica import Holding
from sync.topics import parse_topic
from sync.transport.port import Delivery
from tests.fakes.fleet import FleetDevice

START_MS = 1_790_000_000_000
RUN = b"hub-1!"


class Core:
    """One start of a hub on a state directory."""

    def __init__(
        self,
        state_dir: Path,
        *,
        devices_max_count: int = 1000,
        per_hour_max_count: int = 1_000_000,
        rate_per_s: float = 1e6,
        burst_count: int = 1_000_000,
    ) -> None:
        self.now = Now(START_MS, 1000.0)
        self.database: Database = open_database(state_dir)
        self.mender = Mender(self)
        self.database.mend = self.mender.mend
        self.identity = self.database.transact(lambda db: begin(db, self.now.ms))
        self.offences = Offences()
        self.groups = Groups()
        self.database.transact(self.groups.load)
        self.desired = self.mender.desired = DesiredDocuments(self.identity.client_id)
        self.conversations = Conversations()
        self.watch = Watch(self.conversations, self.offences)
        self.entries = Entries(self.offences)
        self.correspondence = Correspondence(
            self.desired, self.groups, self.conversations, self.offences
        )
        self.ingest = Ingest(
            run=RUN,
            flood=Flood(rate_per_s=rate_per_s, burst_count=burst_count),
            offences=self.offences,
            entries=self.entries,
            watch=self.watch,
            correspondence=self.correspondence,
            admission=Admission(
                devices_max_count=devices_max_count, per_hour_max_count=per_hour_max_count
            ),
        )

    def close(self) -> None:
        self.database.close_now()

    def now_ms(self) -> int:
        return self.now.ms

    def mono_s(self) -> float:
        return self.now.mono_s

    def pass_time(self, seconds: float) -> None:
        self.now = Now(self.now.ms + round(seconds * 1000), self.now.mono_s + seconds)

    # ------------------------------------------------------------------------------ messages
    def take(self, *deliveries: Delivery) -> Outcome:
        return self.database.transact(lambda db: self.ingest.take(db, deliveries, self.now))

    def say(self, device: str, *messages: Message, **stamp: Any) -> list[Message]:
        """Let a device send one frame; return what it is answered."""
        outcome = self.take(frame_of(device, *messages, **stamp))
        return answers(outcome).get(device, [])

    def talk(self, device: FleetDevice, messages: Iterable[Message]) -> None:
        """Carry messages back and forth until both sides are quiet."""
        waiting = list(messages)
        for _ in range(50):
            if not waiting:
                return
            replies = self.say(device.name, *waiting, boot=device.boot)
            waiting = [each for reply in replies for each in device.receive(reply, self.now.mono_s)]
        raise AssertionError(f"still talking: {waiting}")

    def connect(self, device: FleetDevice) -> None:
        self.talk(device, device.opened(self.now.mono_s))

    def presence(self, device: str, payload: bytes) -> None:
        self.take(Delivery(f"ff/1/{device}/presence", payload, True, False, 0))

    # -------------------------------------------------------------------------------- store
    def held(self, name: DocumentName) -> Holding | None:
        return self.database.transact(lambda db: documents.load(db, name))

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.database.transact(lambda db: db.execute(query, values).fetchall())

    # ---------------------------------------------------------------------------- documents
    def release(self, component: str = "lamp", version: str = "1.0.0") -> Release:
        digest = f"{component}@{version}".encode().ljust(32, b".")[:32]
        made = Release(digest, component, version, b"{}", self.now.ms)
        self.database.transact(lambda db: releases.save(db, made))
        return made

    def deploy(self, request: Request) -> Accepted:
        def job(db: Connection) -> Accepted:
            made = accept(
                db,
                self.desired,
                self.entries,
                request,
                requested_ms=self.now.ms,
                now_ms=self.now.ms,
            )
            for document in made.documents:
                if document.kind is Kind.GROUP:
                    self.groups.load(db, [document])
                else:
                    self.conversations.changed(db, document.about, self.now.mono_s)
            return made

        return self.database.transact(job)


@contextmanager
def running(state_dir: Path, **limits: Any) -> Iterator[Core]:
    core = Core(state_dir, **limits)
    try:
        yield core
    finally:
        core.close()


def frame_of(
    device: str,
    *messages: Message,
    boot: bytes = b"boot-1",
    sent_ms: int = 1000,
    anchor: tuple[int, int] | None = None,
) -> Delivery:
    payload = encode_frame(Frame(1, boot, sent_ms, anchor, list(messages)))
    return Delivery(f"ff/1/{device}/up", payload, False, False, 1)


def answers(outcome: Outcome) -> dict[str, list[Message]]:
    """Return what goes out, by device."""
    found: dict[str, list[Message]] = {}
    for topic, payload in outcome.send:
        found.setdefault(parse_topic(topic).name, []).extend(decode_frame(payload).messages)
    return found


def own(device: str) -> DocumentName:
    return DocumentName(Kind.DEVICE, device)


def desired(device: str) -> DocumentName:
    return DocumentName(Kind.DESIRED, device)


def group(name: str = "all") -> DocumentName:
    return DocumentName(Kind.GROUP, name)
