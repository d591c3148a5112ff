"""State vectors: what a replica has seen, as the next clock of every client id.

Owns their comparison and their canonical bytes.
Never keeps a client whose clock is zero, so equal knowledge is equal mappings and equal bytes.

Format: a count, then pairs of client id and clock, as in Yjs state vectors; ours are sorted by
client id, descending, because engines write them in hash order and bytes are then not comparable.
"""

import hashlib
from collections.abc import Mapping

from sync.lib0 import Malformed, Reader, write_uint

Vector = Mapping[int, int]
"""Client id to next clock. Treat as immutable."""

VECTOR_CLIENTS_MAX = 256
"""Writers reset the epoch at 64 ids; four times that is far outside honest use."""


def encode_vector(vector: Vector) -> bytes:
    """Return the canonical bytes of `vector`."""
    out = bytearray()
    write_uint(out, len(vector))
    for client in sorted(vector, reverse=True):
        write_uint(out, client)
        write_uint(out, vector[client])
    return bytes(out)


def decode_vector(encoded: bytes) -> dict[int, int]:
    """Return the vector in `encoded`, whatever order its pairs are in.

    Raises:
        Malformed: Cut off, trailing bytes, a client twice, or more than `VECTOR_CLIENTS_MAX`.
    """
    reader = Reader(encoded)
    count = reader.uint()
    if count > VECTOR_CLIENTS_MAX:
        raise Malformed(f"state vector names {count} clients, at most {VECTOR_CLIENTS_MAX} allowed")
    vector: dict[int, int] = {}
    for _ in range(count):
        client = reader.uint()
        vector[client] = reader.uint()
    if len(vector) != count:
        raise Malformed("state vector names a client twice")
    if not reader.at_end():
        raise Malformed("bytes after the state vector")
    return vector if all(vector.values()) else {at: clock for at, clock in vector.items() if clock}


def covers(vector: Vector, other: Vector) -> bool:
    """Tell whether everything seen in `other` is seen in `vector` too."""
    return all(vector.get(client, 0) >= clock for client, clock in other.items())


TAG_BYTES = 4


def tag_of(vector: Vector) -> bytes:
    """Return four bytes that tell this vector from another with one chance in 2**32 of error."""
    return hashlib.blake2s(encode_vector(vector), digest_size=TAG_BYTES).digest()
