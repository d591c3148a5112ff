"""The image of a slot inside an artifact: raw, or in gzip or zstd, in one pass and little memory.

Owns reading and unpacking it, and whether the artifact was what the manifest names. Never seeks,
and never decides where the image goes.
"""

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from firmware_hooks.contract import InstallerError
from sync.manifest import Artifact
from sync.stages import Reason

READ_BYTES: Final = 256 * 1024
CHUNK_BYTES: Final = 1024 * 1024
"""Most that is given at once."""

WINDOW_LOG_MAX: Final = 24
"""zstd may look back 16 MiB, which it keeps in memory; `zstd --long` with more is refused."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_WITH_GZIP_HEADER: Final = 31


class Image:
    """An artifact, read once from its beginning to its end."""

    def __init__(self, path: Path, artifact: Artifact) -> None:
        """Read `path`, which should be `artifact`."""
        self._path = path
        self._artifact = artifact
        self._digest = hashlib.sha256()
        self._length_bytes = 0

    def chunks(self) -> Iterator[bytes]:
        """Give the image in order, at most `CHUNK_BYTES` at a time.

        Raises:
            InstallerError: The artifact is not what the manifest names, which shows at its end
                only, or holds no whole image.
            OSError: It cannot be read.
        """
        with self._path.open("rb") as file:
            try:
                yield from self._unpacked(file)
            except _Broken as error:
                while self._read(file):
                    pass
                self._check()
                raise InstallerError(
                    Reason.INSTALLER_FAILED, f"{self._artifact.name}: {error}"[:200]
                ) from None
        self._check()

    def _check(self) -> None:
        if (
            self._length_bytes != self._artifact.length_bytes
            or self._digest.hexdigest() != self._artifact.sha256
        ):
            raise InstallerError(
                Reason.DIGEST_MISMATCH,
                f"{self._artifact.name} on disk is not what the manifest names",
            )

    def _read(self, file: IO[bytes]) -> bytes:
        chunk = file.read(READ_BYTES)
        self._digest.update(chunk)
        self._length_bytes += len(chunk)
        return chunk

    def _unpacked(self, file: IO[bytes]) -> Iterator[bytes]:
        packed = self._read(file)
        if packed.startswith(_GZIP):
            return _gunzipped(self._rest(packed, file))
        if packed.startswith(_ZSTD):
            return _unzstandard(self._rest(packed, file))
        return self._rest(packed, file)

    def _rest(self, chunk: bytes, file: IO[bytes]) -> Iterator[bytes]:
        while chunk:
            yield chunk
            chunk = self._read(file)


class _Broken(ValueError):
    """What is packed cannot be unpacked."""


def _gunzipped(packed: Iterator[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(_WITH_GZIP_HEADER)
    is_within = False
    try:
        for chunk in packed:
            rest = chunk
            while rest:
                if unpacker.eof:
                    if not rest.strip(b"\0"):
                        break  # padding
                    unpacker = zlib.decompressobj(_WITH_GZIP_HEADER)
                is_within = True
                if unpacked := unpacker.decompress(rest, CHUNK_BYTES):
                    yield unpacked
                rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    except zlib.error as error:
        raise _Broken(str(error)) from None
    if not is_within or not unpacker.eof:
        raise _Broken("the gzip stream ends too early")


def _unzstandard(packed: Iterator[bytes]) -> Iterator[bytes]:
    # Imported here: unpacking takes 2 MB of memory, and most agents install nothing for weeks.
    from firmware_hooks.frames import zstd  # noqa: PLC0415

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
    unpacker = zstd.ZstdDecompressor(options=options)
    try:
        for chunk in packed:
            rest = chunk
            while rest or not (unpacker.eof or unpacker.needs_input):
                if unpacker.eof:
                    unpacker = zstd.ZstdDecompressor(options=options)
                if unpacked := unpacker.decompress(rest, CHUNK_BYTES):
                    yield unpacked
                rest = unpacker.unused_data if unpacker.eof else b""
    except zstd.ZstdError as error:
        raise _Broken(f"{error} (windows of at most 2**{WINDOW_LOG_MAX} bytes)") from None
    if not unpacker.eof:
        raise _Broken("the zstd frame ends too early")
