"""Uploads that can break off: pieces gather in a file until the artifact is whole.

Owns `blobs/uploads/<digest>` in the state directory. What is whole goes through `hub.artifacts`,
which checks it against its name like any other.

Format: headers of draft-ietf-httpbis-resumable-upload, `Upload-Offset` and `Upload-Length`.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from hub.artifact_store import ArtifactStore
from hub.artifacts import full_disk_named, is_digest
from hub.errors import Clash, Refusal, TooLarge, WrongContent

FOLDER: Final = Path("blobs") / "uploads"

KEPT_S: Final = 7 * 86_400
"""How long a piece is kept for the rest to follow; looked at when the hub starts."""

UPLOADS_MAX_COUNT: Final = 100

READ_BYTES: Final = 1024 * 1024


class Uploads:
    """Uploads under way in one state directory."""

    def __init__(self, state_dir: Path, artifacts: ArtifactStore, *, blob_max_bytes: int) -> None:
        """Remove what was left lying too long.

        Raises:
            OSError: The folder cannot be made or read.
        """
        self._folder = state_dir / FOLDER
        self._artifacts = artifacts
        self._blob_max_bytes = blob_max_bytes
        self._busy: set[str] = set()
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for part in self._folder.iterdir():
            if part.stat().st_mtime < time.time() - KEPT_S:
                part.unlink()

    def offset(self, digest: str) -> int:
        """Return how many bytes are here; all of them if the artifact is complete.

        Raises:
            Refusal: It is no digest.
        """
        if not is_digest(digest):
            raise Refusal("an artifact is named by its SHA-256: 64 hex digits in lower case")
        complete = self._artifacts.length_bytes(digest)
        if complete is not None:
            return complete
        try:
            return (self._folder / digest).stat().st_size
        except OSError:
            return 0

    async def append(
        self, digest: str, offset: int, length_bytes: int, chunks: AsyncIterator[bytes]
    ) -> int:
        """Take the next piece and return how many bytes are here; what breaks off keeps its begin.

        Args:
            digest: Name of the artifact.
            offset: Where the piece begins.
            length_bytes: Length of the whole artifact.
            chunks: The piece.

        Raises:
            Clash: The piece begins elsewhere than the last one ended; says where that is.
            TooLarge: It is longer than announced, or than an artifact may be.
            WrongContent: It is whole now and is another one; nothing of it stays.
            StorageFull: The disk is full.
        """
        here = self.offset(digest)
        if self._artifacts.length_bytes(digest) is not None:
            return here
        if not 0 < length_bytes <= self._blob_max_bytes:
            raise TooLarge(f"an artifact has 1 to {self._blob_max_bytes} bytes")
        if offset != here or digest in self._busy:
            raise Clash(f"{here} bytes of it are here, so the next piece begins there")
        if not here and sum(1 for _ in self._folder.iterdir()) >= UPLOADS_MAX_COUNT:
            raise Clash(f"{UPLOADS_MAX_COUNT} uploads are under way: finish them first")
        self._busy.add(digest)
        try:
            with full_disk_named(self._folder):
                await self._fill(self._folder / digest, here, length_bytes, chunks)
            if self.offset(digest) == length_bytes:
                await self._finish(digest)
        finally:
            self._busy.discard(digest)
        return self.offset(digest)

    async def _fill(
        self, part: Path, here: int, length_bytes: int, chunks: AsyncIterator[bytes]
    ) -> None:
        with await asyncio.to_thread(part.open, "ab") as file:
            try:
                async for chunk in chunks:
                    here += len(chunk)
                    if here > length_bytes:
                        raise TooLarge(
                            f"the piece goes on after the announced {length_bytes} bytes"
                        )
                    await asyncio.to_thread(file.write, chunk)
            finally:
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())

    async def _finish(self, digest: str) -> None:
        part = self._folder / digest

        async def content() -> AsyncIterator[bytes]:
            with await asyncio.to_thread(part.open, "rb") as file:
                while chunk := await asyncio.to_thread(file.read, READ_BYTES):
                    yield chunk

        try:
            await self._artifacts.receive(digest, content())
        except WrongContent:
            part.unlink(missing_ok=True)
            raise
        part.unlink(missing_ok=True)
