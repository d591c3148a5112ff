"""`python -m tests.agent.disks CASE FOLDER`: a whole agent on disks that fail, in a name space.

Each case mounts small file systems of its own below FOLDER, so it needs a mount name space.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.shared import FOLDER
from agent.store import StoreError
from sync.stages import Stage
from sync.transport.memory_broker import MemoryBroker
from tests.agent.agents import DEVICE, Device, lamp
from tests.fakes.blobs import Blobs, serving_blobs
from tests.fakes.small_hub import SmallHub
from tests.firmware_hooks.trees import release

FILL = "fill"


def mount(folder: Path, size: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def fill_up(folder: Path) -> None:
    with (folder / FILL).open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


class Site:
    """A device, what it hears, and its disks."""

    def __init__(self, device: Device, hub: SmallHub, blobs: Blobs) -> None:
        self.device = device
        self.hub = hub
        self.blobs = blobs
        self.state = device.folder / "state"
        self.install = device.folder / "install"

    async def good_one(self) -> None:
        manifest, tree = lamp("1.0.0")
        self.blobs.publish(manifest, tree)
        await self.hub.deployed("dgood", manifest)

    def wish(self, deployment: str, version: str) -> None:
        manifest, tree = lamp(version)
        self.blobs.publish(manifest, tree)
        self.hub.deploy(deployment, manifest)

    def check(self, version: str) -> None:
        """The device runs this version, is proven to, and says so."""
        assert self.device.runs() == version
        running = self.hub.running("lamp")
        assert running is not None
        assert (running.version, running.healthy) == (version, True), running


async def releases_full(site: Site) -> None:
    """No room where releases are put."""
    async with site.device.up():
        await site.good_one()
        fill_up(site.install)
        site.wish("dfull", "2.0.0")
        await site.hub.reached("dfull", Stage.FAILED)
        assert site.hub.acks("dfull")["dfull/F"].reason == "no_space"
        site.check("1.0.0")
        (site.install / FILL).unlink()
        site.wish("droom", "2.0.1")
        await site.hub.reached("droom", Stage.ACKNOWLEDGED)
        site.check("2.0.1")


async def releases_reserve(site: Site) -> None:
    """The tree would leave the disk less than its reserve: nothing of it is laid down."""
    reserve_bytes = 1_000_000
    async with site.device.up(disk_reserve_bytes=reserve_bytes):
        await site.good_one()
        manifest, tree = release(
            {"VERSION": b"2.0.0\n", "zeros": bytes(1_500_000)}, version="2.0.0"
        )
        manifest = manifest.model_copy(update={"component": "lamp"})
        site.blobs.publish(manifest, tree)
        site.hub.deploy("dlarge", manifest)
        await site.hub.reached("dlarge", Stage.FAILED)
        ack = site.hub.acks("dlarge")["dlarge/F"]
        assert ack.reason == "no_space"
        assert "beside its reserve" in ack.detail
        assert shutil.disk_usage(site.install).free > reserve_bytes
        site.check("1.0.0")


async def releases_read_only(site: Site) -> None:
    """The place of releases turned read-only, as a failing card does."""
    async with site.device.up():
        await site.good_one()
        remount(site.install, "ro")
        site.wish("dbad", "2.0.0")
        await site.hub.reached("dbad", Stage.FAILED)
        ack = site.hub.acks("dbad")["dbad/F"]
        assert ack.reason == "installer_failed"
        assert "Read-only file system" in ack.detail
        site.check("1.0.0")
        remount(site.install, "rw")
        site.wish("dmended", "2.0.1")
        await site.hub.reached("dmended", Stage.ACKNOWLEDGED)
        site.check("2.0.1")


async def database_full(site: Site) -> None:
    """No room for the agent's own database: nothing is done, and all of it when there is."""
    async with site.device.up():
        await site.good_one()
        fill_up(site.state)
        site.wish("dwaits", "2.0.0")
        answer = await site.device.ask(op="status")
        assert answer["ok"]
        site.check("1.0.0")
        (site.state / FILL).unlink()
        await site.hub.reached("dwaits", Stage.ACKNOWLEDGED)
        site.check("2.0.0")


async def database_read_only(site: Site) -> None:
    """The database is read-only at a start: the agent says so and touches nothing."""
    async with site.device.up():
        await site.good_one()
    remount(site.state, "ro")
    site.wish("dwaits", "2.0.0")
    try:
        async with asyncio.timeout(10):
            await site.device.live()
    except StoreError as error:
        assert "Read-only file system" in str(error)  # noqa: PT017 - this is no test by itself
    else:
        raise AssertionError("the agent runs without a database")
    site.check("1.0.0")
    remount(site.state, "rw")
    async with site.device.up():
        await site.hub.reached("dwaits", Stage.ACKNOWLEDGED)
        site.check("2.0.0")


async def database_damaged(site: Site) -> None:
    """The database is rubbish at a start: it is set aside, and what runs is found again."""
    async with site.device.up():
        await site.good_one()
    database = next(site.state.glob("*.db"))
    database.write_bytes(b"rubbish" * 1000)
    for beside in site.state.glob("*.db-*"):
        beside.unlink()
    async with site.device.up():
        site.wish("dnext", "2.0.0")
        await site.hub.reached("dnext", Stage.ACKNOWLEDGED)
        site.check("2.0.0")
    assert list(site.state.glob("*damaged*")), sorted(site.state.iterdir())


async def database_damaged_while_it_runs(site: Site) -> None:
    """A failing card changes the database under the agent: it lives on, and a start mends it."""
    async with site.device.up():
        await site.good_one()
        for file in (*site.state.glob("*.db"), *site.state.glob("*.db-wal")):
            with file.open("r+b") as content:
                content.write(b"rubbish!" * (file.stat().st_size // 8))
        site.wish("dnext", "2.0.0")
        answer = await site.device.ask(op="status")
        assert answer["ok"]
        assert site.device.runs() in {"1.0.0", "2.0.0"}
    async with site.device.up():
        await site.hub.reached("dnext", Stage.ACKNOWLEDGED)
        site.check("2.0.0")


async def kept_for_neighbours(site: Site) -> None:
    """The disk is full of what is kept for neighbours: it goes, the longest unused first."""
    shared = site.state / FOLDER
    async with site.device.up(disk_reserve_bytes=1_000_000, share_keep_bytes=10_000_000):
        await site.good_one()
        shared.mkdir(exist_ok=True)  # the agent may not have come to keep its own there yet
        for at_s, name in enumerate("ab"):
            (shared / (name * 64)).write_bytes(bytes(700_000))
            os.utime(shared / (name * 64), (at_s, at_s))
        fill_up(site.state)
        os.truncate(site.state / FILL, (site.state / FILL).stat().st_size - 400_000)
        site.wish("dfits", "2.0.0")
        await site.hub.reached("dfits", Stage.ACKNOWLEDGED)
        site.check("2.0.0")
        assert not (shared / ("a" * 64)).exists()
        assert (shared / ("b" * 64)).exists()


CASES: dict[str, Callable[[Site], Awaitable[None]]] = {
    each.__name__: each
    for each in (
        releases_full,
        releases_reserve,
        releases_read_only,
        database_full,
        database_read_only,
        database_damaged,
        database_damaged_while_it_runs,
        kept_for_neighbours,
    )
}


@asynccontextmanager
async def site_in(folder: Path) -> AsyncIterator[Site]:
    for name, size in (("state", "4m"), ("install", "2m")):
        mount(folder / name, size)
    broker = MemoryBroker()
    with serving_blobs() as blobs:
        async with SmallHub(broker, DEVICE).up() as hub:
            yield Site(Device(folder, broker, blobs.url), hub, blobs)


async def main(case: str, folder: Path) -> None:
    async with site_in(folder) as site:
        await CASES[case](site)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
