"""The hub's database file: who may open it, its schema, its one writer and its readers.

Owns the file, the lock on the state directory, and the transactions. Never knows what is in a
table.

Rules: everything that writes is a function of the connection, run on one thread, in a transaction
that is durable when `write` returns, or has left nothing behind. That thread is also the lock that
keeps "change a document, store it" together. The writing connection alone checkpoints. What `read`
runs sees one state of the whole database, and cannot change it.

Durable means: on the disk, if the disk honours a flush (WAL with synchronous=FULL).
"""

import asyncio
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from hub.errors import (
    AnotherHub,
    DamagedDatabase,
    DamagedDocument,
    NewerDatabase,
    Refusal,
    StateDirUnusable,
    StorageFull,
    StorageLocked,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

Connection = apsw.Connection

DATABASE_FILE: Final = "hub.db"
LOCK_FILE: Final = "hub.lock"

APPLICATION_ID: Final = 0x46464855
"""`FFHU`, in the header of the file: this is a hub's database."""

SCHEMA_VERSION: Final = 10
"""Number of the last file in `schema/`; kept in `PRAGMA user_version`."""

AUTOCHECKPOINT_PAGES: Final = 40_000
"""160 MB of log. Checkpointing more often writes pages that the next transactions change again."""

WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
PAGE_CACHE_KIB: Final = 64 * 1024
READERS_COUNT: Final = 2
BUSY_MS: Final = 10_000
"""Longest wait for a lock that another program holds, such as a backup."""


class Database:
    """The open database. Make it with `open_database`; close it with `close`."""

    def __init__(self, state_dir: Path, lock: int, writer: Connection) -> None:
        self.state_dir = state_dir
        self._path = state_dir / DATABASE_FILE
        self._lock = lock
        self._writer = writer
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reading = ThreadPoolExecutor(READERS_COUNT, thread_name_prefix="store-reader")
        self._local = threading.local()
        self._readers: list[Connection] = []
        self._in_doubt = False
        self.recall: Callable[[Connection], None] = lambda _connection: None
        """Makes what is kept in memory of the tables agree with them again. Called first thing in
        the transaction after one that has failed, however that one failed: only a `Refusal` says
        that its job had not touched memory yet."""
        self.mend: Callable[[Connection, DamagedDocument], None] | None = None
        """Puts something sound in the place of a document that cannot be read. Called in a
        transaction of its own when a job has failed for that; then the job is run again."""

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in a transaction on the writer's thread and return its result, durably.

        Raises:
            StorageUnusable: The disk is full or fails, or another program holds a lock; nothing of
                `job` is in the database.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writing, self.transact, job)

    def doubt(self) -> None:
        """Have what is kept in memory of the tables recalled before the next transaction."""
        self._in_doubt = True

    async def read(self, job: Callable[[Connection], T]) -> T:
        """Run `job` on a reader's thread, over one state of the database, and return its result."""
        loop = asyncio.get_running_loop()
        mended: set[str] = set()
        while True:
            try:
                return await loop.run_in_executor(self._reading, self._peruse, job)
            except DamagedDocument as damage:
                found = damage
            await loop.run_in_executor(self._writing, self._mend, found, mended)

    async def close(self) -> None:
        """Wait for what is running, write the log back into the file and release the lock."""
        await asyncio.get_running_loop().run_in_executor(None, self.close_now)

    def close_now(self) -> None:
        """As `close`, for a thread that may block."""
        self._writing.shutdown()
        self._reading.shutdown()
        for reader in self._readers:
            reader.close()
        try:
            self._writer.close()
        finally:
            os.close(self._lock)

    def transact(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in a transaction on this thread; the caller sees to it that it is the only one.

        Raises:
            StorageUnusable: The disk is full or fails, or another program holds a lock; nothing of
                `job` is in the database.
        """
        mended: set[str] = set()
        while True:
            try:
                return self._attempt(job)
            except DamagedDocument as damage:
                self._mend(damage, mended)

    def _mend(self, damage: DamagedDocument, mended: set[str]) -> None:
        """Mend a document, once for each job that it stops."""
        mend = self.mend
        if mend is None or damage.document in mended:
            raise damage
        mended.add(damage.document)
        # What is in memory is made to agree after it: that may meet the same document.
        self._in_doubt = False
        try:
            self._attempt(lambda connection: mend(connection, damage))
        finally:
            self._in_doubt = True

    def _attempt(self, job: Callable[[Connection], T]) -> T:
        connection = self._writer
        try:
            connection.execute("BEGIN IMMEDIATE")
            if self._in_doubt:
                self.recall(connection)
                self._in_doubt = False
            result = job(connection)
            connection.execute("COMMIT")
        except Refusal:
            self._roll_back()
            raise
        except (apsw.BusyError, apsw.LockedError):
            self._give_up()
            raise StorageLocked(
                f"another program has held a lock on the database in {self.state_dir} for "
                f"{BUSY_MS // 1000} s: end that program; the hub then goes on by itself"
            ) from None
        except (apsw.FullError, apsw.IOError, apsw.CantOpenError) as error:
            self._give_up()
            raise StorageFull(
                f"the database in {self.state_dir} cannot be written ({error}): "
                "make room on that disk; the hub then goes on by itself"
            ) from None
        except BaseException:  # raised again; no transaction may stay open, whoever broke it off
            self._give_up()
            raise
        return result

    def _give_up(self) -> None:
        """Undo a transaction that may have left its traces in memory."""
        self._in_doubt = True
        self._roll_back()

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _peruse(self, job: Callable[[Connection], T]) -> T:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            connection.set_busy_timeout(BUSY_MS)
            self._local.connection = connection
            self._readers.append(connection)
        connection.execute("BEGIN")
        try:
            return job(connection)
        finally:
            connection.execute("ROLLBACK")


def open_database(state_dir: Path) -> Database:
    """Return the database in `state_dir`, made if there is none, checked and of today's schema.

    Raises:
        StateDirUnusable: The folder or the file cannot be made or written.
        AnotherHub: Another process has it open.
        NewerDatabase: A newer program wrote it; it is as it was.
        DamagedDatabase: It is not what a hub wrote; it is as it was.
    """
    lock = _lock(state_dir)
    path = state_dir / DATABASE_FILE
    connection: Connection | None = None
    try:
        connection = apsw.Connection(str(path))
        _prepare(connection, path)
        return Database(state_dir, lock, connection)
    except BaseException as error:  # raised again; the lock and the file must be let go
        if connection is not None:
            connection.close()
        os.close(lock)
        if isinstance(error, apsw.NotADBError | apsw.CorruptError):
            raise DamagedDatabase(f"{path} is damaged ({error}): {_AFTER_DAMAGE}") from None
        if isinstance(error, apsw.Error):
            raise StateDirUnusable(f"{path} cannot be opened: {error}") from None
        raise


_AFTER_DAMAGE = (
    "move it away and put the last backup in its place; devices send again what it lacks"
)


def _lock(state_dir: Path) -> int:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateDirUnusable(
            f"the state directory {state_dir} cannot be used ({error.strerror}): "
            "give this user the right to write there, or set state_dir to another folder"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        who = f" (process {holder})" if holder.isdigit() else ""
        raise AnotherHub(
            f"another hub{who} runs on {state_dir}: stop it, or give this one another state_dir"
        ) from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except OSError:
        # A full disk: the lock holds all the same, only the name of its holder is missing.
        logger.debug("the lock on %s does not name this process", state_dir)
    return lock


def _prepare(connection: Connection, path: Path) -> None:
    connection.set_busy_timeout(BUSY_MS)
    version = _number(connection, "PRAGMA user_version")
    application = _number(connection, "PRAGMA application_id")
    is_new = version == 0 and not _number(connection, "SELECT count(*) FROM sqlite_schema")
    if not is_new and application != APPLICATION_ID:
        raise DamagedDatabase(
            f"{path} is the database of another program: set state_dir to another folder"
        )
    if version > SCHEMA_VERSION:
        raise NewerDatabase(
            f"{path} was written by a newer hub (schema {version}, this program knows up to "
            f"{SCHEMA_VERSION}): install that version again, or put back a backup from before it"
        )
    verdict = str(next(connection.execute("PRAGMA quick_check(1)"))[0])
    if verdict != "ok":
        raise DamagedDatabase(f"{path} is damaged ({verdict.splitlines()[-1]}): {_AFTER_DAMAGE}")
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        f"wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}",
        f"journal_size_limit = {WAL_KEPT_BYTES}",
        f"cache_size = -{PAGE_CACHE_KIB}",
        "mmap_size = 0",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    _migrate(connection, version)


def _migrate(connection: Connection, version: int) -> None:
    """Bring the schema up to date in one transaction, or leave it as it was."""
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(version + 1, SCHEMA_VERSION + 1):
            connection.execute(schema_text(f"{number:04}.sql"))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:  # raised again; a half-made schema must not stay
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def schema_text(name: str) -> str:
    """Return a file of SQL that comes with this package."""
    return resources.files("hub.store").joinpath("schema", name).read_text()


def _number(connection: Connection, query: str) -> int:
    row: tuple[Any, ...] = next(connection.execute(query))
    return int(row[0])


def load_number(connection: Connection, name: str, default: int = 0) -> int:
    """Return a number of the hub's own, such as its start counter."""
    rows: Iterable[Any] = connection.execute("SELECT value FROM meta WHERE name = ?", (name,))
    return next((value for (value,) in rows), default)


def save_number(connection: Connection, name: str, value: int) -> None:
    """Keep a number of the hub's own."""
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )
