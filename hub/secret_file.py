"""Files that hold one secret, for the eyes of their owner alone.

Owns how they are written and read. Never knows what the secret is good for.
"""

import os
import stat
from pathlib import Path
from typing import Final

READ_MAX_BYTES: Final = 4096

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class SeenByOthers(Exception):
    """Others than the owner may read the file. It was not read."""


def write_secret(file: Path, text: str) -> None:
    """Put a secret into a file that only its owner may read; what was there is replaced.

    Raises:
        OSError: It cannot be; what was there is as it was.
    """
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    # O_EXCL follows no link, and the mode is that of a new file.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(f"{text}\n")
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_secret(file: Path) -> str:
    """Return the secret in a file, without the blanks around it.

    Raises:
        SeenByOthers: Others may read it.
        OSError: It cannot be read.
    """
    with file.open("rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode
        # A pipe, as shells make for <(...), has no others.
        if stat.S_ISREG(mode) and mode & OTHERS:
            raise SeenByOthers(f"others may read {file}")
        return opened.read(READ_MAX_BYTES).decode("latin-1").strip()
