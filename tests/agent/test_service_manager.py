"""What the agent says to the service manager that started it."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import work
from agent.store import Store
from firmware_hooks.directory import DirectoryInstaller
from tests.agent.agents import Device
from tests.agent.test_waiting import publish
from tests.fakes.blobs import Blobs
from tests.fakes.links import eventually
from tests.fakes.small_hub import SmallHub


class Manager:
    """Hears what a service says."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.heard: list[str] = []

    def listen(self) -> None:
        while True:
            try:
                self.heard.append(self._listening.recv(4096).decode())
            except BlockingIOError:
                return

    def has(self, line: str) -> bool:
        self.listen()
        return any(line in said.split("\n") for said in self.heard)

    def fed_count(self) -> int:
        self.listen()
        return self.heard.count("WATCHDOG=1")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """Give a service manager that wants to hear of the agent every 0.4 s."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.setblocking(False)
        yield Manager(listening)


async def test_an_agent_says_when_it_is_ready_and_feeds_the_watchdog_from_then_on(
    device: Device, hub: SmallHub, manager: Manager
) -> None:
    async with device.up():
        await eventually(lambda: manager.has("READY=1"))
        await eventually(lambda: manager.fed_count() >= 3)
    first = next(said for said in manager.heard if "READY=1" in said or "WATCHDOG" in said)
    assert "READY=1" in first


async def test_what_is_being_done_is_shown(
    device: Device, hub: SmallHub, blobs: Blobs, manager: Manager
) -> None:
    async with device.up():
        await hub.deployed("dfirst", publish(blobs))
    assert manager.has("STATUS=trial lamp 1.0.0")
    assert manager.has("STATUS=idle")


async def test_an_install_that_takes_long_feeds_the_watchdog_and_one_that_hangs_does_not(
    device: Device,
    hub: SmallHub,
    blobs: Blobs,
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, goes_on = asyncio.get_running_loop(), asyncio.Event()
    begun = asyncio.Event()
    stage = DirectoryInstaller.stage

    def slow(installer: DirectoryInstaller, order: object) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result(30)
        stage(installer, order)  # type: ignore[arg-type]

    monkeypatch.setattr(DirectoryInstaller, "stage", slow)
    async with device.up():
        hub.deploy("dfirst", publish(blobs))
        await begun.wait()
        before = manager.fed_count()
        await eventually(lambda: manager.fed_count() >= before + 3)
        monkeypatch.setattr(work, "ACT_LONGEST_S", 0.0)
        asked = asyncio.Event()
        answers = Store.answers

        async def ask(store: Store) -> None:
            await answers(store)
            asked.set()

        monkeypatch.setattr(Store, "answers", ask)
        await asked.wait()
        starved = manager.fed_count()
        for _ in range(3):
            asked.clear()
            await asked.wait()
        assert manager.fed_count() <= starved + 1
        goes_on.set()


async def test_a_database_that_hangs_starves_the_watchdog(
    device: Device, hub: SmallHub, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, goes_on = asyncio.Event(), asyncio.Event()

    async def hang(_: Store) -> None:
        asked.set()
        await goes_on.wait()

    async with device.up():
        await eventually(lambda: manager.fed_count() >= 1)
        monkeypatch.setattr(Store, "answers", hang)
        await asked.wait()
        starved = manager.fed_count()
        await device.ask(op="status")
        assert manager.fed_count() == starved
        goes_on.set()
        await eventually(lambda: manager.fed_count() > starved)
