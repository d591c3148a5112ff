"""Metadata that this device believes, on its disk.

Owns the folder `trust` in the state folder: for each pinned root a folder of its own, so that
pinning another root begins anew. Never judges what it holds.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from firmware_hooks.durable import write_durably

FOLDER: Final = "trust"
IMPORTED: Final = "imported"
"""Folder in the state folder with files that were carried here."""

LOCK: Final = "lock"
KEPT_BYTES_MAX: Final = 4 * 1024 * 1024


class Shelf:
    """The folder of one pinned root."""

    def __init__(self, state_dir: Path, pinned: bytes) -> None:
        self._trust = state_dir / FOLDER
        self._folder = self._trust / hashlib.sha256(pinned).hexdigest()[:16]

    def load(self, role: str) -> bytes | None:
        """Return what is stored of a role; None if nothing is, or it cannot be read."""
        try:
            with self._path(role).open("rb") as file:
                return file.read(KEPT_BYTES_MAX)
        except OSError:
            return None

    def save(self, role: str, content: bytes) -> None:
        """Store the metadata of a role durably.

        Raises:
            OSError: The disk is full or fails; what was stored before still is.
        """
        write_durably(self._path(role), content)

    def drop(self, role: str) -> None:
        """Forget the metadata of a role."""
        self._path(role).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep out every other process that would change what is stored; wait for it first."""
        self._trust.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._trust / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _path(self, role: str) -> Path:
        return self._folder / f"{role}.json"
