"""The loop between broker and store, over a broker in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import apsw
import pytest

from hub import mailroom as module
from hub.errors import StorageFull
from hub.mailroom import Mailroom
from hub.publisher import Publisher
from hub.store import presence
from hub.store.database import DATABASE_FILE
from sync.messages import Have, Open, decode_frame
from sync.records import Desired, encode
from sync.topics import EVERY_PRESENCE, EVERY_UP
from sync.transport.memory import MemoryTransport
from sync.transport.memory_broker import MemoryBroker
from sync.transport.port import Connected, Delivery, Link, Subscription
from sync.vector import encode_vector
from tests.fakes.fleet import FleetDevice, fact
from tests.fakes.links import eventually
from tests.hub.core import RUN, Core, desired, frame_of, group, own
from tests.hub.web import CoreClock


class Room:
    """A hub's core on a broker in memory, with a client that plays the devices."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.broker = MemoryBroker()
        self.transport = MemoryTransport(
            self.broker,
            Link(client_id="hub"),
            subscriptions=(Subscription(EVERY_UP), Subscription(EVERY_PRESENCE)),
        )
        self.devices = MemoryTransport(
            self.broker,
            Link(client_id="devices"),
            subscriptions=(Subscription("ff/1/+/down"), Subscription("ff/1/group/+")),
        )
        clock = CoreClock(core)
        self.publisher = Publisher(self.transport, core.database, core.groups, clock, RUN)
        self.mailroom = Mailroom(
            transport=self.transport,
            database=core.database,
            ingest=core.ingest,
            watch=core.watch,
            groups=core.groups,
            conversations=core.conversations,
            correspondence=core.correspondence,
            publisher=self.publisher,
            clock=clock,
            run_id=RUN,
            batch_max_count=100,
        )
        core.database.recall = self.mailroom.recall

    async def heard(self) -> Delivery:
        """Return the next message to a device."""
        while True:
            for event in await self.devices.receive(1):
                if isinstance(event, Delivery):
                    self.devices.acknowledge(event)
                    return event

    def send(self, delivery: Delivery) -> None:
        assert self.devices.publish_soon(delivery.topic, delivery.payload)


@asynccontextmanager
async def _running(room: Room) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(each)
        for each in (
            room.transport.run(),
            room.devices.run(),
            room.mailroom.run(),
            room.publisher.run(),
        )
    ]
    try:
        while not any(isinstance(e, Connected) for e in await room.devices.receive(1)):
            pass
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def room(core: Core) -> AsyncIterator[Room]:
    made = Room(core)
    async with _running(made):
        yield made


def _first_frame(name: str = "d1") -> Delivery:
    device = FleetDevice(name, 1)
    device.write(fact("class", "lamp"), 0.0)
    holding = device.author.holding()
    from sync.messages import Full

    return frame_of(name, Full("dev", holding.epoch, holding.state))


@contextlib.contextmanager
def _failing(core: Core, failure: Callable[[], Exception], times: int) -> Iterator[None]:
    """Let the end of the next transactions fail."""
    transact, left = core.database.transact, [times]

    def failing(job: Callable[[object], object]) -> object:
        def wrapped(db: object) -> object:
            result = job(db)
            if left[0]:
                left[0] -= 1
                raise failure()
            return result

        return transact(wrapped)

    core.database.transact = failing  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        core.database.transact = transact  # type: ignore[method-assign]


async def test_an_answer_goes_out_only_when_what_it_states_is_durable(room: Room) -> None:
    room.send(_first_frame())
    answer = await room.heard()
    assert answer.topic == "ff/1/d1/down"
    (have,) = decode_frame(answer.payload).messages
    assert isinstance(have, Have)
    held = await room.core.database.read(
        lambda db: db.execute("SELECT epoch FROM document WHERE name = 'dev/d1'").fetchall()
    )
    assert held == [(have.epoch,)]
    assert decode_frame(answer.payload).sender == RUN


async def test_while_the_disk_is_full_nothing_is_acknowledged_and_then_it_goes_on(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNUSABLE_PAUSE_S", 0.0)
    with _failing(room.core, lambda: apsw.FullError("disk is full"), times=3):
        acknowledged = room.transport.counters.acknowledged_count
        room.send(_first_frame())
        await room.heard()
        assert room.transport.counters.acknowledged_count == acknowledged + 1
    assert room.core.held(own("d1")) is not None
    assert room.core.ingest.counters.batch_count >= 4


async def test_while_another_program_holds_a_lock_nothing_is_dropped_and_then_it_goes_on(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNUSABLE_PAUSE_S", 0.0)
    core = room.core
    await core.database.write(lambda db: db.set_busy_timeout(1))
    other = apsw.Connection(str(core.database.state_dir / DATABASE_FILE))
    other.execute("BEGIN IMMEDIATE")
    acknowledged = room.transport.counters.acknowledged_count
    before_mono = room.mailroom._unusable_logged_mono
    room.send(_first_frame())
    while room.mailroom._unusable_logged_mono == before_mono:
        await asyncio.sleep(0)
    assert room.transport.counters.acknowledged_count == acknowledged
    other.close()
    await room.heard()
    assert room.transport.counters.acknowledged_count == acknowledged + 1
    assert room.mailroom.fault_count == 0
    assert core.held(own("d1")) is not None


def _limit_pages(core: Core, spare: int | None) -> None:
    """Let the database grow by so many pages only, or as it wants."""

    def job(db: apsw.Connection) -> None:
        (pages,) = next(db.execute("PRAGMA page_count"))
        limit = 2**30 if spare is None else pages + spare
        db.execute(f"PRAGMA max_page_count = {limit}").fetchall()

    core.database.transact(job)


def test_a_batch_that_failed_at_the_disk_leaves_nothing_in_memory_and_is_taken_again(
    core: Core,
) -> None:
    Room(core)
    entries = {"d/mode": encode(Desired(1, '"x"'))}
    stored = core.database.transact(
        lambda db: core.desired.write(db, group(), entries, core.now.ms)
    )
    core.database.transact(core.groups.load)
    core.database.transact(lambda db: core.conversations.changed(db, "d1", core.now.mono_s))
    foreign = Have("grp/all", stored.epoch, encode_vector({2**40 + 2**30: 3}))
    batch = [
        frame_of("a1", foreign),
        Delivery("ff/1/a2/up", b"rubbish", False, False, 1),
        *(_first_frame(f"d{number}") for number in range(300)),
    ]
    _limit_pages(core, 4)

    with pytest.raises(StorageFull):
        core.take(*batch)
    ahead = core.groups.holding("grp/all")
    assert ahead is not None
    assert ahead.epoch > stored.epoch
    assert core.held(group()) == stored

    _limit_pages(core, None)
    assert core.groups.holding("grp/all") == stored
    assert len(core.conversations) == 0
    assert core.take(*batch).stale_groups == {"grp/all"}
    assert core.groups.holding("grp/all") == core.held(group())
    assert core.rows("SELECT count(*) FROM device") == [(301,)]
    assert core.rows("SELECT device, count FROM offence") == [("a2", 1)]


async def test_one_message_that_meets_a_fault_of_the_hub_stops_nothing_else(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = room.core.ingest._hear

    def poisoned(db: object, sender: object, *rest: object) -> object:
        if getattr(sender, "device", "") == "poison":
            raise RuntimeError("a fault of the hub")
        return take(db, sender, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(room.core.ingest, "_hear", poisoned)
    for name in ("d1", "poison", "d2"):
        room.send(_first_frame(name))
    topics = {(await room.heard()).topic, (await room.heard()).topic}
    assert topics == {"ff/1/d1/down", "ff/1/d2/down"}
    while not room.mailroom.fault_count:
        await asyncio.sleep(0)
    assert room.mailroom.fault_count == 1
    assert room.core.held(own("poison")) is None


async def test_group_documents_are_published_retained_on_every_connection(room: Room) -> None:
    core = room.core
    entries = {"d/mode": encode(Desired(1, '"x"'))}
    await core.database.write(lambda db: core.desired.write(db, group(), entries, core.now.ms))
    await core.database.write(core.groups.load)
    room.publisher.ask([group()])
    first = await room.heard()
    assert first.topic == "ff/1/group/all"
    room.broker.stop(forget=True)
    room.broker.start()
    again = await room.heard()
    assert decode_frame(again.payload).messages == decode_frame(first.payload).messages
    assert "ff/1/group/all" in room.broker.retained()


async def test_what_changed_while_the_broker_was_away_goes_out_when_it_is_back(
    room: Room,
) -> None:
    core = room.core
    room.send(_first_frame())
    await room.heard()
    room.broker.stop(forget=True)
    entries = {"d/mode": encode(Desired(1, '"x"'))}
    await core.database.write(
        lambda db: core.desired.write(db, desired("d1"), entries, core.now.ms)
    )
    room.publisher.ask([desired("d1")])
    room.broker.start()
    assert (await room.heard()).topic == "ff/1/d1/down"


async def test_the_hubs_own_connection_is_noted_with_its_gaps(room: Room) -> None:
    core = room.core
    room.send(_first_frame())
    await room.heard()
    core.pass_time(10)
    room.broker.stop()
    core.pass_time(10)
    room.broker.start()
    while True:
        spans = await core.database.read(presence.load_listening)
        if len(spans) == 2:
            break
        await asyncio.sleep(0)
    assert spans[0][1] is not None
    assert spans[1][1] is None


async def test_what_goes_unanswered_is_asked_again(room: Room) -> None:
    core = room.core
    entries = {"d/mode": encode(Desired(1, '"x"'))}

    def wish(db: object) -> None:
        core.desired.write(db, desired("d1"), entries, core.now.ms)  # type: ignore[arg-type]
        core.conversations.changed(db, "d1", core.now.mono_s)  # type: ignore[arg-type]

    await core.database.write(wish)
    core.pass_time(1000)
    frames, _ = await core.database.write(room.mailroom._tick)
    ((topic, payload),) = frames
    (question,) = decode_frame(payload).messages
    assert topic == "ff/1/d1/down"
    assert isinstance(question, Open)
    assert question.vector != encode_vector({})


async def test_a_birth_that_was_lost_while_the_hub_subscribed_is_heard_a_moment_later(
    room: Room, core: Core
) -> None:
    birth = b'{"online": true, "birth": 3}'
    room.devices.publish_soon("ff/1/d1/presence", birth, retain=True)
    await eventually(lambda: _births(core) == [3])
    core.database.transact(lambda db: db.execute("DELETE FROM presence"))

    room.mailroom.listen_again()
    core.pass_time(module.LISTEN_AGAIN_S)
    assert _births(core) == []
    room.mailroom.listen_again()

    await eventually(lambda: _births(core) == [3])


def _births(core: Core) -> list[int]:
    return core.database.transact(
        lambda db: [birth for (birth,) in db.execute("SELECT birth FROM presence")]
    )
