"""Content-defined chunks: where a large file is cut so that an insertion moves few of the cuts.

Owns the cutting. Pure.

Source: Xia and others, "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data
Deduplication", USENIX ATC 2016: a gear hash, no cut before a least length, and a mask that is
stricter before the usual length than after it.
"""

import hashlib
import mmap
from collections.abc import Iterator
from typing import Final

CHUNK_BYTES: Final = 64 * 1024
CHUNK_BYTES_MIN: Final = CHUNK_BYTES // 2
"""The paper takes a quarter. Bytes before it cost nothing, and this is an interpreter: half makes
it half again as fast, for chunks of more even length."""
CHUNK_BYTES_MAX: Final = CHUNK_BYTES * 4

_BITS: Final = 16
_HASH: Final = 2**32 - 1


def _gear() -> tuple[int, ...]:
    # Any fixed numbers that look random; these can be made again by anybody.
    return tuple(
        int.from_bytes(hashlib.sha256(b"gear %d" % byte).digest()[:4], "big") for byte in range(256)
    )


_GEAR: Final = _gear()
# The upper bits of a gear hash depend on the most bytes before.
_STRICT: Final = ((1 << (_BITS + 2)) - 1) << (32 - _BITS - 2)
_LOOSE: Final = ((1 << (_BITS - 2)) - 1) << (32 - _BITS + 2)


def cuts(content: bytes | mmap.mmap) -> Iterator[tuple[int, int]]:
    """Give start and end of each chunk of `content`, in order."""
    start = 0
    while start < len(content):
        end = _cut(content, start)
        yield start, end
        start = end


def _cut(content: bytes | mmap.mmap, start: int) -> int:
    end = min(len(content), start + CHUNK_BYTES_MAX)
    usual = min(end, start + CHUNK_BYTES)
    position = min(end, start + CHUNK_BYTES_MIN)
    gear, rolled = _GEAR, 0
    for stop, mask in ((usual, _STRICT), (end, _LOOSE)):
        for byte in content[position:stop]:
            rolled = ((rolled << 1) + gear[byte]) & _HASH
            position += 1
            if not rolled & mask:
                return position
    return end
