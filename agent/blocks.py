"""Digests of the blocks of a file: which bytes of a download are right before all of them are here.

Owns the list of a file's blocks and the checking of bytes against it. Never fetches anything.

The list is not signed and need not be: the whole file is compared with its own digest in the end. A
wrong list costs time, and after the second complaint about the same block it is no longer believed.

Format: the SHA-256 of each 256 KiB of the file, the last one shorter, one after the other.
"""

import hashlib
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 256 * 1024
DIGEST_BYTES: Final = 32

WORTH_BYTES: Final = 4 * BLOCK_BYTES
"""A shorter file is fetched again as a whole sooner than its list is asked for."""

_CHUNK_BYTES: Final = 64 * 1024


class WrongBlock(Exception):
    """A block that came is not what it should be."""

    def __init__(self, start: int) -> None:
        """`start`: where it begins; what lies before is right."""
        super().__init__(f"the block at byte {start} is not what was announced")
        self.start = start


class Blocks:
    """The list of one file."""

    def __init__(self, digests: bytes, length_bytes: int) -> None:
        """Read `digests`, the list of a file of `length_bytes`.

        Raises:
            ValueError: It is the list of a file of another length.
        """
        if len(digests) != list_bytes(length_bytes):
            raise ValueError(f"the list of blocks has {len(digests)} bytes")
        self._digests = digests
        self._length_bytes = length_bytes

    def digest(self, number: int) -> bytes:
        """Return the digest of a block."""
        return self._digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]

    def good_bytes(self, path: Path) -> int:
        """Return how long the beginning of a file is in which nothing is known to be wrong.

        A block that is not whole cannot be judged, and is taken for good until it is.
        """
        with path.open("rb") as file:
            watch = Watch(self, 0)
            try:
                while chunk := file.read(_CHUNK_BYTES):
                    watch.see(chunk)
            except WrongBlock as wrong:
                return wrong.start
        return watch.position

    def whole_bytes(self, number: int) -> int:
        """Return how long a block is."""
        return min(BLOCK_BYTES, self._length_bytes - number * BLOCK_BYTES)


class Watch:
    """Looks at bytes as they come, from the start of a block on."""

    def __init__(self, blocks: Blocks, number: int) -> None:
        """Begin with block `number`."""
        self._blocks = blocks
        self._number = number
        self._hashed = hashlib.sha256()
        self._seen_bytes = 0

    @property
    def position(self) -> int:
        """Return how far it has looked."""
        return self._number * BLOCK_BYTES + self._seen_bytes

    def see(self, chunk: bytes) -> None:
        """Look at the next bytes.

        Raises:
            WrongBlock: A block is complete, and wrong.
        """
        rest = memoryview(chunk)
        while rest:
            whole_bytes = self._blocks.whole_bytes(self._number)
            if whole_bytes <= 0:
                return  # beyond the end, which is somebody else's to refuse
            part = rest[: whole_bytes - self._seen_bytes]
            self._hashed.update(part)
            self._seen_bytes += len(part)
            rest = rest[len(part) :]
            if self._seen_bytes == whole_bytes:
                if self._hashed.digest() != self._blocks.digest(self._number):
                    raise WrongBlock(self._number * BLOCK_BYTES)
                self._number += 1
                self._seen_bytes = 0
                self._hashed = hashlib.sha256()


def list_bytes(length_bytes: int) -> int:
    """Return how long the list of a file is."""
    return -(-length_bytes // BLOCK_BYTES) * DIGEST_BYTES


def resumed(blocks: Blocks, path: Path) -> Watch:
    """Return a watch over what comes behind the file at `path`, which is right as far as it goes.

    Raises:
        WrongBlock: Its last block is not.
    """
    length_bytes = path.stat().st_size
    watch = Watch(blocks, length_bytes // BLOCK_BYTES)
    with path.open("rb") as file:
        file.seek(watch.position)
        while chunk := file.read(_CHUNK_BYTES):
            watch.see(chunk)
    return watch
