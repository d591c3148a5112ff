"""A device that runs something else than it acknowledged: an older copy of its disk, a hand."""

import asyncio
import shutil
from pathlib import Path

import pytest

from sync.manifest import Manifest
from sync.stages import Stage
from tests.agent.agents import Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub

OLD, NEW = lamp("1.0.0"), lamp("2.0.0")
PUMP = lamp("7.0.0", component="pump")


@pytest.fixture(autouse=True)
def published(blobs: Blobs) -> None:
    for release in (OLD, NEW, PUMP):
        blobs.publish(*release)


def proven(hub: SmallHub, component: str = "lamp") -> tuple[str, bool, str] | None:
    running = hub.running(component)
    return None if running is None else (running.version, running.healthy, running.deployment)


def requests_for(blobs: Blobs, manifest: Manifest) -> int:
    return [digest for digest, _ in blobs.requests].count(manifest.digest().hex())


def copy(device: Device, to: Path) -> None:
    for name in ("state", "install"):
        shutil.copytree(device.folder / name, to / name, symlinks=True)


def restore(device: Device, copied: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(device.folder / name)
        shutil.copytree(copied / name, device.folder / name, symlinks=True)


@pytest.mark.parametrize("restored", [("state", "install"), ("install",), ("state",)], ids="+".join)
async def test_a_device_restored_from_an_older_copy_of_its_disk_runs_what_it_acknowledged_again(
    device: Device, hub: SmallHub, tmp_path: Path, restored: tuple[str, ...]
) -> None:
    async with device.up():
        await hub.deployed("dold", OLD[0])
    copy(device, tmp_path / "copy")
    async with device.up():
        await hub.deployed("dnew", NEW[0])
    acks = hub.acks("dnew")

    restore(device, tmp_path / "copy", *restored)
    async with device.up():
        await hub.deployed("dpump", PUMP[0])
        await hub.until(lambda: (proven(hub) or ("",))[0] == "2.0.0")

    assert device.runs() == "2.0.0"
    assert (proven(hub) or ("", False))[:2] == ("2.0.0", True)
    assert hub.acks("dnew") == acks


async def test_a_release_switched_away_by_hand_is_reported_and_brought_back(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        await hub.deployed("dold", OLD[0])
        await hub.deployed("dnew", NEW[0])
    current = device.folder / "install" / "lamp" / "current"
    current.unlink()
    current.symlink_to(Path("releases") / OLD[0].digest().hex())

    async with device.up():
        await hub.until(lambda: proven(hub) == ("1.0.0", True, ""))
        await hub.until(lambda: proven(hub) == ("2.0.0", True, "dnew"))

    assert device.runs() == "2.0.0"


async def test_where_all_releases_are_gone_nothing_is_said_to_run_until_they_are_back(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up():
        await hub.deployed("dnew", NEW[0])
    shutil.rmtree(device.folder / "install")
    kept, blobs.contents = blobs.contents, {}

    async with device.up():
        await hub.until(lambda: proven(hub) == ("", False, ""))
    assert device.runs() is None

    blobs.contents = kept
    hub.deploy("dagain", NEW[0])
    async with device.up():
        await hub.until(lambda: proven(hub) == ("2.0.0", True, "dagain"))
    assert device.runs() == "2.0.0"


async def test_what_cannot_be_brought_back_is_tried_once_and_not_in_a_loop(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up():
        await hub.deployed("dold", OLD[0])
        await hub.deployed("dnew", NEW[0])
    (device.folder / "install" / "lamp" / "current").unlink()
    (device.folder / "install" / "lamp" / "previous").rename(
        device.folder / "install" / "lamp" / "current"
    )
    del blobs.contents[NEW[0].digest().hex()]
    asked = requests_for(blobs, NEW[0])

    for number in range(3):
        async with device.up():
            while requests_for(blobs, NEW[0]) == asked:
                await asyncio.sleep(0.01)
            await hub.deployed(f"dpump{number}", PUMP[0])

    assert requests_for(blobs, NEW[0]) == asked + 1
    assert device.runs() == "1.0.0"
    assert (proven(hub) or ("",))[0] == "1.0.0"


async def test_a_release_that_is_brought_back_and_fails_its_trial_is_left_to_a_person(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    mood = device.folder / "mood"
    mood.write_text("good")
    manifest, tree = lamp("3.0.0")
    health = manifest.health.model_copy(update={"command": ("grep", "-q", "good", str(mood))})
    moody = manifest.model_copy(update={"health": health})
    blobs.publish(moody, tree)
    async with device.up():
        await hub.deployed("dold", OLD[0])
        await hub.deployed("dmoody", moody)
    current = device.folder / "install" / "lamp" / "current"
    current.unlink()
    current.symlink_to(Path("releases") / OLD[0].digest().hex())
    mood.write_text("bad")
    asked = requests_for(blobs, moody)

    for number in range(3):
        async with device.up():
            while requests_for(blobs, moody) == asked:
                await asyncio.sleep(0.01)
            await hub.deployed(f"dpump{number}", PUMP[0])

    assert requests_for(blobs, moody) == asked + 1
    assert device.runs() == "1.0.0"
    assert proven(hub) == ("1.0.0", True, "")


async def test_cancelling_what_was_acknowledged_brings_no_earlier_release_back(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        await hub.deployed("dold", OLD[0])
        await hub.deployed("dnew", NEW[0])
        hub.deploy("dnew", NEW[0], cancelled=True, order=2)
        await hub.deployed("dpump", PUMP[0])
    async with device.up():
        await hub.deployed("dpump2", PUMP[0])

    assert device.runs() == "2.0.0"


async def test_a_running_release_that_is_unwell_is_restarted_when_it_is_deployed_again(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    mood = device.folder / "mood"
    mood.write_text("good")
    manifest, tree = lamp("3.0.0")
    health = manifest.health.model_copy(update={"command": ("grep", "-q", "good", str(mood))})
    cured = ("sh", "-c", f"test ! -e {device.folder}/cure || echo good > {mood}")
    moody = manifest.model_copy(update={"health": health, "restart": cured})
    blobs.publish(moody, tree)
    async with device.up():
        await hub.deployed("dold", OLD[0])
        await hub.deployed("dmoody", moody)
        mood.write_text("bad")
        hub.deploy("dworse", moody)
        await hub.reached("dworse", Stage.FAILED)

        assert device.runs() == "3.0.0"
        assert proven(hub) == ("3.0.0", False, "dmoody")
        assert Stage.ROLLED_BACK not in hub.stages("dworse")
        failed = hub.acks("dworse")["dworse/F"]
        assert failed.reason == "health_failed"
        assert "stays" in failed.detail

        (device.folder / "cure").touch()
        await hub.deployed("dbetter", moody)

    assert hub.stages("dbetter")[-1] is Stage.ACKNOWLEDGED
    assert proven(hub) == ("3.0.0", True, "dbetter")
