"""What the faults of a disk mean: full, damaged, or something else.

Owns reading error codes. Never mends anything.
"""

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from firmware_hooks.contract import InstallerError
from sync.stages import Reason

START_BYTES: Final = 128 * 1024
"""What SQLite's companion files take before anything is written."""


def is_full(error: sqlite3.Error) -> bool:
    """Tell whether a write failed for want of room."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
        return True
    return os.strerror(errno.ENOSPC) in str(error)


def has_no_room(folder: Path, error: sqlite3.Error) -> bool:
    """Tell a full disk where SQLite speaks of input and output: it could not make a file longer."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return False
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < START_BYTES or (disk.f_files > 0 and not disk.f_favail)


def is_damage(error: sqlite3.OperationalError) -> bool:
    """Tell whether the file is no database, or not a whole one."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def failure_of(error: OSError) -> InstallerError:
    """Return what a failing disk means for an install."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = Reason.NO_SPACE if full else Reason.INTERNAL
    return InstallerError(reason, f"{error.strerror}: {error.filename}"[:200])


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception in a group that is no group itself."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
