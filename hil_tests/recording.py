"""Records every write of a guest's disks, and gives what a power cut at any moment leaves of them.

The guest is the emulated device's own system, started without a bootloader, with `recorded` as its
only program. QEMU's block filter `blklogwrites` keeps what is written and flushed, in the format of
Linux's dm-log-writes. A disk with a volatile cache has after a power cut all that it had before the
last flush, and any part of what came later.
"""

import json
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from hil_tests import recorded
from hil_tests.disk import fill, layout, partition
from tests.fakes.write_log import DISCARD, FLUSH, FUA, MAGIC, SECTOR_BYTES, run

RECORDED: Final = layout(("boot", 4), ("root-a", 1), ("root-b", 1), ("data", 16), ("marks", 1))
FACTORY: Final = recorded.image("0")
GUEST_MAX_S: Final = 240
START: Final = "root=/dev/vda rootfstype=squashfs ro quiet console=ttyS0 panic=-1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One write or flush."""

    at_bytes: int
    data: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class State:
    """A disk that a power cut has left, and what had been promised before it."""

    number: int
    disk: bytes
    promises: tuple[dict[str, Any], ...]

    def part(self, name: str) -> bytes:
        """Return what a partition holds."""
        (part,) = (part for part in RECORDED if part.name == name)
        return self.disk[part.at_bytes : part.at_bytes + part.length_bytes]


@dataclass(frozen=True, slots=True)
class Recording:
    """A disk as it was at first, and all that was written to it."""

    first: bytes
    entries: Sequence[Entry]

    def states(self, count: int, *, seed: int) -> Iterator[State]:
        """Give `count` disks that a power cut may leave, spread over the whole recording.

        Of what was not flushed a third of them keeps nothing, a third all of it, and a third any
        sectors: a disk writes a sector whole or not at all, and promises nothing about several.
        """
        random = Random(seed)
        moments = sorted(random.choices(range(1, len(self.entries) + 1), k=count))
        durable = bytearray(self.first)
        pending: list[Entry] = []
        promises: list[dict[str, Any]] = []
        done = 0
        for number, moment in enumerate(moments):
            for entry in self.entries[done:moment]:
                _take(entry, durable, pending, promises)
            done = moment
            disk = bytearray(durable)
            for entry in pending:
                _apply(entry, disk, random, keeps=(0.0, 1.0, 0.5)[number % 3])
            yield State(number, bytes(disk), tuple(promises))


def _take(
    entry: Entry, durable: bytearray, pending: list[Entry], promises: list[dict[str, Any]]
) -> None:
    """Let time go on by one entry."""
    marks = RECORDED[-1]
    if entry.flags & FLUSH:
        for each in pending:
            durable[each.at_bytes : each.at_bytes + len(each.data)] = each.data
        pending.clear()
    if not entry.data:
        return
    if entry.at_bytes >= marks.at_bytes:
        at = range(0, len(entry.data), SECTOR_BYTES)
        promises += [json.loads(entry.data[each : each + SECTOR_BYTES]) for each in at]
    elif entry.flags & FUA:
        durable[entry.at_bytes : entry.at_bytes + len(entry.data)] = entry.data
    else:
        pending.append(entry)


def _apply(entry: Entry, disk: bytearray, random: Random, *, keeps: float) -> None:
    for at in range(0, len(entry.data), SECTOR_BYTES):
        if random.random() < keeps:
            begin = entry.at_bytes + at
            disk[begin : begin + SECTOR_BYTES] = entry.data[at : at + SECTOR_BYTES]


def record(system: Path, folder: Path) -> tuple[Recording, Recording]:
    """Let the guest live; return what became of the careful disk and of the careless one.

    Args:
        system: The folder that `images/system.sh` made.
        folder: Empty; nothing in it is needed afterwards.
    """
    first = folder / "first.img"
    _make(first, folder / "tree")
    program = folder / "program.img"
    program.write_bytes(Path(recorded.__file__).read_bytes().ljust(64 * 1024, b"\0"))
    disks = []
    for name in ("careful", "careless"):
        (folder / f"{name}.img").write_bytes(first.read_bytes())
        (folder / f"{name}.log").touch()
        disks += _recorded_disk(name, folder)
    ended = subprocess.run(
        [
            *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "320", "-nodefaults"),
            *("-no-reboot", "-display", "none", "-serial", "stdio"),
            *("-kernel", f"{system}/vmlinuz", "-initrd", f"{system}/initrd.img", "-append"),
            f"{START} init=/usr/lib/rig/init",
            *_read_disk("system", system / "system.squashfs"),
            *disks,
            *_read_disk("program", program),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=GUEST_MAX_S,
        check=False,
    )
    said = ended.stdout.decode(errors="replace")
    assert "RECORDED" in said, said[-3000:] + ended.stderr.decode(errors="replace")[-1000:]
    careful, careless = (
        Recording(first.read_bytes(), tuple(_entries((folder / f"{name}.log").read_bytes())))
        for name in ("careful", "careless")
    )
    return careful, careless


def _make(path: Path, tree: Path) -> None:
    """Write the disk as it is at first: GRUB's variables, two slots, no data."""
    (tree / "empty").mkdir(parents=True)
    (tree / "boot").mkdir()
    block = tree / "boot" / "grubenv"
    run("grub-editenv", block, "create")
    run("grub-editenv", block, "set", "boot_slot=A", "boot_next=A")
    partition(path, RECORDED)
    boot, first, second, data, _ = RECORDED
    fill(path, boot, tree / "boot")
    fill(path, data, tree / "empty")
    with path.open("r+b") as file:
        for slot in (first, second):
            file.seek(slot.at_bytes)
            file.write(FACTORY)


def _read_disk(name: str, path: Path) -> list[str]:
    file = f"if=none,id={name},format=raw,readonly=on,file={path}"
    return ["-drive", file, "-device", f"virtio-blk-pci,drive={name}"]


def _recorded_disk(name: str, folder: Path) -> list[str]:
    files = f"file={name}-disk,log={name}-log"
    sectors = f"log-sector-size={SECTOR_BYTES}"
    return [
        *("-blockdev", f"driver=file,filename={folder}/{name}.img,node-name={name}-disk"),
        *("-blockdev", f"driver=file,filename={folder}/{name}.log,node-name={name}-log"),
        *("-blockdev", f"driver=blklogwrites,node-name={name},{files},{sectors}"),
        *("-device", f"virtio-blk-pci,drive={name}"),
    ]


def _entries(log: bytes) -> Iterator[Entry]:
    magic, _, count, sector_bytes = struct.unpack_from("<QQQI", log)
    assert (magic, sector_bytes) == (MAGIC, SECTOR_BYTES)
    at = sector_bytes
    for _ in range(count):
        sector, sectors, flags, _ = struct.unpack_from("<QQQQ", log, at)
        at += sector_bytes
        length = 0 if flags & DISCARD else sectors * SECTOR_BYTES
        yield Entry(sector * SECTOR_BYTES, log[at : at + length], flags)
        at += length
