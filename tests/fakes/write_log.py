"""Every block that a program's disk was asked to write, in order, and what a power cut leaves.

A user-mode Linux runs the program on a filesystem of Linux's own drivers, on a device that records
each write, flush and mark (dm-log-writes). From that any state can be rebuilt that a disk with a
volatile cache may be in after a power cut: all that was flushed, and any part of what was not.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SECTOR_BYTES = 512
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
PROGRAMS = {
    "linux.uml": "user-mode-linux",
    "dmsetup": "dmsetup",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "mtype": "mtools",
    "fw_setenv": "libubootenv-tool",
    "script": "bsdutils",
    "grub-editenv": "grub-common",
    "grub-fstest": "grub-common",
}
PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"


def require(*names: str) -> None:
    """Skip the test when a program is missing."""
    for name in names:
        if shutil.which(name, path=PATH) is None:
            pytest.skip(f"{name} is not installed (Debian package {PROGRAMS.get(name, name)})")


def run(*argv: str | Path) -> bytes:
    """Run a program that has to end well; return what it printed."""
    ended = subprocess.run(
        [shutil.which(argv[0], path=PATH) or argv[0], *argv[1:]], capture_output=True, check=False
    )
    assert ended.returncode == 0, (argv, ended.stderr)
    return ended.stdout


@dataclass(frozen=True)
class Entry:
    """One write, flush or mark of the log."""

    at_bytes: int
    data: bytes
    flags: int
    mark: str


def record(
    image: Path, kind: str, argv: Sequence[str], folder: Path, *, options: str = ""
) -> list[Entry]:
    """Run `argv` with `image` mounted at `folder/disk`; each line it prints becomes a mark.

    A mark is one word. The program gets a line back for each, once the mark is in the log.
    `image` itself is left as it was.
    """
    require("linux.uml", "dmsetup")
    point = folder / "disk"
    point.mkdir(exist_ok=True)
    log, disk, config = (folder / name for name in ("log.img", "disk.img", "guest.json"))
    shutil.copyfile(image, disk)
    with log.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    root = Path(__file__).parents[2]
    given = {"point": str(point), "kind": kind, "options": options, "folder": str(root)}
    config.write_text(json.dumps({**given, "argv": json.dumps(argv)}))
    init = folder / "init"
    guest = Path(__file__).with_name("power_guest.py")
    init.write_text(f"#!/bin/sh\nexec {sys.executable} -B {guest} {config}\n")
    init.chmod(0o755)
    ended = subprocess.run(
        [
            str(shutil.which("linux.uml", path=PATH)),
            *("mem=256M", "rootfstype=hostfs", "rw", f"init={init}", "quiet"),
            *(f"ubd0={disk}", f"ubd1={log}", "con=null", "con0=fd:0,fd:1"),
            f"uml_dir={folder}/",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )
    said = ended.stdout.decode(errors="replace")
    assert "ENDED 0" in said, said[-2000:] + ended.stderr.decode(errors="replace")[-2000:]
    return list(_entries(log.read_bytes()))


def _entries(log: bytes) -> Iterator[Entry]:
    magic, _, count, sector_bytes = struct.unpack_from("<QQQI", log)
    assert (magic, sector_bytes) == (MAGIC, SECTOR_BYTES)
    at = sector_bytes
    for _ in range(count):
        sector, sectors, flags, length = struct.unpack_from("<QQQQ", log, at)
        body = at + sector_bytes
        if flags & MARK:
            text = log[at + 32 : at + 32 + length].rstrip(b"\0").decode()
            yield Entry(0, b"", flags, text)
            at = body
        elif flags & DISCARD:
            yield Entry(0, b"", flags, "")
            at = body
        else:
            data = log[body : body + sectors * SECTOR_BYTES]
            yield Entry(sector * SECTOR_BYTES, data, flags, "")
            at = body + len(data)


def cuts(image: Path, log: Sequence[Entry]) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Give the disks that a power cut may leave, each with the marks that were reached before it.

    After each entry: everything that was written. Before each flush and at each mark also: only
    what was flushed, that with each one of the later sectors alone, and with each one missing.
    """
    durable = bytearray(image.read_bytes())
    pending: list[Entry] = []
    marks: list[str] = []
    yield bytes(durable), ()
    for entry in log:
        if entry.flags & MARK:
            marks.append(entry.mark)
        if entry.flags & (MARK | FLUSH):
            for disk in _states(durable, pending):
                yield disk, tuple(marks)
        if entry.flags & FLUSH:
            for each in pending:
                _apply(durable, each)
            pending.clear()
        if entry.flags & FUA:
            _apply(durable, entry)
        elif entry.data:
            pending += _sectors(entry)
        if entry.data:
            yield _with(durable, pending), tuple(marks)


def _sectors(entry: Entry) -> Iterator[Entry]:
    """A disk writes a sector whole or not at all, and promises nothing about several."""
    for at in range(0, len(entry.data), SECTOR_BYTES):
        yield Entry(entry.at_bytes + at, entry.data[at : at + SECTOR_BYTES], entry.flags, "")


def _apply(disk: bytearray, entry: Entry) -> None:
    disk[entry.at_bytes : entry.at_bytes + len(entry.data)] = entry.data


def _with(durable: bytearray, some: Sequence[Entry]) -> bytes:
    disk = bytearray(durable)
    for each in some:
        _apply(disk, each)
    return bytes(disk)


def _states(durable: bytearray, pending: Sequence[Entry]) -> Iterator[bytes]:
    real = [e for e in pending if durable[e.at_bytes : e.at_bytes + len(e.data)] != e.data]
    yield bytes(durable)
    for one in real:
        yield _with(durable, [one])
        yield _with(durable, [each for each in real if each is not one])
