"""The list of a tree: every file, folder and link of it, as one text with one digest.

Owns that text, its bounds and what may stand in it. Never follows a link.

A release that names the digest of its tree's list (the parameters `tree_sha256` and
`tree_length_bytes` of its manifest) says with it what every file must be, however its bytes come.
The same tree has the same list on every machine: owners, times and every permission but "its owner
may run it" are left out.

Format: docs/reference/pack-format.md.
"""

import hashlib
import os
import re
import stat
import unicodedata
from array import array
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from firmware_hooks.names import NAME_BYTES_MAX, leads_out

HEADING: Final = b"fieldfare tree 1\n"

LIST_BYTES_MAX: Final = 6 * 1024 * 1024
"""Longest list. Two of them are held in memory while a pack is applied."""

ENTRIES_MAX: Final = 50_000
FILE_BYTES_MAX: Final = 2**40

CHUNK_BYTES: Final = 256 * 1024

PARAMETER_DIGEST: Final = "tree_sha256"
PARAMETER_LENGTH: Final = "tree_length_bytes"
"""Names of a manifest's parameters that say which list its tree has."""

_LINE: Final = re.compile(
    rb"(?:d|([-x])\t(0|[1-9][0-9]{0,12})\t([0-9a-f]{64})|l\t([^\t\n]+))\t([^\t\n]+)\n"
)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


class BadTree(ValueError):
    """The list is none, or names what must not be in a tree; whoever made it is to blame."""


class Kind(StrEnum):
    """What an entry is. The values stand in lists."""

    FILE = "-"
    PROGRAM = "x"
    FOLDER = "d"
    LINK = "l"


class Entry(NamedTuple):
    """One line of the list."""

    path: str
    kind: Kind
    length_bytes: int = 0
    sha256: bytes = b""
    leads_to: str = ""

    @property
    def is_file(self) -> bool:
        """Tell whether it has bytes."""
        return self.kind in (Kind.FILE, Kind.PROGRAM)


class Tree:
    """A list that was checked. Entries are read from the text when they are asked for.

    A list of 50,000 entries is 6 MB of text; as objects it would be 30 MB.
    """

    def __init__(self, text: bytes) -> None:
        """Read `text`.

        Raises:
            BadTree: It is no list, is not in its one form, or holds a name that leads out of the
                tree, collides with another or lies below something that is no folder.
        """
        self.text = text
        self._starts = array("L")
        self.bytes_count = 0
        """Bytes of all files together."""
        self._check()

    @property
    def sha256(self) -> bytes:
        """Return the list's digest: the identity of the tree."""
        return hashlib.sha256(self.text).digest()

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._starts)

    def __getitem__(self, number: int) -> Entry:
        """Return entry `number`, from 0 in the order of the list."""
        if not 0 <= number < len(self._starts):
            raise IndexError(number)
        return _entry(self.text, self._starts[number])[0]

    def __iter__(self) -> Iterator[Entry]:
        """Give every entry in order: by the bytes of its path."""
        return (self[number] for number in range(len(self)))

    def find(self, path: str) -> int | None:
        """Return the number of the entry with this path, None if there is none."""
        wanted = path.encode()
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self[middle].path.encode() < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self[low].path == path else None

    def _check(self) -> None:
        if len(self.text) > LIST_BYTES_MAX:
            raise BadTree(f"the list has {len(self.text)} bytes, at most {LIST_BYTES_MAX}")
        if not self.text.startswith(HEADING):
            raise BadTree("this is no list of a tree, or one of a later format")
        position = len(HEADING)
        before = b""
        names = _Names()
        while position < len(self.text):
            if len(self._starts) >= ENTRIES_MAX:
                raise BadTree(f"the tree has more than {ENTRIES_MAX} entries")
            self._starts.append(position)
            entry, position = _entry(self.text, position)
            path = entry.path.encode()
            if path <= before:
                raise BadTree(f"{entry.path[:80]!r} is out of order, or comes twice")
            before = path
            names.admit(entry)
            self.bytes_count += entry.length_bytes


class _Names:
    """What was seen so far of the names of a list."""

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._alike: set[str] = set()

    def admit(self, entry: Entry) -> None:
        path = entry.path
        shown = repr(path[:80])
        parts = path.split("/")
        if not path.isprintable() or not {"", ".", ".."}.isdisjoint(parts):
            raise BadTree(f"{shown} is not a name inside the tree")
        if len(path.encode()) > NAME_BYTES_MAX:
            raise BadTree(f"{shown} is longer than {NAME_BYTES_MAX} bytes")
        parent = path.rpartition("/")[0]
        if parent and parent not in self._folders:
            raise BadTree(f"{shown} lies below something that is no folder")
        # The folders above it are entries of their own, and were compared as such.
        alike = unicodedata.normalize("NFC", path).casefold()
        if alike in self._alike:
            raise BadTree(f"{shown} and another name differ in case or accents only")
        self._alike.add(alike)
        if entry.kind is Kind.FOLDER:
            self._folders.add(path)
        if entry.kind is Kind.LINK and (
            not entry.leads_to.isprintable() or leads_out(PurePosixPath(path), entry.leads_to)
        ):
            raise BadTree(f"the link {shown} leads out of the tree: {entry.leads_to[:80]!r}")


def _entry(text: bytes, position: int) -> tuple[Entry, int]:
    found = _LINE.match(text, position)
    if found is None:
        raise BadTree(f"there is no entry at byte {position} of the list")
    kind, length, digest, leads_to, path = found.groups()
    try:
        name = path.decode()
        if leads_to is not None:
            return Entry(name, Kind.LINK, leads_to=leads_to.decode()), found.end()
        if kind is None:
            return Entry(name, Kind.FOLDER), found.end()
    except UnicodeDecodeError:
        raise BadTree(f"the name at byte {position} of the list is not UTF-8") from None
    if int(length) > FILE_BYTES_MAX:
        raise BadTree(f"{name[:80]!r} has {int(length)} bytes")
    return Entry(name, Kind(kind.decode()), int(length), bytes.fromhex(digest.decode())), (
        found.end()
    )


def list_tree(root: Path) -> bytes:
    """Return the list of the tree at `root`.

    Raises:
        BadTree: It holds what a list cannot: a device, a name that is no printable text, too much.
        OSError: It cannot be read.
    """
    return list_files(_walk(root, ""))


def list_files(entries: Iterator[tuple[str, Path]]) -> bytes:
    """Return the list of these paths within a tree, each with where it lies. Links stay links.

    Raises:
        BadTree: As `list_tree`.
        OSError: As `list_tree`.
    """
    lines = [(path.encode(errors="surrogateescape"), _line(path, place)) for path, place in entries]
    text = HEADING + b"".join(line for _, line in sorted(lines))
    Tree(text)
    return text


def tree_named(parameters: object) -> tuple[bytes, int] | None:
    """Return digest and length of the list that a manifest's parameters name, None if none is."""
    if not isinstance(parameters, dict):
        return None
    digest, length = parameters.get(PARAMETER_DIGEST), parameters.get(PARAMETER_LENGTH)
    if not isinstance(digest, str) or not _DIGEST.match(digest):
        return None
    if isinstance(length, bool) or not isinstance(length, int):
        return None
    return (bytes.fromhex(digest), length) if 0 < length <= LIST_BYTES_MAX else None


def _walk(root: Path, below: str) -> Iterator[tuple[str, Path]]:
    with os.scandir(root / below if below else root) as found:
        entries = list(found)
    for each in entries:
        path = f"{below}/{each.name}" if below else each.name
        yield path, Path(each.path)
        if each.is_dir(follow_symlinks=False):
            yield from _walk(root, path)


def _line(path: str, place: Path) -> bytes:
    name = os.fsencode(path)
    if not path.isprintable():
        raise BadTree(f"the name {path[:80]!r} is not printable text (UTF-8)")
    found = place.lstat()
    if stat.S_ISDIR(found.st_mode):
        return b"d\t" + name + b"\n"
    if stat.S_ISLNK(found.st_mode):
        return b"l\t" + os.fsencode(place.readlink()) + b"\t" + name + b"\n"
    if not stat.S_ISREG(found.st_mode):
        raise BadTree(f"{path[:80]!r} is neither a plain file, a folder nor a symbolic link")
    kind = b"x" if found.st_mode & stat.S_IXUSR else b"-"
    digest, length_bytes = digest_of(place)
    return b"\t".join([kind, str(length_bytes).encode(), digest.hex().encode(), name]) + b"\n"


def digest_of(path: Path) -> tuple[bytes, int]:
    """Return SHA-256 and length of a file; a link is not followed.

    Raises:
        OSError: It cannot be read.
    """
    hashed = hashlib.sha256()
    length_bytes = 0
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            hashed.update(chunk)
            length_bytes += len(chunk)
    return hashed.digest(), length_bytes
