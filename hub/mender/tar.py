"""Reading a tar file that a stranger made: forwards, in bounded bites, regular files only.

Owns the format (POSIX ustar, with pax headers for long names and large sizes) and refuses the rest:
folders, links, devices, sparse files, GNU's own headers, names that are no text. Knows nothing of
what the files mean. The standard library's reader is not used: it keeps what it has read, follows
headers about headers, and reads as much at once as a header asks for.
"""

import re
from typing import Final, Protocol

BLOCK_BYTES: Final = 512
CHUNK_BYTES: Final = 256 * 1024
PAX_BYTES_MAX: Final = 16 * 1024
NAME_BYTES_MAX: Final = 1000

_NUMBER: Final = re.compile(rb"[ \0]*([0-7]{1,12})[ \0]*")
_PAX_RECORD: Final = re.compile(rb"([0-9]{1,6}) ([^=\n]{1,100})=")


class BadTar(ValueError):
    """It is no tar file, or holds what is refused; who made it is to blame."""


class Readable(Protocol):
    """Anything that gives bytes one after the other."""

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes, and none at the end alone."""
        ...


class Member:
    """One file in a tar file, to be read once and before the next one is asked for."""

    def __init__(self, name: str, size_bytes: int, stream: Readable) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._stream = stream
        self._left_bytes = size_bytes

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes of what is left.

        Raises:
            BadTar: The tar file ends before.
        """
        count = min(count, self._left_bytes, CHUNK_BYTES)
        if count <= 0:
            return b""
        chunk = self._stream.read(count)
        if not chunk:
            raise BadTar(f"it ends in the middle of {self.name}")
        self._left_bytes -= len(chunk)
        return chunk

    def all(self, bytes_max: int) -> bytes:
        """Return all of it.

        Raises:
            BadTar: It has more than `bytes_max`, or the tar file ends before.
        """
        if self.size_bytes > bytes_max:
            raise BadTar(f"{self.name} has {self.size_bytes} bytes, at most {bytes_max}")
        content = bytearray()
        while chunk := self.read(CHUNK_BYTES):
            content += chunk
        return bytes(content)


class Tar:
    """A tar file as a row of members."""

    def __init__(self, stream: Readable) -> None:
        """Read from `stream`, from where it stands."""
        self._stream = stream
        self._member: Member | None = None

    def next(self) -> Member | None:
        """Return the next file; None at the end, behind which only zeros may be.

        Raises:
            BadTar: It is none, or the next entry is refused.
        """
        self._skip()
        pax: dict[str, str] | None = None
        while True:
            block = self._block()
            if block is None or not block.strip(b"\0"):
                self._end()
                return None
            name, size_bytes, kind = _header(block)
            if kind == b"x" and pax is None:
                pax = _pax(Member("a pax header", size_bytes, self._stream).all(PAX_BYTES_MAX))
                self._pad(size_bytes)
                continue
            if kind not in (b"0", b"\0"):
                raise BadTar(f"{name[:100]!r} is no regular file (type {kind!r})")
            if pax is not None:
                name = pax.get("path", name)
                size_bytes = _size(pax["size"].encode(), 10) if "size" in pax else size_bytes
            if not name or len(name.encode()) > NAME_BYTES_MAX or not name.isprintable():
                raise BadTar(f"{name[:100]!r} is no name")
            self._member = Member(name, size_bytes, self._stream)
            return self._member

    def _skip(self) -> None:
        if self._member is not None:
            while self._member.read(CHUNK_BYTES):
                pass
            self._pad(self._member.size_bytes)

    def _pad(self, size_bytes: int) -> None:
        Member("the padding", -size_bytes % BLOCK_BYTES, self._stream).all(BLOCK_BYTES)

    def _block(self) -> bytes | None:
        block = bytearray()
        while len(block) < BLOCK_BYTES:
            chunk = self._stream.read(BLOCK_BYTES - len(block))
            if not chunk:
                break
            block += chunk
        if 0 < len(block) < BLOCK_BYTES:
            raise BadTar("it ends in the middle of a header")
        return bytes(block) or None

    def _end(self) -> None:
        while chunk := self._stream.read(CHUNK_BYTES):
            if chunk.strip(b"\0"):
                raise BadTar("something follows its end")


def _header(block: bytes) -> tuple[str, int, bytes]:
    """Return name, size and type of an entry."""
    if block[257:262] != b"ustar":
        raise BadTar("it is no tar file, or one without POSIX headers")
    told = _size(block[148:156], 8)
    if told != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise BadTar("a header has the wrong checksum")
    is_posix = block[262:263] == b"\0"
    parts = [block[345:500] if is_posix else b"", block[:100]]
    path = b"/".join(part.partition(b"\0")[0] for part in parts if part.strip(b"\0"))
    try:
        return path.decode(), _size(block[124:136], 8), block[156:157]
    except UnicodeDecodeError:
        raise BadTar(f"the name {path[:100]!r} is not UTF-8") from None


def _size(field: bytes, base: int) -> int:
    if base == 10:  # noqa: PLR2004 - pax headers count in decimal digits
        if not re.fullmatch(rb"[0-9]{1,15}", field):
            raise BadTar("a pax header has a size that is no number")
        return int(field)
    found = _NUMBER.fullmatch(field)
    if found is None:
        raise BadTar("a header has a field that is no number")
    return int(found[1], base)


def _pax(text: bytes) -> dict[str, str]:
    """Return the records of a pax header that say where and how long a file is."""
    found: dict[str, str] = {}
    while text:
        record = _PAX_RECORD.match(text)
        length = int(record[1]) if record is not None else 0
        if record is None or not record.end() < length <= len(text) or text[length - 1] != 10:  # noqa: PLR2004 - a line feed
            raise BadTar("a pax header is broken")
        keyword = record[2].decode(errors="replace")
        if keyword.startswith("GNU.sparse"):
            raise BadTar("it holds a sparse file")
        if keyword in ("path", "size"):
            try:
                found[keyword] = text[record.end() : length - 1].decode()
            except UnicodeDecodeError:
                raise BadTar("a pax header is not UTF-8") from None
        text = text[length:]
    return found
