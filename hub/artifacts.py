"""The folder of artifacts: immutable files, each under the SHA-256 of its content.

Owns `blobs/sha256/<first two digits>/<digest>` in the state directory, and the half files beside
it. Never knows what an artifact is for; manifests are among them.

Rule: what is there under its digest is complete, is what the digest says, and is durable. Anything
else has another name and is removed, at the latest when the hub starts again.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from hub.errors import StateDirUnusable, StorageFull, TooLarge, WrongContent
from sync.manifest import DIGEST_PATTERN

FOLDER: Final = Path("blobs") / "sha256"
PARTS: Final = Path("blobs") / "incoming"

BLOCKS: Final = Path("blobs") / "blocks"

BLOCK_BYTES: Final = 256 * 1024
"""Devices count on it; never change it."""

WRITE_BYTES: Final = 1024 * 1024
"""Gathered before a thread writes and hashes them; each hand-over costs some 50 microseconds."""

READ_BYTES: Final = 256 * 1024

_DIGEST: Final = re.compile(DIGEST_PATTERN)


class Artifacts:
    """The folder below one state directory."""

    def __init__(self, state_dir: Path, *, blob_max_bytes: int) -> None:
        """Make the folder, and remove what an earlier run left half written.

        Raises:
            StateDirUnusable: It cannot be made or written.
        """
        self._folder = state_dir / FOLDER
        self._parts = state_dir / PARTS
        self._blocks = state_dir / BLOCKS
        self._blocks_lock = asyncio.Lock()
        self._blob_max_bytes = blob_max_bytes
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._parts.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._blocks.mkdir(mode=0o755, parents=True, exist_ok=True)
            for part in self._parts.iterdir():
                part.unlink()
        except OSError as error:
            raise StateDirUnusable(
                f"the folder of artifacts {self._folder} cannot be used: {error.strerror}"
            ) from None

    def path(self, digest: str) -> Path:
        """Return where the artifact with this digest (64 hex digits) is, or would be."""
        return self._folder / digest[:2] / digest

    def length_bytes(self, digest: str) -> int | None:
        """Return the length of an artifact, None if it is not there."""
        if not is_digest(digest):
            return None
        try:
            return self.path(digest).stat().st_size
        except OSError:
            return None

    async def receive(self, digest: str, chunks: AsyncIterator[bytes]) -> bool:
        """Take in an artifact; True if it is new, False if it was there.

        Raises:
            WrongContent: The content has another digest; nothing of it stays.
            TooLarge: It is longer than an artifact may be; nothing of it stays.
            StorageFull: The disk is full; nothing of it stays.
        """
        part = self._parts / secrets.token_hex(16)
        hashed = hashlib.sha256()
        try:
            with full_disk_named(self._folder):
                # Closing writes too, so it belongs inside.
                with await asyncio.to_thread(part.open, "xb") as file:
                    await self._fill(file, hashed, chunks)
                if hashed.hexdigest() != digest:
                    raise WrongContent(
                        f"what was sent has the SHA-256 {hashed.hexdigest()}, not {digest}: "
                        "the transfer was damaged, or the address is that of another file"
                    )
                return await asyncio.to_thread(self._place, part, digest)
        finally:
            # Also on cancellation, which is how a broken connection ends this.
            part.unlink(missing_ok=True)

    async def keep(self, content: bytes) -> str:
        """Take in something small that is in memory; return its digest."""
        digest = hashlib.sha256(content).hexdigest()

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        if self.length_bytes(digest) is None:
            await self.receive(digest, chunks())
        return digest

    async def read(self, digest: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Give the bytes from `start` up to `stop` of an artifact that is there."""
        file = await asyncio.to_thread(self.path(digest).open, "rb")
        with file:
            file.seek(start)
            left_bytes = stop - start
            while left_bytes:
                chunk = await asyncio.to_thread(file.read, min(READ_BYTES, left_bytes))
                if not chunk:
                    return
                left_bytes -= len(chunk)
                yield chunk

    async def blocks(self, digest: str) -> bytes:
        """Return the SHA-256 of each block of an artifact that is here, one after the other.

        Worked out once, at some 500 MB a second, and kept.
        """
        kept = self._blocks / digest
        # One at a time: a fleet asks for the same list at once.
        async with self._blocks_lock:
            try:
                return await asyncio.to_thread(kept.read_bytes)
            except FileNotFoundError:
                found = await asyncio.to_thread(_blocks_of, self.path(digest))
            with contextlib.suppress(OSError):  # it can be worked out again
                await asyncio.to_thread(self.keep_blocks, digest, found)
        return found

    def kept_blocks(self, digest: str) -> bytes | None:
        """Return the same if it was worked out before, None if not."""
        try:
            return (self._blocks / digest).read_bytes()
        except FileNotFoundError:
            return None

    def keep_blocks(self, digest: str, blocks: bytes) -> None:
        """Keep the digests of the blocks of an artifact, durably."""
        write_durably(self._blocks / digest, blocks)

    def every(self) -> list[tuple[str, Path]]:
        """Return all artifacts with where they are, those that came first before the others."""
        found = [path for path in self._folder.glob("??/*") if is_digest(path.name)]
        return [(path.name, path) for path in sorted(found, key=_came_at)]

    @contextlib.asynccontextmanager
    async def on_disk(self, digest: str) -> AsyncIterator[Path]:
        """Give an artifact that is here as a file."""
        yield self.path(digest)

    async def link(self, digest: str) -> str | None:  # noqa: ARG002 - as every store
        """Return None: what is in a folder is fetched from the hub."""
        return None

    def counters(self) -> Mapping[str, int]:
        """Return nothing: a folder has nothing to tell."""
        return {}

    async def run(self) -> None:
        """Return at once: a folder needs no tending."""

    async def remove(self, digest: str) -> None:
        """Remove an artifact that can be made again. Whoever is fetching it gets it to its end."""
        self.path(digest).unlink(missing_ok=True)
        (self._blocks / digest).unlink(missing_ok=True)

    async def _fill(
        self, file: IO[bytes], hashed: "hashlib._Hash", chunks: AsyncIterator[bytes]
    ) -> None:
        waiting: list[bytes] = []
        waiting_bytes = total_bytes = 0

        def write() -> None:
            for chunk in waiting:
                hashed.update(chunk)
                file.write(chunk)

        async for chunk in chunks:
            total_bytes += len(chunk)
            if total_bytes > self._blob_max_bytes:
                raise TooLarge(
                    f"an artifact has at most {self._blob_max_bytes} bytes (setting blob_max_bytes)"
                )
            waiting.append(chunk)
            waiting_bytes += len(chunk)
            if waiting_bytes >= WRITE_BYTES:
                await asyncio.to_thread(write)
                waiting.clear()
                waiting_bytes = 0
        await asyncio.to_thread(write)
        await asyncio.to_thread(_flush, file)

    def _place(self, part: Path, digest: str) -> bool:
        target = self.path(digest)
        if target.exists():
            return False
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o755, exist_ok=True)
            _flush_folder(self._folder)
        part.chmod(0o444)
        part.rename(target)
        _flush_folder(target.parent)
        return True


def is_digest(text: str) -> bool:
    """Tell whether `text` is a SHA-256 in 64 lower-case hex digits."""
    return _DIGEST.match(text) is not None


async def in_blocks(windows: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give what comes in blocks; only the last one may be shorter."""
    held = b""
    async for window in windows:
        held += window
        whole_bytes = len(held) // BLOCK_BYTES * BLOCK_BYTES
        for start in range(0, whole_bytes, BLOCK_BYTES):
            yield held[start : start + BLOCK_BYTES]
        held = held[whole_bytes:]
    if held:
        yield held


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _blocks_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return b"".join(
            hashlib.sha256(block).digest() for block in iter(lambda: file.read(BLOCK_BYTES), b"")
        )


def _came_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # removed at this moment
        return 0.0


def write_durably(path: Path, content: bytes) -> None:
    """Put a small file there at once, so that a power cut leaves all of it or nothing."""
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with scratch.open("wb") as file:
        file.write(content)
        _flush(file)
    scratch.replace(path)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn a full or failing disk into `StorageFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}:
            raise StorageFull(
                f"the artifact could not be written to {folder} ({error.strerror}): "
                "make room there and send it again; nothing of it was kept"
            ) from None
        raise
