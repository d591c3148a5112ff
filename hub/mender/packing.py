"""How parts of a Mender artifact are compressed: by name `.tar`, `.tar.gz`, `.tar.xz`, `.tar.zst`.

Owns unpacking in bounded memory, whatever a stranger has packed, and packing of ours.
"""

import gzip
import lzma
import zlib
from enum import StrEnum
from typing import IO, Any, Final, Protocol

from firmware_hooks.frames import zstd
from hub.mender.tar import CHUNK_BYTES, BadTar, Readable

XZ_MEMORY_BYTES_MAX: Final = 96 * 1024 * 1024
"""What `xz -9` needs to be unpacked, and half as much again."""
ZSTD_WINDOW_LOG_MAX: Final = 27
"""128 MiB: what `zstd --ultra -22` needs."""


class Compression(StrEnum):
    """How a part is compressed. Values are the ends of the names of such parts."""

    NONE = ""
    GZIP = ".gz"
    XZ = ".xz"
    ZSTD = ".zst"


def compression_of(name: str, stem: str) -> Compression:
    """Return how the part `name` is compressed, whose name without that is `stem`.

    Raises:
        BadTar: In a way that is not known.
    """
    try:
        return Compression(name.removeprefix(stem))
    except ValueError:
        raise BadTar(f"{name[:100]!r} is compressed in a way that is not known here") from None


class Unpacked:
    """The plain bytes of a compressed stream, up to a bounded length."""

    def __init__(self, stream: Readable, compression: Compression, bytes_max: int) -> None:
        """Unpack `stream`; more than `bytes_max` are refused."""
        self._stream = stream
        self._left_bytes = bytes_max
        self._bytes_max = bytes_max
        self._unpacker = _unpacker(compression)

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes.

        Raises:
            BadTar: It cannot be unpacked, ends too early, goes on behind its end, or is too long.
        """
        if self._unpacker is None:
            content = self._stream.read(count)
        else:
            content = self._unpack(self._unpacker, count)
        self._left_bytes -= len(content)
        if self._left_bytes < 0:
            raise BadTar(f"it holds more than {self._bytes_max} bytes")
        return content

    def _unpack(self, unpacker: "_Unpacker", count: int) -> bytes:
        while True:
            if unpacker.eof:
                if unpacker.unused_data or self._stream.read(1):
                    raise BadTar("something follows the end of what is compressed")
                return b""
            packed = b""
            if unpacker.needs_input:
                packed = self._stream.read(CHUNK_BYTES)
                if not packed:
                    raise BadTar("what is compressed ends in the middle")
            try:
                content = unpacker.decompress(packed, count)
            except (zlib.error, lzma.LZMAError, zstd.ZstdError, MemoryError) as error:
                raise BadTar(f"it cannot be unpacked: {error}") from None
            if content:
                return content


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gunzip:
    """`zlib` behind the same face as the others."""

    def __init__(self) -> None:
        self._unpacker = zlib.decompressobj(31)  # with a gzip header

    @property
    def eof(self) -> bool:
        return self._unpacker.eof

    @property
    def needs_input(self) -> bool:
        return not self._unpacker.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._unpacker.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._unpacker.decompress(data or self._unpacker.unconsumed_tail, max_length)


def _unpacker(compression: Compression) -> _Unpacker | None:
    if compression is Compression.GZIP:
        return _Gunzip()
    if compression is Compression.XZ:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES_MAX)
    if compression is Compression.ZSTD:
        options = {int(zstd.DecompressionParameter.window_log_max): ZSTD_WINDOW_LOG_MAX}
        return zstd.ZstdDecompressor(options=options)
    return None


def packer(output: IO[bytes], compression: Compression) -> IO[bytes]:
    """Return a file that compresses into `output`, the same bytes each time; to be closed."""
    packed: Any = output
    if compression is Compression.GZIP:
        packed = gzip.GzipFile(filename="", mode="wb", fileobj=output, mtime=0)
    elif compression is Compression.XZ:
        packed = lzma.LZMAFile(output, "wb")  # noqa: SIM115 - the caller closes it
    elif compression is Compression.ZSTD:
        packed = zstd.ZstdFile(output, "wb")
    plain: IO[bytes] = packed
    return plain
