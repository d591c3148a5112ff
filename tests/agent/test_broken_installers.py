"""An installer can be anybody's program: whatever it raises, the agent lives and says so."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from firmware_hooks.contract import Order
from firmware_hooks.directory import DirectoryInstaller
from sync.stages import Stage, is_final
from tests.agent.agents import ALL_STAGES, Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub


def raises(error: Exception) -> Callable[..., Any]:
    def act(*_: object) -> None:
        raise error

    return act


BROKEN = [KeyError("slot"), OSError("Input/output error"), RuntimeError("the bus is down")]


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
async def test_an_agent_whose_installer_cannot_say_what_runs_lives_and_tells_that(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest)
    monkeypatch.setattr(DirectoryInstaller, "running", raises(error))
    task = asyncio.create_task(device.live())
    await hub.until(lambda: task.done() or not _healthy(hub))
    assert not task.done()

    told = await device.ask(op="why")

    assert any(
        sentence.startswith(f"What runs of lamp is not known: {type(error).__name__}: ")
        for sentence in told["sentences"]
    ), told
    task.cancel()
    await asyncio.wait({task})


def _healthy(hub: SmallHub) -> bool:
    running = hub.running("lamp")
    return running is not None and running.healthy


@pytest.mark.parametrize("call", ["clean_up", "folder"])
async def test_an_agent_whose_installer_cannot_clear_away_says_the_end_and_starts_again(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    if call == "clean_up":
        monkeypatch.setattr(DirectoryInstaller, call, raises(RuntimeError("a bug")))
    async with device.up():
        await hub.deployed("dfirst", manifest)
    monkeypatch.setattr(DirectoryInstaller, call, raises(RuntimeError("a bug")))
    second, tree = lamp("1.0.0", component="pump")
    blobs.publish(second, tree)
    task = asyncio.create_task(device.live())
    hub.deploy("dsecond", second)
    await hub.until(lambda: task.done() or any(map(is_final, _of(hub))))
    assert not task.done(), task.exception()
    assert _of(hub) == ALL_STAGES if call == "clean_up" else Stage.FAILED in _of(hub)
    task.cancel()
    await asyncio.wait({task})


def _of(hub: SmallHub) -> list[Stage]:
    return hub.stages("dsecond")


async def test_an_install_that_went_back_says_that_what_runs_is_not_known(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = lamp("1.0.0"), lamp("2.0.0", healthy=False)
    blobs.publish(*good)
    blobs.publish(*bad)
    back = DirectoryInstaller.roll_back

    def goes_back(self: DirectoryInstaller, digest: bytes) -> bytes | None:
        went_to = back(self, digest)
        monkeypatch.setattr(DirectoryInstaller, "running", raises(RuntimeError("the bus is down")))
        return went_to

    monkeypatch.setattr(DirectoryInstaller, "roll_back", goes_back)
    async with device.up():
        await hub.deployed("dgood", good[0])
        hub.deploy("dbad", bad[0])
        await hub.reached("dbad", Stage.ROLLED_BACK)

    ack = hub.acks("dbad")["dbad/B"]
    assert ack.detail.endswith("what runs now is not known: RuntimeError: the bus is down")
    assert device.runs() == "1.0.0"


async def test_what_is_not_known_to_run_is_not_installed_again_and_again(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged: list[str] = []
    running, stage = DirectoryInstaller.running, DirectoryInstaller.stage

    def says_nothing_of_the_lamp(self: DirectoryInstaller) -> bytes | None:
        if self.folder(b"").parent.name == "lamp":
            raise RuntimeError("the bus is down")
        return running(self)

    def noted(self: DirectoryInstaller, order: Order) -> None:
        staged.append(order.manifest.component)
        stage(self, order)

    made = [lamp("1.0.0"), lamp("1.0.0", component="pump"), lamp("2.0.0", component="pump")]
    for each in made:
        blobs.publish(*each)
    async with device.up():
        await hub.deployed("dlamp", made[0][0])
    monkeypatch.setattr(DirectoryInstaller, "running", says_nothing_of_the_lamp)
    monkeypatch.setattr(DirectoryInstaller, "stage", noted)
    async with device.up():
        await hub.deployed("dfirst", made[1][0])
        await hub.deployed("dsecond", made[2][0])

    assert staged == ["pump", "pump"]
