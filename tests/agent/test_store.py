import sqlite3
from pathlib import Path

import pytest

from agent.lock import lock_state
from agent.store import (
    FILE,
    LOG_MAX,
    MIGRATIONS,
    NewerStore,
    Store,
    StoreError,
    StoreFull,
    open_store,
)
from sync.author import Author
from sync.documents import DocumentName, Kind
from sync.replica import values_of

OWN = DocumentName(Kind.DEVICE, "lamp-1")


async def pragma(store: Store, question: str) -> object:
    row = await store._one(f"PRAGMA {question}")
    assert row is not None
    return row[0]


async def test_a_new_database_is_written_ahead_and_synced_at_every_commit(tmp_path: Path) -> None:
    async with await open_store(tmp_path / "deep" / "state") as store:
        assert await pragma(store, "journal_mode") == "wal"
        assert await pragma(store, "synchronous") == 2
        assert await pragma(store, "user_version") == len(MIGRATIONS)
        assert store.opened.damaged is None


async def test_a_document_comes_back_with_its_epoch_vector_and_what_it_absorbed(
    tmp_path: Path,
) -> None:
    author = Author(None, client_id=7)
    author.write({"s/a": b"1"})
    author.reset()
    async with await open_store(tmp_path) as store:
        await store.keep({OWN: author.holding()}, client_counter=3)
    async with await open_store(tmp_path) as store:
        assert (await store.holdings())[OWN] == author.holding()
        assert await store.number("client_counter") == 3


async def test_logged_updates_are_merged_into_the_document_they_belong_to(tmp_path: Path) -> None:
    author = Author(None, client_id=7)
    async with await open_store(tmp_path) as store:
        await store.keep({OWN: author.holding()})
        for number in range(5):
            await store.log(OWN, author.write({f"s/{number}": b"x"}), hlc=number)
    async with await open_store(tmp_path) as store:
        held = (await store.holdings())[OWN]
        assert await store.number("hlc") == 4
    assert values_of(held) == author.values()
    assert held.vector == author.vector()


async def test_a_long_log_asks_for_the_whole_document_and_keeping_it_empties_the_log(
    tmp_path: Path,
) -> None:
    author = Author(None, client_id=7)
    async with await open_store(tmp_path) as store:
        await store.keep({OWN: author.holding()})
        for number in range(LOG_MAX - 1):
            assert not await store.log(OWN, author.write({"s/a": b"%d" % number}))
        assert await store.log(OWN, author.write({"s/a": b"last"}))
        await store.keep({OWN: author.holding()})
        row = await store._one("SELECT count(*) FROM document_log")
        assert row is not None
        assert row[0] == 0
        assert not await store.log(OWN, author.write({"s/a": b"next"}))


async def test_a_log_left_long_by_a_crash_is_counted_at_the_next_start(tmp_path: Path) -> None:
    author = Author(None, client_id=7)
    async with await open_store(tmp_path) as store:
        await store.keep({OWN: author.holding()})
        for number in range(LOG_MAX - 1):
            await store.log(OWN, author.write({"s/a": b"%d" % number}))
    async with await open_store(tmp_path) as store:
        await store.holdings()
        assert await store.log(OWN, author.write({"s/a": b"last"}))


async def test_the_database_of_a_newer_agent_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    async with await open_store(tmp_path) as store:
        await store.set_numbers(kept=1)
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    before = (tmp_path / FILE).read_bytes()

    with pytest.raises(NewerStore, match="newer agent"):
        await open_store(tmp_path)

    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.damaged*")] == []


async def test_the_database_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    before = (tmp_path / FILE).read_bytes()

    with pytest.raises(StoreError, match="another program"):
        await open_store(tmp_path)

    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize(
    "spoilt", [b"no database at all" * 300, b"SQLite format 3\0" + b"x" * 5000]
)
async def test_a_damaged_database_is_put_aside_and_a_new_one_begun(
    tmp_path: Path, spoilt: bytes
) -> None:
    for number in (1, 2):
        (tmp_path / FILE).write_bytes(spoilt)
        async with await open_store(tmp_path) as store:
            assert store.opened.damaged == tmp_path / f"{FILE}.damaged-{number}"
            assert store.opened.damaged.read_bytes() == spoilt
            assert await store.holdings() == {}


async def test_a_document_damaged_inside_a_sound_page_counts_as_a_damaged_database(
    tmp_path: Path,
) -> None:
    author = Author(None, client_id=7)
    author.write({"s/a": b"1"})
    async with await open_store(tmp_path) as store:
        await store.keep({OWN: author.holding()})
        await store._connection.execute("UPDATE document SET state = x'ffffffff'")

    async with await open_store(tmp_path) as store:
        assert store.opened.damaged is not None
        assert await store.holdings() == {}


async def test_a_full_disk_is_said_and_nothing_of_the_write_stays(tmp_path: Path) -> None:
    author = Author(None, client_id=7)
    async with await open_store(tmp_path) as store:
        await store.keep({OWN: author.holding()}, client_counter=1)
        pages = await pragma(store, "page_count")
        await pragma(store, f"max_page_count = {pages}")
        big = author.write({f"s/{number}": b"x" * 2000 for number in range(10)})

        with pytest.raises(StoreFull, match="free some space"):
            await store.log(OWN, big, hlc=9)
        with pytest.raises(StoreFull):
            await store.keep({OWN: author.holding()}, client_counter=2)
        with pytest.raises(StoreFull):
            await store.write_journal("lamp", b"x" * 20_000)

        assert values_of((await store.holdings())[OWN]) == {}
        assert (await store.number("hlc"), await store.number("client_counter")) == (0, 1)
        assert await store.journals() == {}

        await pragma(store, "max_page_count = 100000")
        await store.log(OWN, big, hlc=9)
    async with await open_store(tmp_path) as store:
        assert values_of((await store.holdings())[OWN]) == author.values()


async def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError, match=r"file/state"):
        await open_store(tmp_path / "file" / "state")


async def test_a_second_agent_is_kept_out_of_the_state_folder_until_the_first_has_left(
    tmp_path: Path,
) -> None:
    with lock_state(tmp_path):  # noqa: SIM117 - the second one is the act
        with pytest.raises(StoreError, match="another agent"), lock_state(tmp_path):
            pass
    with lock_state(tmp_path):
        pass
