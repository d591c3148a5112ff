"""The device's database: documents, the install journal and the counters that must never go back.

Owns every SQL statement of the agent. Decides nothing.
One connection, write-ahead log, synchronous=FULL: when a method returns, what it wrote survives a
power cut, as far as the disk honours fsync. A write that fails (disk full) changes nothing.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import aiosqlite
import msgspec

from agent.faults import has_no_room, is_damage, is_full
from agent.threads import in_thread
from sync.documents import DocumentName, parse_document
from sync.replica import Absorbed, Holding, Replica
from sync.vector import decode_vector, encode_vector

FILE: Final = "agent.db"

APPLICATION_ID: Final = 0x46464147
"""`FFAG`, in the header of the file: this is an agent's database."""

DAMAGED_MAX: Final = 3
"""Damaged databases that are kept for a person to look at."""

NO_ROOM: Final = (
    "no room on the disk for the agent's database: free some space; "
    "nothing was changed, and it is tried again"
)

LOG_MAX: Final = 100
"""Updates logged before the whole document is stored again. A log row costs 8.3 KB written, a
document of some KB 22 to 33 KB."""

MIGRATIONS: Final[Sequence[str]] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE document (
        name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, state BLOB NOT NULL,
        vector BLOB NOT NULL, absorbed BLOB NOT NULL) STRICT;
    CREATE TABLE document_log (
        name TEXT NOT NULL, number INTEGER NOT NULL, change BLOB NOT NULL,
        PRIMARY KEY (name, number)) STRICT, WITHOUT ROWID;
    CREATE TABLE install (component TEXT PRIMARY KEY, journal BLOB NOT NULL) STRICT;
    """,
    """
    CREATE TABLE kept (
        kind TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (kind, name)) STRICT, WITHOUT ROWID;
    """,
)
"""Numbered by position; those that are missing run in one transaction. One that shipped stays."""


class StoreError(Exception):
    """The database cannot be used; says what to do. Nothing was changed."""


class NewerStore(StoreError):
    """A newer program wrote this database: install that one again, or set the device up anew."""


class StoreFull(StoreError):
    """There is no room on the disk. Nothing of this write was kept; earlier ones are safe."""


@dataclass(frozen=True, slots=True)
class Opened:
    """How the store was found."""

    damaged: Path | None
    """Where a damaged database was put aside just now; None normally."""
    kept: tuple[str, ...] = ()
    """Names of all that were put aside and that nobody has removed since."""


class Store:
    """The open database."""

    def __init__(self, connection: aiosqlite.Connection, opened: Opened) -> None:
        """Use `open_store`."""
        self._connection = connection
        self.opened = opened
        self._log_counts: dict[str, int] = {}
        self._writing = asyncio.Lock()

    async def close(self) -> None:
        """Close; everything written is durable already."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        """Return the store."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the store."""
        await self.close()

    async def check(self) -> None:
        """Read every document: SQLite finds damage in its pages, not inside what they hold.

        Raises:
            sqlite3.DatabaseError: One cannot be read.
        """
        try:
            for holding in (await self.holdings()).values():
                Replica(client_id=1, state=holding.state)
        except (ValueError, msgspec.MsgspecError) as error:
            raise sqlite3.DatabaseError(f"a document is damaged: {error}") from None

    async def answers(self) -> None:
        """Return once the database has answered; one on a card that hangs never does."""
        await self._one("SELECT 1", ())

    async def number(self, key: str, default: int = 0) -> int:
        """Return a stored number."""
        row = await self._one("SELECT value FROM meta WHERE key = ?", (key,))
        return int(row[0]) if row is not None else default

    async def set_numbers(self, **numbers: int) -> None:
        """Store numbers durably, all or none."""
        async with self._transaction():
            await self._put_numbers(numbers)

    async def holdings(self) -> dict[DocumentName, Holding]:
        """Return every document, with its logged updates merged in."""
        found: dict[DocumentName, Holding] = {}
        logs: dict[str, list[bytes]] = {}
        for name, change in await self._all(
            "SELECT name, change FROM document_log ORDER BY name, number"
        ):
            logs.setdefault(str(name), []).append(bytes(change))
        for name, epoch, state, vector, absorbed in await self._all(
            "SELECT name, epoch, state, vector, absorbed FROM document"
        ):
            holding = Holding(epoch, state, decode_vector(vector), _absorbed_from(absorbed))
            log = logs.get(name, [])
            self._log_counts[name] = len(log)
            if log:
                replica = Replica(client_id=1, state=holding.state)
                for change in log:
                    replica.apply(change)
                holding = Holding(epoch, replica.state(), replica.vector(), holding.absorbed)
            found[parse_document(name)] = holding
        return found

    async def log(self, document: DocumentName, change: bytes, **numbers: int) -> bool:
        """Store one local update and some numbers durably, all or none.

        Returns:
            Whether it is time to call `keep` for the document.
        """
        name = str(document)
        count = self._log_counts.get(name, 0)
        async with self._transaction():
            await self._connection.execute(
                "INSERT INTO document_log SELECT ?, coalesce(max(number), 0) + 1, ? "
                "FROM document_log WHERE name = ?",
                (name, change, name),
            )
            await self._put_numbers(numbers)
        self._log_counts[name] = count + 1
        return count + 1 >= LOG_MAX

    async def keep(self, holdings: Mapping[DocumentName, Holding], **numbers: int) -> None:
        """Store whole documents and some numbers durably, all or none, and drop their logs."""
        async with self._transaction():
            for document, holding in holdings.items():
                name = str(document)
                await self._connection.execute(
                    "INSERT INTO document VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "epoch = excluded.epoch, state = excluded.state, vector = excluded.vector, "
                    "absorbed = excluded.absorbed",
                    (
                        name,
                        holding.epoch,
                        holding.state,
                        encode_vector(holding.vector),
                        _absorbed_to(holding.absorbed),
                    ),
                )
                await self._connection.execute("DELETE FROM document_log WHERE name = ?", (name,))
            await self._put_numbers(numbers)
        for document in holdings:
            self._log_counts[str(document)] = 0

    async def journals(self) -> dict[str, bytes]:
        """Return the install journal of each component."""
        rows = await self._all("SELECT component, journal FROM install")
        return {str(component): bytes(journal) for component, journal in rows}

    async def write_journal(self, component: str, journal: bytes) -> None:
        """Store the install journal of a component durably."""
        async with self._transaction():
            await self._connection.execute(
                "INSERT INTO install VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET journal = excluded.journal",
                (component, journal),
            )

    async def kept(self, kind: str) -> dict[str, bytes]:
        """Return what is kept of one kind, by name."""
        rows = await self._all("SELECT name, value FROM kept WHERE kind = ?", (kind,))
        return {str(name): bytes(value) for name, value in rows}

    async def keep_values(self, kind: str, values: Mapping[str, bytes | None]) -> None:
        """Keep values of one kind durably, all or none; None drops one."""
        gone = [(kind, name) for name, value in values.items() if value is None]
        there = [(kind, name, value) for name, value in values.items() if value is not None]
        async with self._transaction():
            await self._connection.executemany("DELETE FROM kept WHERE kind = ? AND name = ?", gone)
            await self._connection.executemany(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", there
            )

    async def _put_numbers(self, numbers: Mapping[str, int]) -> None:
        if numbers:
            await self._connection.executemany(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                list(numbers.items()),
            )

    async def _one(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Row | None:
        async with self._connection.execute(sql, values) as cursor:
            return await cursor.fetchone()

    async def _all(self, sql: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        async with self._connection.execute(sql, values) as cursor:
            return list(await cursor.fetchall())

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        async with self._writing, self._alone():
            yield

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        try:
            await self._connection.execute("BEGIN IMMEDIATE")
            yield
            await self._connection.execute("COMMIT")
        except BaseException as error:  # cancelled as well: nothing half-done stays
            # The rollback itself fails if SQLite has rolled back already; then there is nothing to
            # undo. Cancellation passes through here too: nothing half-done stays.
            with contextlib.suppress(sqlite3.Error):
                await self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and not is_full(error):
                raise StoreError(
                    f"the agent's database cannot be written: {error}; "
                    "nothing was changed, and it is tried again"
                ) from None
            if isinstance(error, sqlite3.Error):
                raise StoreFull(NO_ROOM) from None
            raise


async def open_store(state_dir: Path) -> Store:
    """Open, check and if need be create the database in `state_dir`.

    A damaged database is put aside and a new one begun: a device that starts anew is mended by the
    hub, which holds what it was told; a device that stays dark is not.

    Raises:
        StoreError: The folder cannot be used, or the database is a newer program's.
    """
    path = state_dir / FILE
    await in_thread(partial(make_folder, state_dir), "state folder")
    try:
        return await _open_sound(path)
    except sqlite3.DatabaseError as error:
        if is_full(error) or has_no_room(state_dir, error):
            raise StoreFull(f"cannot open {path}: {NO_ROOM}") from None
        if isinstance(error, sqlite3.OperationalError) and not is_damage(error):
            raise StoreError(f"cannot open {path}: {error}") from None
    aside = _put_aside(path)
    return Store(await _connect(path), Opened(damaged=aside, kept=_damaged(state_dir)))


async def _open_sound(path: Path) -> Store:
    store = Store(await _connect(path), Opened(damaged=None, kept=_damaged(path.parent)))
    try:
        await store.check()
    except BaseException:  # raised again; an open connection must not outlive it
        await store.close()
        raise
    return store


def make_folder(state_dir: Path) -> None:
    """Make the folder of the database, if it is not there.

    Raises:
        StoreError: It cannot be made.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the state folder {state_dir}: {error.strerror}; "
            "create it or set state_dir"
        ) from None


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        version = await _require_ours(connection, path)
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        await connection.execute("PRAGMA foreign_keys = ON")
        async with connection.execute("PRAGMA quick_check(1)") as cursor:
            row = await cursor.fetchone()
        _require_sound(row)
        await _migrate(connection, version)
    except BaseException:  # raised again; an open connection must not outlive it
        await connection.close()
        raise
    return connection


def _require_sound(row: sqlite3.Row | None) -> None:
    if row is None or row[0] != "ok":
        raise sqlite3.DatabaseError(f"quick_check: {row[0] if row else 'no answer'}")


async def _require_ours(connection: aiosqlite.Connection, path: Path) -> int:
    """Return the version of the schema; 0 is an empty database. Changes nothing."""
    version, application, tables_count = [
        await _first(connection, question)
        for question in (
            "PRAGMA user_version",
            "PRAGMA application_id",
            "SELECT count(*) FROM sqlite_schema",
        )
    ]
    if application != (APPLICATION_ID if version or tables_count else 0):
        raise StoreError(
            f"{path} is the database of another program: set state_dir to another folder; "
            "nothing was changed"
        )
    if version > len(MIGRATIONS):
        raise NewerStore(
            f"{path} was written by a newer agent (schema {version}, this one knows "
            f"{len(MIGRATIONS)}): install the newer agent again; nothing was changed"
        )
    return version


async def _first(connection: aiosqlite.Connection, question: str) -> int:
    async with connection.execute(question) as cursor:
        row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


async def _migrate(connection: aiosqlite.Connection, version: int) -> None:
    if version == len(MIGRATIONS):
        return
    steps = ";".join(MIGRATIONS[version:])
    try:
        await connection.executescript(
            f"BEGIN IMMEDIATE;{steps}PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {len(MIGRATIONS)};COMMIT;"
        )
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            await connection.execute("ROLLBACK")
        raise


def _put_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        if number == DAMAGED_MAX:
            break  # the first ones tell most; this one replaces the last
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    return aside


def _damaged(state_dir: Path) -> tuple[str, ...]:
    names = (path.name for path in state_dir.glob(f"{FILE}.damaged-*"))
    return tuple(sorted(name for name in names if not name.endswith(("-wal", "-shm"))))


def _absorbed_to(absorbed: Absorbed) -> bytes:
    return msgspec.msgpack.encode([(epoch, encode_vector(seen)) for epoch, seen in absorbed])


def _absorbed_from(encoded: bytes) -> Absorbed:
    pairs = msgspec.msgpack.decode(encoded, type=list[tuple[int, bytes]])
    return tuple((epoch, decode_vector(seen)) for epoch, seen in pairs)
