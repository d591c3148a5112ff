"""Taking a file from a stick, or from another folder that may have it.

Owns nothing: what is there stays as it is, and is compared with its digest like everything else.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from agent.taking import CHUNK_BYTES


def copy_from_media(folders: Iterable[Path], sha256: str, length_bytes: int, part: Path) -> None:
    """Copy a file from a folder that has it, right to the last byte, to `part`.

    Raises:
        OSError: The disk is full or fails.
    """
    for folder in folders:
        hashed = hashlib.sha256()
        copied = part.with_suffix(".copy")
        try:
            source = (folder / sha256).open("rb")
        except OSError:
            continue  # not there, or no medium is
        with source, copied.open("wb") as file:
            left_bytes = length_bytes
            while chunk := _read_medium(source, min(CHUNK_BYTES * 16, left_bytes)):
                hashed.update(chunk)
                file.write(chunk)
                left_bytes -= len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if hashed.hexdigest() == sha256:
            copied.replace(part)
            return
        copied.unlink()


def _read_medium(source: BinaryIO, count: int) -> bytes:
    """Read; a medium that was pulled out has no more bytes."""
    try:
        return source.read(count)
    except OSError:
        return b""
