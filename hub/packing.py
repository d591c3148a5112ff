"""Making a pack: what changed between two trees that lie on this machine.

Owns the choice of what each file is made from. The format is `firmware_hooks.pack`'s. Never runs in
the hub's own process: `hub.pack_worker` does, which has bounds of its own.

A file that a device can hold in memory twice is one part, with the file it replaces as prefix. A
larger one, an image, is cut into content-defined chunks: those that the old file has are copied,
and each gap between them is packed with the old bytes of that place as prefix.
"""

import hashlib
import mmap
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from firmware_hooks.pack import (
    PARTS_MAX,
    WORK_BYTES_MIN,
    WORK_RATIO_MAX,
    Change,
    Header,
    Part,
    encode_header,
    encode_index,
    pack,
    part_bytes,
    room_bytes,
)
from firmware_hooks.tree import Entry, Tree
from hub.chunking import cuts

FIRST_LEVEL: Final = 10
BEST_LEVEL: Final = 19

SMALL_LEVEL: Final = 19
"""List and index are a few KB, so they are always packed as well as can be."""

GAP_BYTES_MAX: Final = 4 * 1024 * 1024
"""Longest run of an image that is packed as one part."""

COPY_BYTES: Final = 1024 * 1024

_NUMBERS: Final = re.compile(r"[0-9]+")


class CannotPack(Exception):
    """No pack can be made between the two trees. The message says why; nothing is left."""


@dataclass(slots=True)
class Made:
    """A pack that was made."""

    length_bytes: int
    changes_count: int
    made_bytes: int = 0
    """Bytes of the files that it makes."""


@dataclass(slots=True)
class _Side:
    """One of the two trees."""

    tree: Tree
    root: Path
    _digests: dict[bytes, int] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)

    def learn(self) -> None:
        """Note where content and names are, to find them again under other paths."""
        for number, entry in enumerate(self.tree):
            if entry.is_file:
                self._digests.setdefault(entry.sha256, number)
                self._names.setdefault(_without_numbers(entry.path), number)
                self._names.setdefault(_last_name(entry.path), number)

    def same(self, entry: Entry) -> int | None:
        return self._digests.get(entry.sha256)

    def like(self, entry: Entry) -> int | None:
        """Return the file that `entry` most likely replaces."""
        number = self.tree.find(entry.path)
        if number is not None and self.tree[number].is_file:
            return number
        # What versions are called differs in numbers: lib-1.2.so, package-1.2.dist-info/RECORD.
        by_path = self._names.get(_without_numbers(entry.path))
        return by_path if by_path is not None else self._names.get(_last_name(entry.path))


def make_pack(
    base: Tree, base_root: Path, target: Tree, target_root: Path, output: Path, *, level: int
) -> Made:
    """Write the pack that leads from `base` to `target` to the file `output`.

    Args:
        base: List of the tree at `base_root`.
        base_root: Where the tree lies that devices run.
        target: List of the tree at `target_root`.
        target_root: Where the tree lies that they are to run.
        output: Is made or replaced. Beside it a second file takes the payload meanwhile.
        level: Effort, 1 to 19.

    Raises:
        CannotPack: The trees differ in too many places.
        OSError: A file cannot be read or written.
    """
    before, after = _Side(base, base_root), _Side(target, target_root)
    before.learn()
    maker = _Maker(before, after, level)
    payload_path = output.with_name(output.name + ".payload")
    try:
        with payload_path.open("wb") as payload:
            changes = maker.changes(payload)
        list_packed = pack(target.text, base.text, SMALL_LEVEL)
        index = encode_index(changes)
        index_packed = pack(index, b"", SMALL_LEVEL)
        header = Header(
            base.sha256,
            target.sha256,
            len(list_packed),
            len(target.text),
            len(index_packed),
            len(index),
            payload_path.stat().st_size,
        )
        with output.open("wb") as file, payload_path.open("rb") as payload:
            for piece in (encode_header(header), list_packed, index_packed):
                file.write(piece)
            shutil.copyfileobj(payload, file, COPY_BYTES)
    finally:
        payload_path.unlink(missing_ok=True)
    return Made(output.stat().st_size, len(changes), maker.made_bytes)


class _Maker:
    def __init__(self, before: _Side, after: _Side, level: int) -> None:
        self._before = before
        self._after = after
        self._level = level
        self._room_bytes = room_bytes(len(before.tree.text), len(after.tree.text))
        self._parts_count = 0
        both = before.tree.bytes_count + after.tree.bytes_count
        self._work_bytes = WORK_BYTES_MIN + WORK_RATIO_MAX * both
        self.made_bytes = 0

    def changes(self, payload: IO[bytes]) -> list[Change]:
        """Write the payload; return what goes into the index."""
        found = []
        for number, entry in enumerate(self._after.tree):
            if entry.is_file:
                parts = self._parts(entry, payload)
                if parts is not None:
                    found.append(Change(number, parts))
                    self._parts_count += len(parts)
                    if self._parts_count > PARTS_MAX:
                        raise CannotPack(f"the trees differ in more than {PARTS_MAX} places")
        return found

    def _parts(self, entry: Entry, payload: IO[bytes]) -> list[Part] | None:
        """Return what a file is made from, None if it is unchanged."""
        at = self._before.tree.find(entry.path)
        if at is not None and self._before.tree[at] == entry:
            return None
        same = self._before.same(entry)
        if same is not None:
            return [Part(same, 0, entry.length_bytes, entry.length_bytes, 0)]
        self.made_bytes += entry.length_bytes
        like = self._before.like(entry)
        old_bytes = 0 if like is None else self._before.tree[like].length_bytes
        if part_bytes(old_bytes, entry.length_bytes) <= self._room_bytes:
            content = (self._after.root / entry.path).read_bytes()
            prefix = b"" if like is None else self._old(like).read_bytes()
            return [self._packed(payload, content, prefix, like, 0)]
        return list(self._image(entry, like, payload))

    def _old(self, number: int) -> Path:
        return self._before.root / self._before.tree[number].path

    def _packed(
        self, payload: IO[bytes], content: bytes, prefix: bytes, base: int | None, start: int
    ) -> Part:
        # A device refuses a pack that makes it read the same old bytes over and over.
        if not prefix or len(prefix) > self._work_bytes:
            prefix, base, start = b"", None, 0
        self._work_bytes -= len(prefix)
        frame = pack(content, prefix, self._level)
        payload.write(frame)
        return Part(base, start, len(prefix), len(content), len(frame))

    def _image(self, entry: Entry, like: int | None, payload: IO[bytes]) -> Iterator[Part]:
        with _mapped(self._after.root / entry.path) as new:
            if like is None or not self._before.tree[like].length_bytes:
                yield from self._gap(payload, new, (0, len(new)), b"", None, (0, 0))
                return
            with _mapped(self._old(like)) as old:
                known = _chunks_of(old)
                done = behind = 0
                for new_start, old_start, length in _matches(new, known):
                    # The old bytes of a gap are those between its neighbours' places.
                    yield from self._gap(
                        payload, new, (done, new_start), old, like, (behind, old_start)
                    )
                    yield Part(like, old_start, length, length, 0)
                    done, behind = new_start + length, old_start + length
                yield from self._gap(payload, new, (done, len(new)), old, like, (behind, len(old)))

    def _gap(
        self,
        payload: IO[bytes],
        new: bytes | mmap.mmap,
        span: tuple[int, int],
        old: bytes | mmap.mmap,
        like: int | None,
        old_span: tuple[int, int],
    ) -> Iterator[Part]:
        """Pack new[span], each part with the old bytes about as far along as it is."""
        plain_max = max(1, min(GAP_BYTES_MAX, self._room_bytes // 4))
        prefix_max = min(2 * plain_max, self._room_bytes // 2)
        start, stop = span
        for position in range(start, stop, plain_max):
            content = new[position : min(stop, position + plain_max)]
            # In the middle of as many old bytes as may be held.
            middle = old_span[0] + (position - start) + len(content) // 2
            first = max(0, min(middle - prefix_max // 2, len(old) - prefix_max))
            prefix = old[first : first + prefix_max] if old_span[0] < old_span[1] else b""
            yield self._packed(payload, content, prefix, like, first)


def _chunks_of(old: mmap.mmap) -> Mapping[bytes, tuple[int, int]]:
    known: dict[bytes, tuple[int, int]] = {}
    for start, end in cuts(old):
        known.setdefault(hashlib.blake2b(old[start:end], digest_size=16).digest(), (start, end))
    return known


def _matches(
    new: mmap.mmap, known: Mapping[bytes, tuple[int, int]]
) -> Iterator[tuple[int, int, int]]:
    """Give (start in the new, start in the old, length) of runs that both have, in order."""
    run: tuple[int, int, int] | None = None
    for start, end in cuts(new):
        found = known.get(hashlib.blake2b(new[start:end], digest_size=16).digest())
        if found is None:
            continue
        if run is not None and run[0] + run[2] == start and run[1] + run[2] == found[0]:
            run = (run[0], run[1], run[2] + end - start)
            continue
        if run is not None:
            yield run
        run = (start, found[0], end - start)
    if run is not None:
        yield run


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        yield mapped


def _without_numbers(path: str) -> str:
    return _NUMBERS.sub("#", path)


def _last_name(path: str) -> str:
    return _NUMBERS.sub("#", path.rpartition("/")[2])
