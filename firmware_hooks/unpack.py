"""Makes a tree from the one that runs and a pack: `python -m firmware_hooks.unpack`.

Owns that program. It runs in a process of its own, so that its memory is given back when it ends
and bytes that somebody else made never meet the agent. Its memory, its time and what it may write
are bounded by the system as well.

Rule: a file gets its place only in the folder that it was given, which is empty when it starts, and
every file there was compared with the list whose digest the release names. What it writes is not
yet durable.

Exit codes: 0, and on standard output what was done as JSON; 3 the pack is not good; 4 the tree that
it starts from is not as it was installed; 5 the disk is full or fails. The reason is one line on
standard error.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import IO, Final

from firmware_hooks.pack import (
    CHUNK_BYTES,
    WORK_BYTES_MIN,
    WORK_RATIO_MAX,
    BadPack,
    Change,
    Pack,
    Part,
    part_bytes,
    room_bytes,
)
from firmware_hooks.tree import LIST_BYTES_MAX, BadTree, Entry, Kind, Tree

MEMORY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Address space for data that the system grants. Far above what is used (64 MB), because
allocators reserve more than they touch; it ends what bounds of ours might miss."""

CPU_S_MAX: Final = 3600

_FOLDER_MODE: Final = 0o755
ROOM_UNKNOWN: Final = 2**63 - 1
_MODES: Final = {Kind.FILE: 0o644, Kind.PROGRAM: 0o755}


class BaseDiffers(Exception):
    """The tree that the pack starts from has changed since it was installed."""


class Exit(IntEnum):
    """How the program ends. The agent reads these; never reuse one."""

    DONE = 0
    BAD_PACK = 3
    BASE_DIFFERS = 4
    DISK = 5


@dataclass(slots=True)
class Done:
    """What was done."""

    linked_count: int = 0
    """Files that are the very ones of the tree before."""
    made_count: int = 0
    made_bytes: int = 0


def unpack_tree(  # noqa: PLR0913 - two trees, their places, and two bounds
    pack_file: IO[bytes],
    *,
    base: Path,
    base_list: bytes,
    into: Path,
    target: bytes,
    bytes_max: int,
    room_bytes: int = ROOM_UNKNOWN,
    list_to: Path | None = None,
) -> Done:
    """Make the tree whose list has the digest `target` in the empty folder `into`.

    Args:
        pack_file: The pack, at its beginning.
        base: Where the tree lies that it starts from.
        base_list: The list that this tree had when it was installed.
        into: On an error something of the tree may be left there.
        target: Digest of the list of the tree that is wanted.
        bytes_max: Most bytes of all files together.
        room_bytes: Most bytes of those that are made; what is kept takes no room.
        list_to: Where the list of the tree is written.

    Raises:
        BadPack: It does not make that tree.
        BaseDiffers: A file of `base` is not what `base_list` says.
        OSError: The disk is full or fails, or the files that are made take more than `room_bytes`.
    """
    try:
        before = Tree(base_list)
    except BadTree as error:
        raise BaseDiffers(f"the list of the tree that runs is damaged: {error}") from None
    pack = Pack(pack_file, base_list, target)
    try:
        after = Tree(pack.read_list())
    except BadTree as error:
        raise BadPack(str(error)) from None
    if after.bytes_count > bytes_max:
        raise BadPack(f"the tree has {after.bytes_count} bytes, at most {bytes_max}")
    if list_to is not None:
        list_to.write_bytes(after.text)
    return _Work(pack, before, base, after, into, room_bytes).run()


class _Work:
    """The making of one tree."""

    def __init__(
        self, pack: Pack, before: Tree, base: Path, after: Tree, into: Path, disk_bytes: int
    ) -> None:
        self._disk_bytes = disk_bytes
        self._pack = pack
        self._before = before
        self._base = base
        self._after = after
        self._into = into
        self._done = Done()
        self._room_bytes = room_bytes(len(before.text), len(after.text))
        both = before.bytes_count + after.bytes_count
        self._work_bytes = WORK_BYTES_MIN + WORK_RATIO_MAX * both

    def run(self) -> Done:
        changes = self._pack.read_changes()
        change = next(changes, None)
        for number, entry in enumerate(self._after):
            path = self._into / entry.path
            if entry.kind is Kind.FOLDER:
                path.mkdir(_FOLDER_MODE)
            elif entry.kind is Kind.LINK:
                path.symlink_to(entry.leads_to)
            elif change is not None and change.number == number:
                self._change(change, entry, path)
                change = next(changes, None)
                continue
            else:
                self._keep(entry, path)
            if change is not None and change.number == number:
                raise BadPack(f"{entry.path[:80]!r} is no file, so the pack cannot change it")
        if change is not None:
            raise BadPack("the pack changes a file that is not in the list")
        self._pack.check_end()
        return self._done

    def _keep(self, entry: Entry, path: Path) -> None:
        number = self._before.find(entry.path)
        if number is None or self._before[number] != entry:
            raise BadPack(f"{entry.path[:80]!r} is new or changed, and not in the pack")
        self._link(entry, entry, path)

    def _change(self, change: Change, entry: Entry, path: Path) -> None:
        if sum(part.plain_bytes for part in change.parts) != entry.length_bytes:
            raise BadPack(f"the parts of {entry.path[:80]!r} do not add up to it")
        if len(change.parts) == 1 and not change.parts[0].packed_bytes:
            same = self._base_entry(change.parts[0])
            if (same.sha256, same.length_bytes) == (entry.sha256, entry.length_bytes):
                self._link(same, entry, path)
                return
        self._disk_bytes -= entry.length_bytes
        if self._disk_bytes < 0:
            raise OSError(errno.ENOSPC, "the disk would have less than its reserve", str(path))
        hashed = hashlib.sha256()
        with _new(path, entry) as file:

            def write(content: bytes) -> None:
                hashed.update(content)
                file.write(content)

            for part in change.parts:
                self._part(part, write)
        if hashed.digest() != entry.sha256:
            raise BadPack(f"{entry.path[:80]!r} comes out as another file than the release names")
        self._done.made_count += 1
        self._done.made_bytes += entry.length_bytes

    def _part(self, part: Part, write: Callable[[bytes], object]) -> None:
        if not part.packed_bytes:
            entry = self._base_entry(part)
            for chunk in self._read(entry, part.start, part.prefix_bytes):
                write(chunk)
            return
        if part_bytes(part.prefix_bytes, part.plain_bytes) > self._room_bytes:
            raise BadPack("a part of the pack needs more memory than is allowed")
        self._spend(part.prefix_bytes)
        self._pack.read_part(part, lambda: self._prefix(part), write)

    def _prefix(self, part: Part) -> bytearray:
        if part.base is None:
            return bytearray()
        # In one piece from the start: joining pieces would hold all of it twice.
        prefix = bytearray(part.prefix_bytes)
        position = 0
        for chunk in self._read(self._base_entry(part), part.start, part.prefix_bytes):
            prefix[position : position + len(chunk)] = chunk
            position += len(chunk)
        return prefix

    def _spend(self, prefix_bytes: int) -> None:
        self._work_bytes -= prefix_bytes
        if self._work_bytes < 0:
            raise BadPack("the pack reads the tree that runs over and over")

    def _base_entry(self, part: Part) -> Entry:
        if part.base is None or part.base >= len(self._before):
            raise BadPack("a part of the pack starts from a file that there is not")
        entry = self._before[part.base]
        if not entry.is_file or part.start + part.prefix_bytes > entry.length_bytes:
            raise BadPack(f"{entry.path[:80]!r} has no such bytes")
        return entry

    def _read(self, entry: Entry, start: int, length_bytes: int) -> Iterator[bytes]:
        with _old(self._base / entry.path, entry) as file:
            file.seek(start)
            while length_bytes:
                chunk = file.read(min(CHUNK_BYTES, length_bytes))
                if not chunk:
                    raise BaseDiffers(f"{entry.path[:80]!r} is shorter than it was")
                length_bytes -= len(chunk)
                yield chunk

    def _link(self, same: Entry, entry: Entry, path: Path) -> None:
        """Give the file of the tree before this place too, or copy it; compared in either case."""
        source = self._base / same.path
        is_linked = False
        if same.kind is entry.kind:
            # Another file system, or one without links, or too many of them: copied instead.
            with contextlib.suppress(OSError):
                os.link(source, path, follow_symlinks=False)
                is_linked = True
        hashed = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            file = None if is_linked else stack.enter_context(_new(path, entry))
            for chunk in self._read(same, 0, same.length_bytes):
                hashed.update(chunk)
                if file is not None:
                    file.write(chunk)
        if hashed.digest() != entry.sha256:
            raise BaseDiffers(f"{same.path[:80]!r} is not what was installed")
        if is_linked:
            found = path.lstat()
            if stat.S_IMODE(found.st_mode) != _MODES[entry.kind] or (
                found.st_size != entry.length_bytes
            ):
                raise BaseDiffers(f"{same.path[:80]!r} has other permissions than it was given")
            self._done.linked_count += 1
        else:
            self._done.made_count += 1
            self._done.made_bytes += entry.length_bytes


@contextlib.contextmanager
def _new(path: Path, entry: Entry) -> Iterator[IO[bytes]]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fchmod(file.fileno(), _MODES[entry.kind])
        # As in the archive of the same tree; a file's time is no part of the release.
        os.utime(file.fileno(), (0, 0))


@contextlib.contextmanager
def _old(path: Path, entry: Entry) -> Iterator[IO[bytes]]:
    # NONBLOCK: what was a file may have become a pipe, and opening that would wait for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR):
            raise BaseDiffers(f"{entry.path[:80]!r} is gone") from None
        raise
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.length_bytes:
            raise BaseDiffers(f"{entry.path[:80]!r} is not what was installed")
        yield file


def bound_process(*, file_bytes_max: int) -> None:
    """Let the system bound this process: its memory, its time, and what a file of it may hold."""
    for what, bound in (
        (resource.RLIMIT_DATA, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_FSIZE, file_bytes_max),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        limit = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (limit, limit))


def peak_bytes() -> int:
    """Return the most memory that this process has had; 0 where the system does not say.

    `getrusage` would count what the process that started this one had.
    """
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def main() -> int:
    """Make the tree that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m firmware_hooks.unpack", description=__doc__)
    for name in ("pack", "base", "base_list", "into", "list_to"):
        parser.add_argument(name, type=Path)
    parser.add_argument("target", type=bytes.fromhex)
    parser.add_argument("bytes_max", type=int)
    parser.add_argument("room_bytes", type=int, nargs="?", default=ROOM_UNKNOWN)
    options = parser.parse_args()
    bound_process(file_bytes_max=options.bytes_max)
    try:
        with options.pack.open("rb") as pack_file, options.base_list.open("rb") as list_file:
            done = unpack_tree(
                pack_file,
                base=options.base,
                base_list=list_file.read(LIST_BYTES_MAX + 1),
                into=options.into,
                target=options.target,
                bytes_max=options.bytes_max,
                room_bytes=options.room_bytes,
                list_to=options.list_to,
            )
    except (BadPack, MemoryError) as error:
        return _ended(Exit.BAD_PACK, str(error) or "the pack needs more memory than is allowed")
    except BaseDiffers as error:
        return _ended(Exit.BASE_DIFFERS, str(error))
    except OSError as error:
        return _ended(Exit.DISK, f"{error.strerror or error}: {error.filename}")
    json.dump({**asdict(done), "peak_bytes": peak_bytes()}, sys.stdout)
    return Exit.DONE


def _ended(code: Exit, reason: str) -> int:
    sys.stderr.write(reason.replace("\n", " ") + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
