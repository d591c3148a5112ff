import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.documents import Documents
from agent.settings import Settings
from agent.store import Store, StoreFull, open_store
from sync import documents as names
from sync import records
from sync.author import Author
from sync.client_ids import client_id, counter_of
from sync.documents import DocumentName, Kind, Side
from sync.messages import Diff, Have, Open, decode_frame, in_frames
from sync.moves import Role
from sync.records import Ack, Deployment
from sync.replica import Holding
from sync.session import Session
from sync.stages import Stage
from tests.fakes.clock import FakeClock

OWN = DocumentName(Kind.DEVICE, "lamp-1")
DESIRED = DocumentName(Kind.DESIRED, "lamp-1")


@asynccontextmanager
async def device(folder: Path) -> AsyncIterator[tuple[Documents, Store, FakeClock]]:
    clock = FakeClock()
    async with await open_store(folder) as store:
        settings = Settings.model_validate({"device": "lamp-1", "state_dir": folder})
        documents = Documents(settings, store, clock)
        await documents.start()
        yield documents, store, clock


class Hub:
    """The other end, as the session has it."""

    def __init__(self) -> None:
        self.author = Author(None, client_id=client_id(Side.HUB, 1, 1))
        self.held: dict[DocumentName, Holding] = {}
        self.session = Session("lamp-1", sends={DESIRED: Role.AUTHOR}, follows={OWN})

    def take(self, frames: list[bytes]) -> bytes:
        send = []
        self.held[DESIRED] = self.author.holding()
        for frame in frames:
            for message in decode_frame(frame).messages:
                step = self.session.receive(message, self.held.get, 0.0)
                for name, followed in step.store.items():
                    if followed.holding is not None:
                        self.held[name] = followed.holding
                send += step.send
        (frame,) = in_frames(send, sender=b"hubhub", sent_ms=5000, anchor=None)
        return frame


async def test_every_start_writes_under_a_higher_client_id(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        async with device(tmp_path) as (documents, _, _):
            await documents.write({"s/a": b"x"})
            seen.append(documents.start_number)
            assert counter_of(documents._author.client_id) == documents.start_number
    assert seen == sorted(set(seen))


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with device(tmp_path) as (documents, _, _):
        await documents.write({"s/a": b"x"})
    async with device(tmp_path) as (documents, _, _):
        assert documents.reported()["s/a"] == b"x"


async def test_a_write_that_the_disk_refuses_is_nowhere_and_never_told(tmp_path: Path) -> None:
    async with device(tmp_path) as (documents, store, _):
        await documents.write({"s/a": b"before"})
        hub = Hub()
        await documents.receive(hub.take(await documents.opened()), direct=True)
        pages = await store._one("PRAGMA page_count")
        assert pages is not None
        await store._one(f"PRAGMA max_page_count = {pages[0]}")

        with pytest.raises(StoreFull):
            await documents.write({f"s/{number}": b"x" * 1000 for number in range(30)})

        assert documents.reported() == {"s/a": b"before"}
        assert all(
            not isinstance(message, Diff)
            for frame in await documents.changed()
            for message in decode_frame(frame).messages
        )
        await store._one("PRAGMA max_page_count = 100000")
        await documents.write({"s/a": b"after"})
        assert documents.reported() == {"s/a": b"after"}


async def test_a_stage_carries_the_device_clocks_and_is_recorded_only_once(tmp_path: Path) -> None:
    async with device(tmp_path) as (documents, _, clock):
        assert await documents.acknowledge("done", Stage.DELIVERED)
        clock.pass_s(60)
        assert not await documents.acknowledge("done", Stage.DELIVERED)
        assert documents.stages("done") == {Stage.DELIVERED}
        ack = records.decode_as(Ack, "a/done/D", documents.reported()["a/done/D"])
        assert (ack.boot, ack.boottime_ms, ack.wall_ms) == (b"boot-1", 100_000, 1_700_000_000_000)


async def test_no_stage_follows_a_final_one(tmp_path: Path) -> None:
    async with device(tmp_path) as (documents, _, _):
        await documents.acknowledge("done", Stage.DELIVERED)
        await documents.acknowledge("done", Stage.FAILED, reason="no_space")

        assert not await documents.acknowledge("done", Stage.VERIFIED)
        assert documents.stages("done") == {Stage.DELIVERED, Stage.FAILED}


async def test_a_conversation_begins_with_what_we_have_and_what_we_hold_of_theirs(
    tmp_path: Path,
) -> None:
    async with device(tmp_path) as (documents, _, _):
        (frame,) = await documents.opened()

    kinds = [(type(message), message.document) for message in decode_frame(frame).messages]
    assert kinds == [(Open, "dev"), (Open, "tel"), (Have, "des"), (Have, "grp/all")]


async def test_a_wish_is_on_disk_before_it_is_confirmed_and_known_after_a_restart(
    tmp_path: Path,
) -> None:
    hub = Hub()
    hub.author.write({"r/done": records.encode(Deployment(1, "lamp", "1.0", bytes(32), 100))})
    async with device(tmp_path) as (documents, store, _):
        replies, news = await documents.receive(hub.take(await documents.opened()), direct=True)
        assert news
        assert (await store.holdings())[DESIRED] == hub.held[DESIRED]
        hub.take(replies)
        assert hub.session.is_settled(DESIRED, hub.held.get)
    async with device(tmp_path) as (documents, _, _):
        assert "r/done" in documents.wanted()[DESIRED]


async def test_the_device_is_settled_only_once_the_hub_says_that_it_holds_everything(
    tmp_path: Path,
) -> None:
    hub = Hub()
    async with device(tmp_path) as (documents, _, _):

        def settled() -> bool:
            return documents.settled

        await documents.write({"s/a": b"x"})
        frames = await documents.opened()
        assert not settled()
        while frames and not settled():
            frames, _ = await documents.receive(hub.take(frames), direct=True)
        assert settled()
        await documents.write({"s/a": b"y"})
        assert not settled()


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x95\x01", b"x" * 5000])
async def test_a_payload_that_is_no_frame_is_counted_and_changes_nothing(
    tmp_path: Path, payload: bytes
) -> None:
    async with device(tmp_path) as (documents, _, _):
        assert await documents.receive(payload, direct=True) == ([], False)
        assert documents.offence_count == 1
        assert documents.reported() == {}


async def test_a_hub_cannot_write_the_document_of_the_device(tmp_path: Path) -> None:
    forger = Author(None, client_id=client_id(Side.HUB, 9, 9))
    forger.write({"s/a": b"forged"})
    own = forger.holding()
    diff = Diff("dev", 1, own.state, b"1234")
    (frame,) = in_frames([diff], sender=b"hubhub", sent_ms=1, anchor=None)
    async with device(tmp_path) as (documents, _store, _):
        await documents.write({"s/a": b"mine"})
        await documents.receive(frame, direct=True)
        assert documents.offence_count == 1
        assert documents.reported() == {"s/a": b"mine"}


async def test_the_hub_clock_is_believed_only_from_a_message_to_this_device(tmp_path: Path) -> None:
    (frame,) = in_frames([Have("dev", 0, b"\0")], sender=b"hubhub", sent_ms=777, anchor=None)
    async with device(tmp_path) as (documents, _, _):
        await documents.receive(frame, direct=False)
        assert documents.hub_ms == 0
        await documents.receive(frame, direct=True)
        assert documents.hub_ms == 777


async def test_a_value_that_is_too_long_is_refused_and_nothing_of_the_write_is_kept(
    tmp_path: Path,
) -> None:
    async with device(tmp_path) as (documents, _, _):
        with pytest.raises(ValueError, match="at most"):
            await documents.write({"s/a": b"fine", "s/b": b"x" * (records.VALUE_BYTES_MAX + 1)})
        assert documents.reported() == {}


async def test_writes_from_many_tasks_at_once_are_all_kept(tmp_path: Path) -> None:
    async with device(tmp_path) as (documents, _, _), asyncio.TaskGroup() as tasks:
        for number in range(150):
            value = json.dumps(number).encode()
            tasks.create_task(documents.write({f"{names.FACT}{number}": value}))
    async with device(tmp_path) as (documents, _, _):
        assert len(documents.reported()) == 150
