"""A pack: what turns one tree into another, as bytes that nobody has to trust.

Owns the format, its bounds and the reading of it. Never writes a file and never looks at a tree:
`firmware_hooks.unpack` does that, in a process of its own.

A pack needs no signature. Everything that it makes is checked against the list of the tree
(`firmware_hooks.tree`), whose digest the signed manifest of the release names.

Format: docs/reference/pack-format.md. Frames are those of RFC 8878 (Zstandard), with the content
of an older file as prefix, as `zstd --patch-from` makes and reads them.
"""

import hashlib
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Final, NamedTuple, overload

from firmware_hooks.frames import zstd
from firmware_hooks.tree import FILE_BYTES_MAX, LIST_BYTES_MAX
from sync.lib0 import Malformed, Reader, write_uint

MAGIC: Final = b"FFPACK1\n"

INDEX_BYTES_MAX: Final = 4 * 1024 * 1024
PARTS_MAX: Final = 400_000

ROOM_BYTES: Final = 32 * 1024 * 1024
"""What lists, prefix and window may take while a part is made. With the interpreter's own 10 to
15 MB it keeps the whole under 64 MB (measured: `delta.apply_peak_mb`)."""

WINDOW_LOG_MAX: Final = 25
"""32 MiB: longest window that a frame may ask for."""

PREFIX_BYTES_MIN: Final = 8
"""A shorter prefix is none, for the library and for us."""

WORK_RATIO_MAX: Final = 4
WORK_BYTES_MIN: Final = 64 * 1024 * 1024
"""Bytes of prefixes that may be read in all: this many times what both trees hold, and so much
more. Without that bound a small pack could make a device read for days."""

CHUNK_BYTES: Final = 128 * 1024

_HEADER: Final = struct.Struct("<8s32s32sIIIIQ")


Bytes = bytes | bytearray


class BadPack(ValueError):
    """The bytes are no pack that may be applied; who made or carried them is to blame."""


class Header(NamedTuple):
    """What a pack begins with."""

    base: bytes
    """Digest of the list of the tree that it starts from."""
    target: bytes
    """Digest of the list of the tree that it leads to."""
    list_packed_bytes: int
    list_bytes: int
    index_packed_bytes: int
    index_bytes: int
    payload_bytes: int


class Part(NamedTuple):
    """A run of bytes of a file, and what it is made from."""

    base: int | None
    """Number of a file in the base's list, None for no prefix."""
    start: int
    """Where in that file."""
    prefix_bytes: int
    plain_bytes: int
    packed_bytes: int
    """Length of its frame in the payload; 0 if the bytes of the base are taken as they are."""


class Parts(Sequence[Part]):
    """Parts in a row, at 40 bytes each: as tuples, those of a hostile index took 104 MB."""

    def __init__(self) -> None:
        self._numbers = array("Q")

    def add(self, part: Part) -> None:
        """Put a part behind the others."""
        self._numbers.extend((0 if part.base is None else part.base + 1, *part[1:]))

    def __len__(self) -> int:
        return len(self._numbers) // _FIELDS

    @overload
    def __getitem__(self, place: int) -> Part: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Part]: ...
    def __getitem__(self, place: int | slice) -> Part | Sequence[Part]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        start = range(len(self))[place] * _FIELDS
        base, *numbers = self._numbers[start : start + _FIELDS]
        return Part(base - 1 if base else None, *numbers)


_FIELDS: Final = len(Part._fields)


class Change(NamedTuple):
    """A file of the target that is not the one of the same name in the base."""

    number: int
    """In the target's list."""
    parts: Sequence[Part]


def room_bytes(base_list_bytes: int, target_list_bytes: int) -> int:
    """Return what a part may take beside the two lists."""
    # Twice: the text, and the names of it while they are compared.
    return max(0, ROOM_BYTES - 2 * (base_list_bytes + target_list_bytes))


def part_bytes(prefix_bytes: int, plain_bytes: int) -> int:
    """Return what a part takes: the prefix is held twice while it is loaded, then the window."""
    return max(2 * prefix_bytes, prefix_bytes + plain_bytes)


def encode_header(header: Header) -> bytes:
    """Return the first bytes of a pack."""
    return _HEADER.pack(MAGIC, *header)


def encode_index(changes: Iterable[Change]) -> bytes:
    """Return the index of a pack, before it is compressed."""
    out = bytearray()
    before = -1
    for change in changes:
        write_uint(out, change.number - before)
        write_uint(out, len(change.parts))
        for part in change.parts:
            write_uint(out, 0 if part.base is None else part.base + 1)
            for number in part[1:]:
                write_uint(out, number)
        before = change.number
    write_uint(out, 0)
    return bytes(out)


def read_index(index: bytes) -> Iterator[Change]:
    """Give the changes of an index, one at a time.

    Raises:
        BadPack: It is cut off, or a number in it is out of bounds.
    """
    reader = Reader(index)
    number = -1
    parts_left = PARTS_MAX
    try:
        while gap := reader.uint():
            number += gap
            count = reader.uint()
            parts_left -= count
            if parts_left < 0 or count > len(index):
                raise BadPack(f"the pack has more than {PARTS_MAX} parts")
            parts = Parts()
            for _ in range(count):
                parts.add(_part(reader))
            yield Change(number, parts)
    except Malformed as error:
        raise BadPack(f"the index of the pack is damaged: {error}") from None
    if not reader.at_end():
        raise BadPack("the index of the pack goes on behind its end")


def _part(reader: Reader) -> Part:
    base, *numbers = (reader.uint() for _ in range(5))
    part = Part(base - 1 if base else None, *numbers)
    if max(numbers) > FILE_BYTES_MAX:
        raise BadPack("a part of the pack is larger than a file may be")
    if part.base is None and (part.start or part.prefix_bytes or not part.packed_bytes):
        raise BadPack("a part of the pack has a place in no file")
    if part.base is not None and not part.packed_bytes and part.prefix_bytes != part.plain_bytes:
        raise BadPack("a part of the pack copies more or less than it is long")
    return part


class Pack:
    """Reads a pack from front to back."""

    def __init__(self, file: IO[bytes], base_list: bytes, target: bytes) -> None:
        """Read the header of `file`.

        Args:
            file: A pack, at its beginning. It may be anything.
            base_list: List of the tree that is here.
            target: Digest of the list of the tree that is wanted.

        Raises:
            BadPack: It is no pack, or one between other trees.
        """
        self._file = file
        self._base_list = base_list
        begin = file.read(_HEADER.size)
        if len(begin) != _HEADER.size or not begin.startswith(MAGIC):
            raise BadPack("this is no pack, or one of a later format")
        self.header = header = Header._make(_HEADER.unpack(begin)[1:])
        if header.target != target:
            raise BadPack("the pack leads to another tree than the release names")
        if header.base != hashlib.sha256(base_list).digest():
            raise BadPack("the pack starts from another tree than the one that is here")
        if header.list_bytes > LIST_BYTES_MAX or header.index_bytes > INDEX_BYTES_MAX:
            raise BadPack("the list or the index of the pack is too long")
        announced = header.list_packed_bytes + header.index_packed_bytes + header.payload_bytes
        if os.fstat(file.fileno()).st_size != _HEADER.size + announced:
            raise BadPack("the pack is longer or shorter than it says")

    def read_list(self) -> bytes:
        """Return the list of the target; its digest is the one that is wanted.

        Raises:
            BadPack: It is not.
        """
        header = self.header
        text = self._small(lambda: self._base_list, header.list_packed_bytes, header.list_bytes)
        if hashlib.sha256(text).digest() != header.target:
            raise BadPack("the list in the pack is not the one that the release names")
        return text

    def read_changes(self) -> Iterator[Change]:
        """Give the changes, in the order of the target's list; call it after `read_list`.

        Raises:
            BadPack: The index is damaged.
        """
        header = self.header
        return read_index(self._small(bytes, header.index_packed_bytes, header.index_bytes))

    def read_part(
        self, part: Part, prefix: Callable[[], Bytes], write: Callable[[bytes], object]
    ) -> None:
        """Give the bytes of the next part of the payload to `write`; `prefix` reads its prefix.

        Raises:
            BadPack: The frame is damaged, or has another length than the index says.
        """
        unpack(self._file, part.packed_bytes, prefix, part.plain_bytes, write)

    def check_end(self) -> None:
        """Make sure that the whole payload was read.

        Raises:
            BadPack: Something is left.
        """
        if self._file.read(1):
            raise BadPack("the pack has bytes that belong to no file")

    def _small(self, prefix: Callable[[], Bytes], packed_bytes: int, plain_bytes: int) -> bytes:
        content = bytearray()
        unpack(self._file, packed_bytes, prefix, plain_bytes, content.extend)
        return bytes(content)


def pack(content: bytes, prefix: bytes, level: int) -> bytes:
    """Return `content` as one frame that is unpacked with the same `prefix`."""
    parameter = zstd.CompressionParameter
    both = len(content) + len(prefix)
    options: dict[int, int] = {
        parameter.compression_level: level,
        parameter.window_log: min(WINDOW_LOG_MAX, max(10, both.bit_length())),
        # Its tables cost more than they find below that, and the usual ones reach that far.
        parameter.enable_long_distance_matching: int(both > CHUNK_BYTES * 16),
    }
    if len(prefix) < PREFIX_BYTES_MIN:
        return zstd.compress(content, options=options)
    return zstd.compress(
        content, options=options, zstd_dict=zstd.ZstdDict(prefix, is_raw=True).as_prefix
    )


def unpack(
    file: IO[bytes],
    packed_bytes: int,
    prefix: Callable[[], Bytes],
    plain_bytes: int,
    write: Callable[[bytes], object],
) -> None:
    """Give the content of the one frame that takes the next `packed_bytes` of `file` to `write`.

    `prefix` reads the prefix. It is called, and not given, so that nobody holds the prefix a second
    time while the frame is unpacked.

    Raises:
        BadPack: It is damaged, or holds more or less than `plain_bytes`.
    """
    left_bytes = packed_bytes
    total_bytes = 0
    try:
        unpacker = _unpacker(prefix())
        while not unpacker.eof:
            packed = b""
            if unpacker.needs_input:
                packed = file.read(min(CHUNK_BYTES, left_bytes))
                if not packed:
                    raise BadPack("a frame of the pack is cut off")
                if left_bytes == packed_bytes:
                    _check_frame(packed, plain_bytes)
                left_bytes -= len(packed)
            content = unpacker.decompress(packed, max_length=CHUNK_BYTES)
            total_bytes += len(content)
            if total_bytes > plain_bytes:
                raise BadPack("a frame of the pack holds more than it says")
            write(content)
    except zstd.ZstdError as error:
        raise BadPack(f"a frame of the pack is damaged: {error}") from None
    if left_bytes or unpacker.unused_data or total_bytes != plain_bytes:
        raise BadPack("a frame of the pack is shorter than it says")


def _unpacker(prefix: Bytes) -> "zstd.ZstdDecompressor":
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
    if len(prefix) < PREFIX_BYTES_MIN:
        return zstd.ZstdDecompressor(options=options)
    content = zstd.ZstdDict(prefix, is_raw=True)
    return zstd.ZstdDecompressor(zstd_dict=content.as_prefix, options=options)


def _check_frame(begin: bytes, plain_bytes: int) -> None:
    # A frame that does not say how long it is gets a buffer as large as its window.
    if zstd.get_frame_info(begin).decompressed_size != plain_bytes:
        raise BadPack("a frame of the pack does not say the length that the index says")
