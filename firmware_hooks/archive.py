"""A tree in one tar file, unpacked where nothing of it can get out or get out of hand.

Owns what a tar file may hold and the copying. Never decides where the tree belongs.

Refused: absolute names and `..`, names that differ in case or in composed accents only (they would
be one file on another file system), a name that comes twice, entries below a link, links that lead
out of the tree, hard links, devices, pipes, sparse files, more entries, longer names or more bytes
than allowed, and headers that ask for absurd amounts of memory or lead backwards.

Format: pax and GNU tar, plain, or in gzip (RFC 1952) or xz.
"""

import gzip
import io
import lzma
import os
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Protocol

from firmware_hooks.names import NAME_BYTES_MAX, leads_out

ENTRIES_MAX: Final = 50_000
"""Most files, folders and links of a tree: as many as a release is built with."""

ENTRY_BYTES_MAX: Final = 8 * 512
"""What the headers and padding of one entry take at most, beside its content."""

CHUNK_BYTES: Final = 128 * 1024

READ_BYTES_MAX: Final = 1024 * 1024
"""Most that is read at once. Contents are read in chunks; only a header can ask for more, and a pax
header of that length would be held in memory whole."""

XZ_MEMORY_BYTES_MAX: Final = 96 * 1024 * 1024
"""What `xz -9` needs to be unpacked, and half as much again."""

_FILE_MODE: Final = 0o644
_PROGRAM_MODE: Final = 0o755
_FOLDER_MODE: Final = 0o755
_MODIFIED_S_MAX: Final = 2**33
"""Year 2242; what a header may claim beyond it, some file systems cannot keep."""


class BadArchive(ValueError):
    """The file is no tar file that may be unpacked; who made it is to blame."""


class TooLarge(BadArchive):
    """It holds more than is allowed."""


def unpack(archive: Path, into: Path, *, bytes_max: int) -> None:
    """Unpack `archive` into the empty folder `into`.

    Files get mode 0755 if their owner may run them, else 0644; owners and special bits are dropped.
    What is written is not yet durable.

    Args:
        archive: A tar file.
        into: Where to; on an error something of the tree may be left there.
        bytes_max: Most bytes of all files together.

    Raises:
        BadArchive: It holds something that is refused.
        OSError: The disk is full or fails, or the file cannot be read.
    """
    try:
        with archive.open("rb") as file, _plain(file) as content:
            _unpack(content, into, bytes_max)
    except BadArchive:  # it is a ValueError too, and says already what is wrong
        raise
    except (
        tarfile.TarError,
        EOFError,
        ValueError,  # of tarfile, about numbers in headers
        OverflowError,
        lzma.LZMAError,
        gzip.BadGzipFile,
        zlib.error,
    ) as error:
        raise BadArchive(f"the tree cannot be unpacked: {error}") from None
    except RecursionError:
        raise BadArchive("the tree cannot be unpacked: headers about headers") from None


def _unpack(content: "_Readable", into: Path, bytes_max: int) -> None:
    stream: Any = _Forward(content, bytes_max + ENTRIES_MAX * ENTRY_BYTES_MAX)
    names = _Names()
    left_bytes = bytes_max
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            # The library keeps every entry it has read, a kilobyte each.
            tar.members.clear()  # type: ignore[attr-defined]
            name = names.admit(member)
            if name is None:
                continue
            left_bytes -= member.size if member.isreg() else 0
            if left_bytes < 0:
                raise TooLarge(f"the tree has more than {bytes_max} bytes")
            _place(tar, member, into, name)
    # The library takes whatever is no header for the end. Reading on also checks what follows the
    # packed contents: their length and checksum.
    while stream.last:
        if stream.last.strip(b"\0"):
            raise BadArchive("the archive does not end where its last entry does")
        stream.read(CHUNK_BYTES)


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


@contextmanager
def _plain(file: IO[bytes]) -> Iterator[_Readable]:
    """Give the tar file inside `file`, whichever way it is packed."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as unzipped:
            yield unzipped
    elif magic == b"\xfd7zXZ\x00":
        yield io.BufferedReader(_Xz(file), CHUNK_BYTES)
    else:
        yield file


class _Xz(io.RawIOBase):
    """An xz file, unpacked with bounded memory, which `lzma.LZMAFile` cannot promise."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = self._new()

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES_MAX)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        while True:
            if self._unpacker.eof:
                rest = self._unpacker.unused_data or self._file.read(CHUNK_BYTES)
                if not rest.strip(b"\0"):  # padding between streams
                    return 0
                self._unpacker = self._new()
            elif self._unpacker.needs_input:
                rest = self._file.read(CHUNK_BYTES)
                if not rest:
                    raise EOFError("the xz file ends in the middle")
            else:
                rest = b""
            content = self._unpacker.decompress(rest, max_length=len(buffer))
            if content:
                buffer[: len(content)] = content
                return len(content)


class _Forward:
    """Reads a stream forwards only, in bounded bites, up to a bounded end."""

    def __init__(self, stream: _Readable, end: int) -> None:
        self._stream = stream
        self._end = end
        self._position = 0
        self.last = b""
        """What was read last."""

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= READ_BYTES_MAX:
            raise BadArchive(f"a header of {count} bytes")
        self.last = content = self._stream.read(count)
        self._position += len(content)
        if self._position > self._end:
            raise TooLarge("the archive holds more than is allowed")
        return content

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:
            raise BadArchive("a header leads backwards")
        if position > self._end:
            raise TooLarge("the archive holds more than is allowed")
        while self._position < position:
            if not self.read(min(CHUNK_BYTES, position - self._position)):
                break
        return self._position


class _Names:
    """The names seen so far, and which of them are links."""

    def __init__(self) -> None:
        self._count = 0
        self._written: dict[str, str] = {}
        """Names as they look where case and accents do not matter, and as they were written."""
        self._folders: set[str] = set()
        self._placed: set[str] = set()

    def admit(self, member: tarfile.TarInfo) -> PurePosixPath | None:
        """Return the name of an entry within the tree; None for what needs no place."""
        shown = repr(member.name[:80])
        self._count += 1
        if self._count > ENTRIES_MAX:
            raise TooLarge(f"the tree has more than {ENTRIES_MAX} entries")
        if member.issparse() or not (member.isreg() or member.isdir() or member.issym()):
            raise BadArchive(f"{shown} is neither a plain file, a folder nor a symbolic link")
        if member.size < 0:
            raise BadArchive(f"{shown} has {member.size} bytes")
        name = PurePosixPath(member.name)
        if member.name.startswith("/") or ".." in name.parts or "\0" in member.name:
            raise BadArchive(f"{shown} is not a name inside the tree")
        if len(os.fsencode(member.name)) > NAME_BYTES_MAX:
            raise BadArchive(f"{shown} is longer than {NAME_BYTES_MAX} bytes")
        if not name.parts:
            return None
        self._take(name, member)
        if member.issym():
            _check_link(name, member.linkname)
        return name

    def _take(self, name: PurePosixPath, member: tarfile.TarInfo) -> None:
        for part in (*reversed(name.parents[:-1]), name):
            written = str(part)
            alike = unicodedata.normalize("NFC", written).casefold()
            if self._written.setdefault(alike, written) != written:
                other = self._written[alike]
                raise BadArchive(f"{written[:80]!r} and {other[:80]!r} differ in case only")
            if len(self._written) > ENTRIES_MAX:  # folders that are only named count as well
                raise TooLarge(f"the tree has more than {ENTRIES_MAX} entries")
            if part != name and written in self._placed and written not in self._folders:
                raise BadArchive(f"{str(name)[:80]!r} lies below something that is no folder")
            if part != name:
                self._folders.add(written)
        written = str(name)
        if written in self._folders and not member.isdir():
            raise BadArchive(f"{written[:80]!r} is a folder already")
        if written in self._placed and written not in self._folders:
            raise BadArchive(f"{written[:80]!r} comes twice")
        self._placed.add(str(name))
        if member.isdir():
            self._folders.add(str(name))


def _check_link(name: PurePosixPath, linkname: str) -> None:
    """Refuse a link that could lead out of the tree."""
    if leads_out(name, linkname):
        raise BadArchive(f"the link {str(name)[:80]!r} leads out of the tree: {linkname[:80]!r}")


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path, name: PurePosixPath) -> None:
    # Pythons before 3.11.4 lack the filter (PEP 706); the rules above do not rest on it.
    data_filter = getattr(tarfile, "data_filter", None)
    if data_filter is not None:
        data_filter(member, str(into))
    path = into / name
    path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    if member.isdir():
        path.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    elif member.issym():
        path.symlink_to(member.linkname)
    else:
        _copy(tar, member, path)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise BadArchive(f"{member.name[:80]!r} has no content")
    mode = _PROGRAM_MODE if member.mode & 0o100 else _FILE_MODE
    with source, path.open("xb") as file:
        left_bytes = member.size
        while left_bytes:
            chunk = source.read(min(CHUNK_BYTES, left_bytes))
            if not chunk:
                raise BadArchive("the archive ends in the middle of a file")
            file.write(chunk)
            left_bytes -= len(chunk)
        file.flush()
        os.fchmod(file.fileno(), mode)
        modified_s = int(min(_MODIFIED_S_MAX, max(0, member.mtime)))
        os.utime(file.fileno(), (modified_s, modified_s))
