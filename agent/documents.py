"""The device's documents in this process: what it writes, what it follows, and its conversation.

Owns the rule *persist, then publish*: every change is durable in the store before a frame about it
leaves, and one lock holds each change together with its storing. Never opens a connection: frames
come in and go out as bytes.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Final, TypeVar

from agent.clock import Clock
from agent.daytime import HubTime
from agent.log import say
from agent.prune import prune
from agent.settings import Settings
from agent.store import Store, StoreError
from sync import documents as names
from sync import hlc, records
from sync.author import ENTRY_BYTES, Author, Upkeep
from sync.client_ids import RANDOM_BITS, client_id, counter_after
from sync.documents import DocumentName, Kind, Side
from sync.gate import Refused
from sync.messages import BadFrame, Message, decode_frame, in_frames
from sync.moves import Role
from sync.records import Ack
from sync.replica import Holding, values_of
from sync.session import Retry, Session, Step
from sync.stages import Stage, allows, code_of, stage_of
from sync.stamps import Stamp

logger = logging.getLogger(__name__)

T = TypeVar("T")

ANCHOR_EVERY_MS: Final = 10_000
"""How often a frame carries the last crossing of the hub's clock and ours, 14 bytes."""

CLOCK_MAX: Final = 2**63 - 1
"""Largest clock that a record and the database hold; who wishes with it cannot be outbid."""

TELEMETRY: Final = Upkeep(writes_per_generation=2000, state_bytes_max=80 * 1024)
"""One flush writes a few dozen entries; 2000 leave 10 KB behind before they are given back."""

TELEMETRY_BYTES_MAX: Final = 80 * 1024
"""A telemetry document that would grow beyond this begins a new epoch with what is live."""

CLIENT_COUNTER: Final = "client_counter"
HLC: Final = "hlc"


class Documents:
    """Everything the device says and hears in documents."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        """Use `start` before anything else."""
        self._store = store
        self._clock = clock
        self._lock = asyncio.Lock()
        self._counter = 0
        self._hlc = 0
        self._authors: dict[DocumentName, Author] = {}
        self._durable: dict[DocumentName, Holding] = {}
        self._held: dict[DocumentName, Holding] = {}
        self._values: dict[DocumentName, dict[str, bytes]] = {}
        self.own = DocumentName(Kind.DEVICE, settings.device)
        self.telemetry = DocumentName(Kind.TELEMETRY, settings.device)
        self.keeps: Callable[[Mapping[str, bytes]], dict[str, bytes]] = dict
        """Which entries of the telemetry are still kept; `agent.measuring` knows."""
        self.takes_back: Callable[[Mapping[str, bytes]], None] = lambda _: None
        """Told of the telemetry that the hub holds and a lost disk did not."""
        self.on_stage: Callable[[], None] = lambda: None
        """Called when a stage was recorded: the hub should hear of it at once, because the next may
        take long."""
        self.followed = (
            DocumentName(Kind.DESIRED, settings.device),
            *(DocumentName(Kind.GROUP, group) for group in settings.groups),
        )
        self._session = Session(
            settings.device,
            sends={self.own: Role.AUTHOR, self.telemetry: Role.AUTHOR},
            follows=self.followed,
            retry=Retry(settings.retry_first_s, settings.retry_longest_s),
            random=Random(),  # noqa: S311 - jitter only
        )
        self._anchor: tuple[int, int] | None = None
        self._hub_time = HubTime()
        self._anchor_sent_ms = -ANCHOR_EVERY_MS
        self.hub_ms = 0
        """A time that the hub's clock has certainly passed: its last message to us says so."""
        self.word_sent_ms = 0
        """When the hub sent what it last said to this device itself, by its clock."""
        self.has_met_hub = False
        """Whether the hub's side of our document is known: that a device with an empty disk has not
        acknowledged a deployment says nothing before the hub said what it holds."""
        self.has_caught_up = False
        """Whether the hub and this start have agreed on our document: what is stored here may be an
        older copy, which a hub that is out of reach cannot tell us."""
        self.offence_count = 0
        """Frames and messages that were refused since the start."""

    async def start(self) -> None:
        """Load what is stored, and make the client id of this start durable before any write.

        Raises:
            StoreError: The store cannot be written.
        """
        held = await self._store.holdings()
        own, measured = held.pop(self.own, None), held.pop(self.telemetry, None)
        self._held = {name: held[name] for name in self.followed if name in held}
        self._values = {name: values_of(holding) for name, holding in self._held.items()}
        self.has_met_hub = own is not None or bool(self._held)
        counter = await self._store.number(CLIENT_COUNTER)
        self._hlc = await self._store.number(HLC)
        seen = [each.vector for each in (own, measured) if each is not None]
        self._counter = counter_after(counter, *seen)
        first: dict[DocumentName, Holding] = {}
        for name, stored in ((self.own, own), (self.telemetry, measured)):
            author = self._authors[name] = self._author_of(name, stored, self._new_id())
            # A new document is stored before its first logged write: the log alone has no
            # beginning.
            is_new = author.upkeep() or stored is None
            self._durable[name] = author.holding()
            if is_new:
                first[name] = self._durable[name]
        await self._store.keep(first, client_counter=self._counter)

    @property
    def start_number(self) -> int:
        """The number of this start; later starts have higher ones."""
        return self._counter

    # Reading.

    def reported(self) -> dict[str, bytes]:
        """Return the live values of our own document."""
        return self._author.values()

    def measured(self) -> dict[str, bytes]:
        """Return the live values of our telemetry."""
        return self._authors[self.telemetry].values()

    def wanted(self) -> Mapping[DocumentName, Mapping[str, bytes]]:
        """Return the live values of the documents that the hub writes for us."""
        return self._values

    def stages(self, deployment: str) -> set[Stage]:
        """Return the stages acknowledged for a deployment."""
        prefix = f"{names.ACK}{deployment}/"
        found = {
            stage_of(key[len(prefix) :]) for key in self._author.values() if key.startswith(prefix)
        }
        return {stage for stage in found if stage is not None}

    def is_later(self, deployment: str, other: str) -> bool:
        """Tell whether one deployment was acknowledged after another, as far as can be known.

        Between two boots only the wall clock can say.
        """
        found = [self._ended(each) for each in (deployment, other)]
        mine, theirs = found
        if mine is None or theirs is None:
            return mine is not None
        if mine.boot == theirs.boot:
            return mine.boottime_ms > theirs.boottime_ms
        return mine.wall_ms > theirs.wall_ms

    def acks(self, deployment: str) -> list[Ack]:
        """Return what is acknowledged for a deployment, in no order."""
        prefix = f"{names.ACK}{deployment}/"
        return list(records.select(Ack, prefix, self._author.values()).values())

    def _ended(self, deployment: str) -> Ack | None:
        key = names.ack_key(deployment, code_of(Stage.ACKNOWLEDGED))
        return records.select(Ack, key, self._author.values()).get("")

    @property
    def settled(self) -> bool:
        """Whether the hub durably holds everything that this device wrote."""
        return self._session.is_settled(self.own, self._shelf)

    def hub_now_ms(self, now: Stamp) -> int | None:
        """Return what the hub's clock shows now at least; None if that is not known.

        A message may have waited in a broker for days; once the hub and this start have agreed on
        our document, one has come that did not.
        """
        return self._hub_time.now_ms(now) if self.has_caught_up else None

    # Writing.

    async def write(self, entries: Mapping[str, bytes]) -> None:
        """Set values durably. Say so with `changed`, once writes have gathered.

        Raises:
            StoreError: Nothing was written, on disk or in memory; the caller may try again.
            ValueError: A key or value is out of bounds; nothing was written.
        """
        if entries:
            await self._locked(lambda: self._write(entries))

    async def measure(self, entries: Mapping[str, bytes]) -> None:
        """Set values of the telemetry durably. Say so with `changed`.

        Raises:
            StoreError: Nothing was written, on disk or in memory; the caller may try again.
            ValueError: A key or value is out of bounds; nothing was written.
        """
        if entries:
            await self._locked(lambda: self._measure(entries))

    async def acknowledge(
        self, deployment: str, stage: Stage, *, reason: str = "", detail: str = ""
    ) -> bool:
        """Record durably that a deployment reached a stage; False if it may not be recorded now."""
        is_new = await self._locked(lambda: self._acknowledge(deployment, stage, reason, detail))
        if is_new:
            self.on_stage()
        return is_new

    def next_clock(self) -> int:
        """Return the hybrid logical clock for a write that happens now."""
        self._hlc = min(CLOCK_MAX, hlc.tick(self._hlc, self._clock.wall_ms()))
        return self._hlc

    def heard_clock(self, remote: int) -> None:
        """Move the hybrid logical clock past a write of the other side."""
        self._hlc = hlc.hear(self._hlc, remote)

    # Talking.

    async def opened(self) -> list[bytes]:
        """A connection was made; return the frames to begin with."""

        def step() -> Step:
            self._anchor_sent_ms = -ANCHOR_EVERY_MS
            return self._session.opened(self._shelf, self._clock.mono_s())

        return await self._locked(lambda: self._carry_out(step()))

    def closed(self) -> None:
        """The connection is gone."""
        self._session.closed()

    async def changed(self) -> list[bytes]:
        """Return the frames that tell of what was written."""

        def step() -> Step:
            return self._session.changed(self.own, self._shelf, self._clock.mono_s())

        def measured() -> Step:
            return self._session.changed(self.telemetry, self._shelf, self._clock.mono_s())

        async def both() -> list[bytes]:
            return await self._carry_out(step()) + await self._carry_out(measured())

        return await self._locked(both)

    async def due(self) -> list[bytes]:
        """Return the frames that must be said again now."""

        def step() -> Step:
            return self._session.due(self._shelf, self._clock.mono_s())

        return await self._locked(lambda: self._carry_out(step()))

    def wake_mono(self) -> float | None:
        """Return when `due` has something to say next."""
        return self._session.wake_mono()

    async def receive(self, payload: bytes, *, direct: bool) -> tuple[list[bytes], bool]:
        """Take a frame of the hub; returns frames to send and whether the hub's wishes changed.

        `direct`: it came on this device's own topic just now. A retained frame of a group may be
        old, so its time of sending says nothing about the hub's clock now.
        """
        try:
            frame = decode_frame(payload)
        except BadFrame as error:
            self._offended(error)
            return [], False
        if direct:
            self._anchor = (frame.sent_ms, self._clock.stamp().boottime_ms)
            self.hub_ms = max(self.hub_ms, frame.sent_ms)
            self.word_sent_ms = frame.sent_ms
            self._hub_time.hear(*self._anchor)
        return await self._locked(lambda: self._receive(frame.messages))

    async def _locked(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` under the lock, and to its end even if whoever waits for it is cancelled.

        A commit that was cut off in the middle would leave it open what is on the disk.
        """

        async def whole() -> T:
            async with self._lock:
                return await work()

        task = asyncio.ensure_future(whole())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                await asyncio.wait({task})
            raise

    # Inside the lock.

    async def _receive(self, messages: Iterable[Message]) -> tuple[list[bytes], bool]:
        replies: list[bytes] = []
        news = False
        for message in messages:
            step = self._session.receive(message, self._shelf, self._clock.mono_s())
            if step.offence is not None:
                self._offended(step.offence)
            news = news or any(followed.changed for followed in step.store.values())
            replies += await self._carry_out(step)
        if not self.has_caught_up and self.settled:
            self.has_met_hub = self.has_caught_up = news = True
        return replies, news

    async def _acknowledge(self, deployment: str, stage: Stage, reason: str, detail: str) -> bool:
        if not allows(self.stages(deployment), stage):
            return False
        now = self._clock.stamp()
        ack = Ack(now.boot, now.boottime_ms, now.wall_ms, int(now.sync), reason[:100], detail[:200])
        await self._write({names.ack_key(deployment, code_of(stage)): records.encode(ack)})
        say(logger, "stage", deployment=deployment, stage=stage, reason=reason, detail=detail)
        return True

    async def _measure(self, entries: Mapping[str, bytes]) -> None:
        """Write telemetry. What was dropped of it goes with the next generation, or before."""
        name = self.telemetry
        new_bytes = sum(len(key) + len(value) + ENTRY_BYTES for key, value in entries.items())
        if len(self._durable[name].state) + new_bytes > TELEMETRY_BYTES_MAX:
            self._authors[name].reset()
            await self._keep(name)
        await self._write(entries, name)

    async def _write(
        self, entries: Mapping[str, bytes], document: DocumentName | None = None
    ) -> None:
        name = document or self.own
        author = self._authors[name]
        change = author.write(entries)
        try:
            full = await self._store.log(name, change, hlc=self._hlc, client_counter=self._counter)
        except BaseException:  # cancelled or refused, what is not on the disk must not stay
            self._back_to_disk(name)
            raise
        self._durable[name] = author.holding()
        if author.upkeep() or full:
            try:
                await self._keep(name)
            except StoreError as error:
                # The write itself is durable; only the tidying has to wait for room.
                say(logger, "document_not_tidied", level=logging.WARNING, error=error)

    async def _carry_out(self, step: Step) -> list[bytes]:
        """Store what a step calls for, then return what it sends."""
        messages: list[Message] = list(step.send)
        kept = {
            name: followed.holding
            for name, followed in step.store.items()
            if followed.holding is not None
        }
        if kept:
            await self._store.keep(kept)
            self._held.update(kept)
            self._values.update({name: values_of(holding) for name, holding in kept.items()})
        for name, theirs in step.rebase.items():
            messages += await self._rebase(name, theirs)
        for name, above in step.reset.items():
            say(logger, "document_began_anew", level=logging.WARNING, document=name)
            self._authors[name].reset(above=above)
            await self._keep(name)
            messages += self._say(name)
        return self._frames(messages)

    async def _rebase(self, name: DocumentName, theirs: Holding) -> Sequence[Message]:
        """Take in what the hub holds and we lack: our disk was rolled back, or replaced."""
        author = self._authors[name]
        self._counter = counter_after(self._counter, theirs.vector, self._durable[name].vector)
        if name == self.telemetry:
            self.takes_back(values_of(theirs))
        try:
            author.rebase(theirs, client_id=self._new_id())
        except Refused as refused:
            self._offended(refused)
            return []
        say(logger, "document_rebased", level=logging.WARNING, document=name, epoch=author.epoch)
        await self._keep(name)
        return self._say(name)

    async def _keep(self, name: DocumentName) -> None:
        holding = self._authors[name].holding()
        try:
            await self._store.keep({name: holding}, client_counter=self._counter)
        except BaseException:  # as in `_write`
            self._back_to_disk(name)
            raise
        self._durable[name] = holding

    def _back_to_disk(self, name: DocumentName) -> None:
        """Drop what is in memory but not on disk: it must never be published, nor built upon."""
        self._authors[name] = self._author_of(name, self._durable[name], self._fresh_id())

    def _author_of(self, name: DocumentName, held: Holding | None, client_id: int) -> Author:
        if name == self.telemetry:
            return Author(held, client_id=client_id, upkeep=TELEMETRY, prune=self._kept)
        return Author(held, client_id=client_id, prune=self._prune)

    def _kept(self, values: Mapping[str, bytes]) -> dict[str, bytes]:
        return self.keeps(values)

    @property
    def _author(self) -> Author:
        return self._authors[self.own]

    def _say(self, name: DocumentName) -> list[Message]:
        return self._session.changed(name, self._shelf, self._clock.mono_s()).send

    def _shelf(self, name: DocumentName) -> Holding | None:
        return self._durable.get(name) or self._held.get(name)

    def _new_id(self) -> int:
        return client_id(Side.DEVICE, self._counter, secrets.randbits(RANDOM_BITS))

    def _fresh_id(self) -> int:
        # Durable in the same transaction as the first write under it.
        self._counter += 1
        return self._new_id()

    def _prune(self, values: Mapping[str, bytes]) -> dict[str, bytes]:
        start = len(names.DEPLOYMENT)
        wished = {
            key[start:]
            for held in self._values.values()
            for key in held
            if key.startswith(names.DEPLOYMENT)
        }
        return prune(values, wished=wished)

    def _frames(self, messages: list[Message]) -> list[bytes]:
        if not messages:
            return []
        now = self._clock.stamp()
        anchor = None
        if self._anchor is not None and now.boottime_ms - self._anchor_sent_ms >= ANCHOR_EVERY_MS:
            anchor, self._anchor, self._anchor_sent_ms = self._anchor, None, now.boottime_ms
        return in_frames(messages, sender=now.boot, sent_ms=now.boottime_ms, anchor=anchor)

    def _offended(self, error: Exception) -> None:
        self.offence_count += 1
        if self.offence_count.bit_count() == 1:  # 1, 2, 4, 8 ...: a flood must not fill the log
            count = self.offence_count
            say(logger, "refused_from_hub", level=logging.WARNING, count=count, error=error)
