"""Installers that ask for time, lie about the way back, or fall over at the last step."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent import patience
from agent.clock import SystemClock
from agent.releases import Releases
from firmware_hooks.contract import InstallerError, RetryLater
from firmware_hooks.directory import DirectoryInstaller
from sync.manifest import Health
from sync.stages import Stage, is_final
from sync.stamps import BOOT_BYTES, Stamp
from tests.agent.agents import Device, lamp
from tests.agent.test_waiting import deferred, publish
from tests.fakes.blobs import Blobs
from tests.fakes.links import eventually
from tests.fakes.small_hub import SmallHub


class Boots(SystemClock):
    """A clock whose boot id the test turns."""

    number = 1

    def stamp(self) -> Stamp:
        return replace(super().stamp(), boot=self.number.to_bytes(BOOT_BYTES))


class Busy:
    """A directory installer that asks to wait instead of switching."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_busy = True
        self.asked_count = 0
        activate = DirectoryInstaller.activate

        def act(installer: DirectoryInstaller, digest: bytes) -> None:
            if self.is_busy:
                self.asked_count += 1
                raise RetryLater("the machine is in use", 0.05)
            activate(installer, digest)

        monkeypatch.setattr(patience, "BUSY_MIN_S", 0.05)
        monkeypatch.setattr(DirectoryInstaller, "activate", act)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Busy:
    return Busy(monkeypatch)


def rebooting(
    monkeypatch: pytest.MonkeyPatch, awaits: Callable[[DirectoryInstaller], tuple[str, ...] | None]
) -> None:
    """Let every installer be one that may ask for a reboot.

    A class of its own: what was found to be `Reboots` once stays so for the whole process.
    """

    class Rebooting(DirectoryInstaller):
        def awaits_reboot(self) -> tuple[str, ...] | None:
            return awaits(self)

    def installer(
        releases: Releases, component: str, _name: str, folder: Path | None = None
    ) -> Rebooting:
        return Rebooting(component, folder or releases._settings.install_dir)

    monkeypatch.setattr(Releases, "installer", installer)


async def over(hub: SmallHub, deployment: str) -> None:
    await hub.until(lambda: any(is_final(stage) for stage in hub.stages(deployment)))


async def test_days_of_restarts_while_an_installer_asks_for_time_count_for_nothing(
    device: Device, hub: SmallHub, blobs: Blobs, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = device.clock = Boots()
    awaited_in: list[int] = []
    switch = DirectoryInstaller.activate

    def activate(installer: DirectoryInstaller, digest: bytes) -> None:
        switch(installer, digest)
        awaited_in.append(clock.number)

    def awaits(_: DirectoryInstaller) -> tuple[str, ...] | None:
        return () if clock.number in awaited_in else None

    monkeypatch.setattr(DirectoryInstaller, "activate", activate)
    rebooting(monkeypatch, awaits)
    hub.deploy("dfirst", publish(blobs))
    for _ in range(5):
        before = busy.asked_count
        async with device.up(reboot_command=["true"], reboot_wait_s=30):
            await deferred(hub, "dfirst", "busy")
            await eventually(lambda before=before: busy.asked_count > before)  # type: ignore[misc]
        clock.number += 1
    busy.is_busy = False
    ordered = device.folder / "ordered"
    async with device.up(reboot_command=["touch", str(ordered)], reboot_wait_s=30):
        await eventually(ordered.exists)
    clock.number += 1
    async with device.up(reboot_command=["true"], reboot_wait_s=30):
        await over(hub, "dfirst")
    assert Stage.ACKNOWLEDGED in hub.stages("dfirst")
    assert device.runs() == "1.0.0"


async def test_what_is_cancelled_while_an_installer_asks_for_time_is_never_installed(
    device: Device, hub: SmallHub, blobs: Blobs, busy: Busy
) -> None:
    async with device.up():
        manifest = publish(blobs)
        hub.deploy("dfirst", manifest)
        await deferred(hub, "dfirst", "busy")
        hub.deploy("dfirst", manifest, cancelled=True)
        await over(hub, "dfirst")
    assert Stage.CANCELLED in hub.stages("dfirst")
    assert device.runs() is None


async def test_what_a_release_requires_is_looked_at_again_after_a_restart_in_the_wait(
    device: Device, hub: SmallHub, blobs: Blobs, busy: Busy
) -> None:
    async with device.up():
        busy.is_busy = False
        await hub.deployed("dlamp1", publish(blobs, "1.0.0"))
        busy.is_busy = True
        hub.deploy("dapp", publish(blobs, component="app", requires={"lamp": ("1.0.0",)}))
        await deferred(hub, "dapp", "busy")
        busy.is_busy = False
        hub.deploy("dlamp2", publish(blobs, "2.0.0"))
        await over(hub, "dlamp2")
        await over(hub, "dapp")
    # Whichever came first: the app is there only if it was put there beside the lamp it wants.
    if device.runs("app") is None:
        assert {each.reason for each in hub.acks("dapp").values()} & {"requirement_unmet"}


async def test_an_installer_that_asks_for_time_after_it_has_switched_is_taken_back(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with device.up():
        await hub.deployed("dgood", publish(blobs))
        switch = DirectoryInstaller.activate

        def activate(installer: DirectoryInstaller, digest: bytes) -> None:
            switch(installer, digest)
            raise RetryLater("the machine is in use", 0.05)

        monkeypatch.setattr(DirectoryInstaller, "activate", activate)
        hub.deploy("dbad", publish(blobs, "2.0.0"))
        await over(hub, "dbad")
    assert Stage.ROLLED_BACK in hub.stages("dbad")
    assert device.runs() == "1.0.0"


@pytest.mark.parametrize("is_first", [False, True])
async def test_an_installer_that_says_that_it_went_back_and_did_not_is_not_believed(
    device: Device,
    hub: SmallHub,
    blobs: Blobs,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_first: bool,
) -> None:
    async with device.up():
        old = None
        if not is_first:
            await hub.deployed("dgood", publish(blobs))
            old = lamp("1.0.0")[0].digest()
        monkeypatch.setattr(DirectoryInstaller, "roll_back", lambda _self, _digest: old)
        hub.deploy("dbad", publish(blobs, "2.0.0", healthy=False))
        await over(hub, "dbad")
    assert Stage.ROLLED_BACK not in hub.stages("dbad")
    assert {each.reason for each in hub.acks("dbad").values()} >= {"rollback_failed"}


async def test_one_failing_look_before_the_commit_is_made_again(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.clock = Boots()
    rebooting(monkeypatch, lambda _: None)
    fails = {"left": 0}
    running, doubt = DirectoryInstaller.running, DirectoryInstaller.check_trial

    def look(installer: DirectoryInstaller) -> bytes | None:
        if fails["left"]:
            fails["left"] -= 1
            raise InstallerError("installer_failed", "the bus is down")
        return running(installer)

    def check(installer: DirectoryInstaller, digest: bytes) -> None:
        doubt(installer, digest)
        fails["left"] = 1

    monkeypatch.setattr(DirectoryInstaller, "running", look)
    async with device.up():
        await hub.deployed("dgood", publish(blobs))
        monkeypatch.setattr(DirectoryInstaller, "check_trial", check)
        hub.deploy("dnew", publish(blobs, "2.0.0"))
        await over(hub, "dnew")
    assert Stage.ACKNOWLEDGED in hub.stages("dnew")
    assert device.runs() == "2.0.0"


async def test_the_installer_is_asked_again_while_a_release_has_to_stay_up(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    doubt = DirectoryInstaller.check_trial

    def check(installer: DirectoryInstaller, digest: bytes) -> None:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise InstallerError("installer_failed", "its container has ended")
        doubt(installer, digest)

    monkeypatch.setattr(DirectoryInstaller, "check_trial", check)
    manifest, tree = lamp("1.0.0")
    health = Health(command=("true",), deadline_s=2, pause_s=0.1, steady_s=1)
    manifest = manifest.model_copy(update={"health": health})
    blobs.publish(manifest, tree)
    async with device.up():
        hub.deploy("dfirst", manifest)
        await over(hub, "dfirst")
    assert Stage.ACKNOWLEDGED not in hub.stages("dfirst")
    assert "its container has ended" in " ".join(
        each.detail for each in hub.acks("dfirst").values()
    )


async def test_what_is_gone_at_every_start_of_the_device_comes_back_at_every_start(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As containers that do not come back by themselves when the device starts."""
    up = asyncio.Event()
    switch, running = DirectoryInstaller.activate, DirectoryInstaller.running

    def activate(installer: DirectoryInstaller, digest: bytes) -> None:
        switch(installer, digest)
        up.set()

    monkeypatch.setattr(DirectoryInstaller, "activate", activate)
    monkeypatch.setattr(
        DirectoryInstaller, "running", lambda self: running(self) if up.is_set() else None
    )
    clock = device.clock = Boots()
    async with device.up():
        await hub.deployed("dfirst", publish(blobs))
    for _ in range(7):
        up.clear()
        clock.number += 1
        async with device.up():
            await eventually(up.is_set)
            # An agent that is stopped in the middle of a trial counts that start against it.
            while (await device.ask(op="status"))["activity"] != "idle":
                await asyncio.sleep(0.01)


async def test_an_installer_that_ends_the_program_ends_no_agent(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with device.up():
        await hub.deployed("dgood", publish(blobs))
    stop: Callable[[object], None] = lambda _self: sys.exit(2)  # noqa: E731 - an installer's call
    monkeypatch.setattr(DirectoryInstaller, "running", stop)
    async with device.up():
        told = await device.ask(op="why")
        assert "lamp" in str(told)
    await asyncio.sleep(0)


async def test_a_release_cut_off_in_its_trial_comes_to_its_end_before_a_later_one_begins(
    device: Device, hub: SmallHub, blobs: Blobs, busy: Busy
) -> None:
    busy.is_busy = False
    manifest, tree = lamp("1.0.0")
    health = Health(command=("false",), deadline_s=3, pause_s=0.1)
    manifest = manifest.model_copy(update={"health": health})
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dgood", publish(blobs, "0.9.0"))
        hub.deploy("dcut", manifest)
        await hub.until(lambda: Stage.APPLIED in hub.stages("dcut"))
    busy.is_busy = True
    async with device.up():
        hub.deploy("dlater", publish(blobs, "2.0.0"))
        await deferred(hub, "dcut", "busy")
        busy.is_busy = False
        await over(hub, "dcut")
        await over(hub, "dlater")
    assert Stage.ROLLED_BACK in hub.stages("dcut")
    assert Stage.ACKNOWLEDGED in hub.stages("dlater")
    assert device.runs() == "2.0.0"
