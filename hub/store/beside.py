"""A transaction in the database of a hub that may be running, from another process.

Owns how that is done without disturbing the hub: one short transaction, no checkpoint, no change of
the schema. For the little that must be possible without asking the hub.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from hub.errors import DamagedDatabase, NewerDatabase, StateDirUnusable
from hub.store.database import (
    APPLICATION_ID,
    BUSY_MS,
    DATABASE_FILE,
    SCHEMA_VERSION,
    Connection,
)

T = TypeVar("T")


def transact_beside(state_dir: Path, job: Callable[[Connection], T]) -> T:
    """Run `job` in a transaction and return its result, durably.

    Raises:
        StateDirUnusable: There is no database, or it cannot be written.
        NewerDatabase: A newer program wrote it; it is as it was.
        DamagedDatabase: It is not what a hub wrote; it is as it was.
    """
    path = state_dir / DATABASE_FILE
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.CantOpenError:
        raise StateDirUnusable(
            f"there is no database in {state_dir} that this user may write: name the state_dir of "
            "a hub that was started before, and be the user who runs it"
        ) from None
    try:
        connection.set_busy_timeout(BUSY_MS)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        _check(connection, path)
        result = job(connection)
        connection.execute("COMMIT")
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise DamagedDatabase(f"{path} is damaged ({error})") from None
    except apsw.Error as error:
        raise StateDirUnusable(f"{path} cannot be written: {error}") from None
    finally:
        # What was not committed is undone.
        connection.close()
    return result


def _check(connection: Connection, path: Path) -> None:
    (application,) = next(connection.execute("PRAGMA application_id"))
    (version,) = next(connection.execute("PRAGMA user_version"))
    if application != APPLICATION_ID:
        raise DamagedDatabase(f"{path} is not the database of a hub")
    if version > SCHEMA_VERSION:
        raise NewerDatabase(f"{path} was written by a newer hub: use that version's program")
    if version < SCHEMA_VERSION:
        raise StateDirUnusable(f"{path} is of an older hub: start this version's hub on it first")
