"""Taking a file from a stick, or from another folder that may have it.

Owns nothing: what is there stays as it is, and is compared with its digest like everything else.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from agent.plain import open_plain
from agent.taking import CHUNK_BYTES


def copy_from_media(
    folders: Iterable[Path],
    sha256: str,
    length_bytes: int,
    part: Path,
    wrong: set[tuple[str, ...]],
) -> None:
    """Copy a file from a folder that has it, right to the last byte, to `part`.

    Nothing is written before the medium's own copy was read and found right: a wrong one would
    wear the card at every attempt.

    Args:
        folders: Where to look.
        sha256: The file's digest, and its name there.
        length_bytes: How long it is.
        part: Where it goes.
        wrong: Files that were found wrong, and are not read again until they change; kept here.

    Raises:
        OSError: The disk is full or fails.
    """
    for folder in folders:
        descriptor = open_plain(folder / sha256)
        if descriptor is None:
            continue  # not there, or no medium is
        with os.fdopen(descriptor, "rb") as source:
            found = os.fstat(descriptor)
            known = (str(folder), sha256, str(found.st_mtime_ns), str(found.st_ino))
            if known in wrong or found.st_size != length_bytes:
                continue
            if _digest(source) != sha256:
                wrong.add(known)
                continue
            source.seek(0)
            _copy(source, part, length_bytes)
        return


def _copy(source: BinaryIO, part: Path, length_bytes: int) -> None:
    """Put the whole file into the place of the part that is here."""
    if shutil.disk_usage(part.parent).free < length_bytes:
        part.unlink(missing_ok=True)  # what it holds comes with the rest
    copied = part.with_suffix(".copy")
    try:
        with copied.open("wb") as file:
            while chunk := _read_medium(source):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        copied.replace(part)  # compared with its digest once more, as everything is
    finally:
        copied.unlink(missing_ok=True)


def _digest(source: BinaryIO) -> str:
    hashed = hashlib.sha256()
    while chunk := _read_medium(source):
        hashed.update(chunk)
    return hashed.hexdigest()


def _read_medium(source: BinaryIO) -> bytes:
    """Read; a medium that was pulled out has no more bytes."""
    try:
        return source.read(16 * CHUNK_BYTES)
    except OSError:
        return b""
