"""Files that this device keeps for its neighbours: artifacts, manifests and packs that it has used.

Owns the folder `shared` in the state folder: files named by their SHA-256, as they were verified
when they arrived, the longest unused going first when they take too much. Never fetches anything,
and never says what it has: whoever asks must know a file's digest.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Final

FOLDER: Final = "shared"

BLOCK_BYTES: Final = 512
"""Unit of `st_blocks`."""

_NAME: Final = re.compile(r"[0-9a-f]{64}")


class Shared:
    """What is kept in one folder, within a bound."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        """Keep at most `bytes_max` in `folder`; 0 keeps nothing."""
        self._folder = folder
        self._bytes_max = bytes_max

    def take(self, downloads: Path) -> None:
        """Move the complete files in `downloads` here, as far as there is room for them.

        A file that is longer than all that may be kept stays where it is.

        Raises:
            OSError: The disk fails; every file is still in one of the two folders, or was dropped.
        """
        if self._bytes_max and downloads.is_dir():
            for path in downloads.iterdir():
                if _NAME.fullmatch(path.name) and path.stat().st_size <= self._bytes_max:
                    self._folder.mkdir(exist_ok=True)
                    path.replace(self._folder / path.name)
        self._fit()

    def open(self, sha256: str) -> int | None:
        """Open the file with this digest for reading and return its descriptor; None without one.

        What is asked for was used, and stays longest.
        """
        if not _NAME.fullmatch(sha256):
            return None
        path = self._folder / sha256
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return descriptor

    def make_room(self, bytes_count: int) -> None:
        """Drop what was longest unused until so many bytes more are free, or nothing is left.

        A release that this device needs comes before what its neighbours might ask for.

        Raises:
            OSError: The disk fails.
        """
        for known, path in self._oldest_first():
            if bytes_count <= 0:
                return
            path.unlink(missing_ok=True)
            bytes_count -= known.st_blocks * BLOCK_BYTES

    def _fit(self) -> None:
        found = self._oldest_first()
        total_bytes = sum(known.st_size for known, _ in found)
        for known, path in found:
            if total_bytes <= self._bytes_max:
                return
            path.unlink(missing_ok=True)
            total_bytes -= known.st_size

    def _oldest_first(self) -> list[tuple[os.stat_result, Path]]:
        if not self._folder.is_dir():
            return []
        found = [(path.stat(), path) for path in self._folder.iterdir()]
        return sorted(found, key=lambda each: each[0].st_mtime_ns)
