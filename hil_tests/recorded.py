"""What a recorded device does: the agent's own code at work on a disk whose every write is kept.

Runs as the only program of a guest (`images/files/usr/lib/rig/init`), on two disks at once. On the
first everything is as the agent does it. On the second it is done in the way that is known to lose:
the store does not sync each commit, and GRUB's environment is written anew by GRUB's own tool. Says
on a disk's last partition what has been promised, for a replay to hold against what is left.
"""

import asyncio
import ctypes
import hashlib
import json
import mmap
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from uuid import uuid4

from agent.clock import SystemClock
from agent.documents import Documents
from agent.settings import Settings
from agent.store import Store, open_store
from firmware_hooks.ab_slots import AbSlotsInstaller
from firmware_hooks.boot.grub import Grub
from firmware_hooks.contract import Order
from sync.manifest import Artifact, Health, Manifest
from sync.records import Fact, encode

ROWS = 160
RELEASES = ("1", "2", "3")
NAMES = 20
"""So many names carry the rows of each kind in turn, so that rows are also overwritten."""

IMAGE_BYTES = 700_000
SECTOR_BYTES = 512
RB_POWER_OFF = 0x4321FEDC

libc = ctypes.CDLL(None, use_errno=True)


def image(version: str) -> bytes:
    """Return what a slot is given; each byte depends on the version."""
    block = hashlib.shake_256(f"release {version}".encode()).digest(65_536)
    return (block * (IMAGE_BYTES // len(block) + 1))[:IMAGE_BYTES]


class Marks:
    """Promises, one a sector, in the order in which they were given."""

    def __init__(self, device: str) -> None:
        self._descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
        self._lock = threading.Lock()
        self._count = 0

    def give(self, **promise: object) -> None:
        """Write one, past the cache, so that it comes into the log where it was given."""
        sector = mmap.mmap(-1, 4096)
        sector[:SECTOR_BYTES] = json.dumps(promise).encode().ljust(SECTOR_BYTES)
        with self._lock:
            content = memoryview(sector)[:SECTOR_BYTES]
            os.pwrite(self._descriptor, content, self._count * SECTOR_BYTES)
            self._count += 1


class ByTheTool(Grub):
    """GRUB's environment as `grub-editenv` writes it: emptied, written, synced.

    Where the new content lies is in ext4's journal then, which GRUB does not read.
    """

    def _set(self, primary: str, coming: str) -> None:
        settings = (f"boot_slot={primary}", f"boot_next={coming}")
        subprocess.run(["/usr/bin/grub-editenv", self._path, "set", *settings], check=True)


class Disk:
    """One of the two, and the device that lives on it."""

    def __init__(self, device: str, *, is_careful: bool) -> None:
        self._is_careful = is_careful
        self._home = Path("/tmp", device)  # noqa: S108 - of a guest that nobody else uses
        self._data, boot = self._home / "data", self._home / "boot"
        for folder, number in ((boot, 1), (self._data, 4)):
            folder.mkdir(parents=True)
            subprocess.run(["/bin/mount", f"/dev/{device}{number}", folder], check=True)
        self._marks = Marks(f"/dev/{device}5")
        self._proc = self._home / "proc"
        self._grubenv = boot / "grubenv"
        self._options: dict[str, str | int | float | bool] = {
            "boot": "grub",
            "grubenv": str(self._grubenv),
            "proc": str(self._proc),
            "slot_a": f"/dev/{device}2",
            "slot_b": f"/dev/{device}3",
        }

    async def live(self) -> None:
        """Store rows and install releases, both at the same time."""
        self._reboot()
        async with await open_store(self._data / "state") as store:
            if not self._is_careful:
                await store._connection.execute("PRAGMA synchronous = NORMAL")  # noqa: SLF001
            await asyncio.gather(self._store_rows(store), asyncio.to_thread(self._install))

    async def _store_rows(self, store: Store) -> None:
        settings = Settings.model_validate({"device": "rig-1"})
        documents = Documents(settings, store, SystemClock())
        await documents.start()
        for number in range(1, ROWS + 1):
            name, value = f"row-{number % NAMES}", json.dumps(number).encode()
            await documents.write({f"s/{name}": encode(Fact(str(number)))})
            await store.write_journal(name, value)
            await store.keep_values("rows", {name: value})
            self._marks.give(row=number)

    def _install(self) -> None:
        for version in RELEASES:
            order = self._order(version)
            self._installer().stage(order)
            self._marks.give(staged=version)
            self._installer().activate(order.digest)
            self._marks.give(activated=version)
            self._reboot()
            self._installer().check_trial(order.digest)
            self._installer().commit(order.digest)
            self._marks.give(committed=version)

    def _installer(self) -> AbSlotsInstaller:
        """Make one anew, as each start of the agent does."""
        made = AbSlotsInstaller("lamp", self._data / "install", self._options)
        if not self._is_careful:
            made._boot = ByTheTool(self._options)  # noqa: SLF001
        return made

    def _order(self, version: str) -> Order:
        path = self._home / f"image-{version}"
        path.write_bytes(image(version))
        artifact = Artifact(
            name="root.img",
            sha256=hashlib.sha256(image(version)).hexdigest(),
            length_bytes=IMAGE_BYTES,
        )
        manifest = Manifest(
            component="lamp",
            version=version,
            installer="ab-slots",
            artifacts=(artifact,),
            health=Health(command=("true",)),
        )
        return Order(manifest, manifest.digest(), {"root.img": path}, IMAGE_BYTES)

    def _reboot(self) -> None:
        """Do what GRUB does at a start, which takes a wish back before it boots, in place."""
        block = self._grubenv.read_bytes()
        words = dict(line.split("=", 1) for line in block.decode().split("\n") if "=" in line)
        primary, coming = words["boot_slot"], words["boot_next"]
        self._marks.give(booting=coming)
        back = block.replace(f"boot_next={coming}\n".encode(), f"boot_next={primary}\n".encode())
        if back != block:
            with self._grubenv.open("r+b") as file:
                file.write(back)
                file.flush()
                os.fsync(file.fileno())
            Grub(self._options)._settle(self._grubenv)  # noqa: SLF001 - GRUB knows no journal
        boot_id = self._proc / "sys/kernel/random/boot_id"
        boot_id.parent.mkdir(parents=True, exist_ok=True)
        boot_id.write_text(f"{uuid4()}\n")
        (self._proc / "cmdline").write_text(f"quiet fieldfare.slot={coming}\n")
        self._marks.give(booted=coming)


def main() -> None:
    """Live on both disks, and say how it ended."""
    try:
        for device, is_careful in (("vdb", True), ("vdc", False)):
            asyncio.run(Disk(device, is_careful=is_careful).live())
        sys.stdout.write("RECORDED\n")
    except BaseException:  # noqa: BLE001 - the kernel panics if its first process ends
        traceback.print_exc(file=sys.stdout)
    sys.stdout.flush()
    # No unmount and no sync: whatever was not written is lost, as when the power goes.
    libc.reboot(RB_POWER_OFF)


if __name__ == "__main__":
    main()
