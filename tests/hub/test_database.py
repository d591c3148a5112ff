import os
import re
from functools import partial
from pathlib import Path

import apsw
import pytest

from hub.errors import (
    AnotherHub,
    DamagedDatabase,
    HubError,
    NewerDatabase,
    StateDirUnusable,
    StorageFull,
)
from hub.store import database as module
from hub.store.database import (
    APPLICATION_ID,
    DATABASE_FILE,
    SCHEMA_VERSION,
    Connection,
    load_number,
    open_database,
    save_number,
    schema_text,
)


def _pragma(connection: Connection, name: str) -> object:
    return next(connection.execute(f"PRAGMA {name}"))[0]


def test_a_new_database_is_durable_at_every_transaction_and_marked_as_ours(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    found = {
        pragma: database.transact(partial(_pragma, name=pragma))
        for pragma in ("journal_mode", "synchronous", "user_version", "application_id")
    }
    database.close_now()
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "user_version": SCHEMA_VERSION,
        "application_id": APPLICATION_ID,
    }


def test_every_schema_up_to_the_current_one_has_a_file_and_none_is_beyond() -> None:
    files = sorted(
        path.name
        for path in (Path(module.__file__).parent / "schema").iterdir()
        if re.match(r"\d{4}\.sql", path.name)
    )
    assert files == [f"{number:04}.sql" for number in range(1, SCHEMA_VERSION + 1)]
    assert all(schema_text(name) for name in files)


async def test_what_was_written_is_there_for_readers_and_after_opening_again(
    tmp_path: Path,
) -> None:
    database = open_database(tmp_path)
    await database.write(lambda db: save_number(db, "answer", 42))
    assert await database.read(lambda db: load_number(db, "answer")) == 42
    await database.close()
    database = open_database(tmp_path)
    assert database.transact(lambda db: load_number(db, "answer")) == 42
    database.close_now()


async def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = open_database(tmp_path)

    def job(db: Connection) -> None:
        save_number(db, "answer", 42)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        await database.write(job)
    assert await database.read(lambda db: load_number(db, "answer")) == 0
    await database.write(lambda db: save_number(db, "answer", 1))
    await database.close()


async def test_a_reader_cannot_write(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    with pytest.raises(apsw.ReadOnlyError):
        await database.read(lambda db: save_number(db, "answer", 42))
    await database.close()


def test_a_second_hub_on_the_same_folder_is_turned_away_and_the_first_goes_on(
    tmp_path: Path,
) -> None:
    first = open_database(tmp_path)
    with pytest.raises(AnotherHub, match=rf"process {os.getpid()}.*{tmp_path}"):
        open_database(tmp_path)
    first.transact(lambda db: save_number(db, "answer", 42))
    first.close_now()
    open_database(tmp_path).close_now()


def _altered(tmp_path: Path, statement: str) -> bytes:
    open_database(tmp_path).close_now()
    raw = apsw.Connection(str(tmp_path / DATABASE_FILE))
    raw.execute(statement)
    raw.close()
    return (tmp_path / DATABASE_FILE).read_bytes()


def _refused(tmp_path: Path, kind: type[HubError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        open_database(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_database_of_a_newer_program_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    before = _altered(tmp_path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    _refused(tmp_path, NewerDatabase, "newer hub.*install that version again")
    assert (tmp_path / DATABASE_FILE).read_bytes() == before
    _altered_back = apsw.Connection(str(tmp_path / DATABASE_FILE))
    _altered_back.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    _altered_back.close()
    open_database(tmp_path).close_now()


def test_the_database_of_another_program_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    raw = apsw.Connection(str(tmp_path / DATABASE_FILE))
    raw.execute("CREATE TABLE theirs (x)")
    raw.close()
    before = (tmp_path / DATABASE_FILE).read_bytes()
    _refused(tmp_path, DamagedDatabase, "another program")
    assert (tmp_path / DATABASE_FILE).read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"not a database, " * 500)
    _refused(tmp_path, DamagedDatabase, "damaged.*backup")
    assert (tmp_path / DATABASE_FILE).read_bytes() == b"not a database, " * 500


def test_a_damaged_page_is_noticed_when_the_hub_starts(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    database.transact(
        lambda db: db.executemany(
            "INSERT INTO seen VALUES (?, ?, 'D', zeroblob(200), 0)",
            [(f"d{number}", number) for number in range(2000)],
        )
    )
    database.close_now()
    path = tmp_path / DATABASE_FILE
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(content)
    _refused(tmp_path, DamagedDatabase, "damaged.*backup")


def test_a_migration_that_fails_leaves_an_empty_file_and_the_next_start_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> str:
        return schema_text(name) + "CREATE TABLE meta (x);"

    monkeypatch.setattr(module, "schema_text", broken)
    with pytest.raises(StateDirUnusable, match="already exists"):
        open_database(tmp_path)
    monkeypatch.undo()
    database = open_database(tmp_path)
    assert database.transact(lambda db: load_number(db, "answer")) == 0
    database.close_now()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateDirUnusable, match=r"file/hub.*state_dir"):
        open_database(tmp_path / "file" / "hub")


async def test_a_full_disk_is_a_failure_of_its_own_and_passes(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    pages = database.transact(lambda db: next(db.execute("PRAGMA page_count"))[0])
    database.transact(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall())

    def much(db: Connection) -> None:
        db.execute("INSERT INTO offence VALUES ('x', 'y', 1, 1, 1, ?)", ("z" * 100_000,))

    with pytest.raises(StorageFull, match="make room.*goes on by itself"):
        await database.write(much)
    assert await database.read(lambda db: db.execute("SELECT * FROM offence").fetchall()) == []
    database.transact(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchall())
    await database.write(much)
    await database.close()
