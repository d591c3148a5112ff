"""A whole agent that waits with a deployment: why, until when, and what ends it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent import patience, way_back
from agent.installer import WRITES_MAX
from agent.store import open_store
from firmware_hooks.contract import Order, RetryLater
from firmware_hooks.directory import DirectoryInstaller
from sync.stages import Stage, is_final
from tests.agent.agents import ALL_STAGES, NOWHERE, Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub

NEVER_SOON = "*-2-29 03:00-03:01"
"""The hub of these tests lives in January 2027."""


class App:
    """An application that keeps its connection to the agent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, **request: Any) -> dict[str, Any]:
        self._writer.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._reader.readline())
        return answer

    async def inhibit(self, reason: str = "a backup runs", **more: Any) -> str:
        answer = await self.ask(op="inhibit", owner="backup", reason=reason, **more)
        assert answer["ok"], answer
        return str(answer["lock"])


@contextlib.asynccontextmanager
async def app(device: Device) -> AsyncIterator[App]:
    await device.ask(op="status")  # it is up
    reader, writer = await asyncio.open_unix_connection(device.folder / "a.sock")
    try:
        yield App(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def publish(blobs: Blobs, version: str = "1.0.0", **more: Any) -> Any:
    manifest, tree = lamp(version, **more)
    blobs.publish(manifest, tree)
    return manifest


async def deferred(hub: SmallHub, deployment: str = "dfirst", reason: str = "inhibited") -> None:
    def is_so() -> bool:
        waiting = hub.waiting(deployment)
        return waiting is not None and waiting.reason == reason

    await hub.until(is_so)


async def test_a_lock_defers_an_install_and_its_release_ends_the_wait(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(), app(device) as backup:
        lock = await backup.inhibit()
        hub.deploy("dfirst", publish(blobs))
        await deferred(hub)
        waiting = hub.waiting("dfirst")
        assert waiting is not None
        assert waiting.detail == "backup holds a lock: a backup runs"
        assert waiting.overdue == "give_up"
        assert waiting.left_s == 7 * 86_400
        assert hub.stages("dfirst") == [Stage.DELIVERED, Stage.VERIFIED, Stage.DEFERRED]
        assert hub.acks("dfirst")["dfirst/W"].reason == "inhibited"
        assert device.runs() is None

        assert (await backup.ask(op="release", lock=lock))["owner"] == "backup"
        await hub.reached("dfirst")
        await hub.until(lambda: (said := hub.waiting("dfirst")) is None or not said.reason)

    assert device.runs() == "1.0.0"
    assert set(hub.stages("dfirst")) == {*ALL_STAGES, Stage.DEFERRED}


async def test_an_application_that_dies_releases_its_lock(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up():
        async with app(device) as backup:
            await backup.inhibit()
            hub.deploy("dfirst", publish(blobs))
            await deferred(hub)
        await hub.reached("dfirst")
    assert device.runs() == "1.0.0"


async def test_a_lease_outlives_its_connection_and_ends_by_itself(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up():
        async with app(device) as valve:
            await valve.inhibit(lease=True, ttl_s=1.5)
            hub.deploy("dfirst", publish(blobs))
        await deferred(hub)
        await hub.reached("dfirst")
    assert device.runs() == "1.0.0"


async def test_an_operators_now_ends_a_wait_at_once_and_the_device_says_what_it_passed_over(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(), app(device) as backup:
        await backup.inhibit()
        hub.deploy("dfirst", publish(blobs))
        await deferred(hub)
        hub.terms("dfirst", is_now=True)
        await hub.reached("dfirst")
        await hub.until(lambda: "operator" in (said.detail if (said := _said(hub)) else ""))
        said = _said(hub)
        assert said is not None
        assert said.reason == ""
        assert "backup holds a lock" in said.detail


def _said(hub: SmallHub) -> Any:
    return hub.waiting("dfirst")


@pytest.mark.parametrize("end", [Stage.CANCELLED, Stage.SUPERSEDED])
async def test_a_deployment_that_is_taken_back_waits_no_more(
    device: Device, hub: SmallHub, blobs: Blobs, end: Stage
) -> None:
    async with device.up(), app(device) as backup:
        await backup.inhibit()
        first = publish(blobs)
        hub.deploy("dfirst", first)
        await deferred(hub)
        if end is Stage.CANCELLED:
            hub.deploy("dfirst", first, cancelled=True)
        else:
            hub.deploy("dlater", publish(blobs, "1.1.0"))
        await hub.reached("dfirst", end)
        await hub.until(lambda: not _said(hub).reason)
    assert device.runs() is None


async def test_a_used_up_budget_gives_up_and_what_ran_stays(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(defer_budget_s=0.3):
        await hub.deployed("dgood", publish(blobs))
        async with app(device) as backup:
            await backup.inhibit()
            hub.deploy("dfirst", publish(blobs, "1.1.0"))
            await hub.reached("dfirst", Stage.FAILED)
    failed = hub.acks("dfirst")["dfirst/F"]
    assert failed.reason == "deferred_too_long"
    assert "a backup runs" in failed.detail
    assert device.runs() == "1.0.0"


async def test_a_used_up_budget_goes_on_all_the_same_if_the_device_says_so(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(defer_budget_s=0.3, defer_overdue="go"), app(device) as backup:
        await backup.inhibit()
        await hub.deployed("dfirst", publish(blobs))
    assert Stage.DEFERRED in hub.stages("dfirst")


async def test_an_operators_budget_counts_instead_of_the_devices(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(), app(device) as backup:
        await backup.inhibit()
        hub.terms("dfirst", budget_s=0)
        hub.deploy("dfirst", publish(blobs))
        await hub.reached("dfirst", Stage.FAILED)


async def test_restarts_neither_skip_a_wait_nor_begin_its_budget_anew_nor_count_as_tries(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    hub.deploy("dfirst", publish(blobs))
    begun = set()
    for number in range(4):
        async with device.up(install_attempts_max=2):
            if number == 0:
                hub.terms("dfirst", windows=(NEVER_SOON,))
            await deferred(hub, reason="outside_window")
            waiting = hub.waiting("dfirst")
            assert waiting is not None
            begun.add((waiting.boot, waiting.boottime_ms))
    assert len(begun) == 1
    assert device.runs() is None
    async with device.up(install_attempts_max=2):
        hub.terms("dfirst", is_now=True)
        await hub.reached("dfirst")
    assert device.runs() == "1.0.0"


async def test_a_lock_outlives_a_restart_of_the_agent_if_it_is_a_lease(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(), app(device) as valve:
        lock = await valve.inhibit(lease=True, ttl_s=600)
    hub.deploy("dfirst", publish(blobs))
    async with device.up():
        await deferred(hub)
        (row,) = (await device.ask(op="inhibitors"))["locks"]
        assert (row["lock"], row["owner"], row["lease"]) == (lock, "backup", True)
        await device.ask(op="release", lock=lock)
        await hub.reached("dfirst")


async def test_what_waits_does_not_hold_up_another_component(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up():
        hub.terms("dfirst", windows=(NEVER_SOON,))
        hub.deploy("dfirst", publish(blobs))
        await deferred(hub, reason="outside_window")
        await hub.deployed("dpump", publish(blobs, "3.0.0", component="pump"))
        assert device.runs("pump") == "3.0.0"
        assert device.runs() is None
        hub.terms("dfirst", is_now=True)
        await hub.reached("dfirst")
    assert device.runs() == "1.0.0"


async def test_a_window_is_told_with_the_moment_it_opens(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(maintenance_windows=[NEVER_SOON], time_zone="Europe/Berlin"):
        hub.deploy("dfirst", publish(blobs))
        await deferred(hub, reason="outside_window")
        waiting = hub.waiting("dfirst")
        assert waiting is not None
        assert waiting.until_ms == 1_835_402_400_000  # 2028-02-29 02:00 UTC
        assert "Tue 2028-02-29 03:00 CET" in waiting.detail


async def test_everything_is_there_when_the_window_opens(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(maintenance_windows=[NEVER_SOON]):
        hub.deploy("dfirst", publish(blobs))
        await deferred(hub, reason="outside_window")
    releases = device.folder / "install" / "lamp" / "releases"
    assert [path.is_dir() for path in releases.iterdir()] == [True]
    assert device.runs() is None


async def test_an_installer_that_asks_for_time_is_asked_again(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    stage, activate = DirectoryInstaller.stage, DirectoryInstaller.activate

    def busy_once(self: DirectoryInstaller, order: Order) -> None:
        asked.append("stage")
        if len(asked) == 1:
            raise RetryLater("the flasher warms up", 0.01)
        stage(self, order)

    def busy_once_more(self: DirectoryInstaller, digest: bytes) -> None:
        asked.append("activate")
        if asked.count("activate") == 1:
            raise RetryLater("the flasher cools down", 0.01)
        activate(self, digest)

    monkeypatch.setattr(DirectoryInstaller, "stage", busy_once)
    monkeypatch.setattr(DirectoryInstaller, "activate", busy_once_more)
    async with device.up(install_attempts_max=1):
        await hub.deployed("dfirst", publish(blobs))
    assert asked == ["stage", "stage", "activate", "stage", "activate"]
    assert hub.acks("dfirst")["dfirst/W"].reason == "busy"
    assert "warms up" in hub.acks("dfirst")["dfirst/W"].detail


async def test_an_installer_may_ask_for_time_as_often_as_the_budget_lasts(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    activate = DirectoryInstaller.activate

    def busy(self: DirectoryInstaller, digest: bytes) -> None:
        nonlocal asked
        asked += 1
        if asked <= 2 * WRITES_MAX:
            raise RetryLater("the machine is in use", 0.01)
        activate(self, digest)

    monkeypatch.setattr(patience, "BUSY_MIN_S", 0.01)
    monkeypatch.setattr(DirectoryInstaller, "activate", busy)
    async with device.up(install_attempts_max=1):
        hub.deploy("dfirst", publish(blobs))
        await hub.until(lambda: any(is_final(stage) for stage in hub.stages("dfirst")))
        assert Stage.ACKNOWLEDGED in hub.stages("dfirst"), hub.acks("dfirst")
    assert asked == 2 * WRITES_MAX + 1


@pytest.mark.parametrize("call", ["stage", "activate"])
async def test_what_a_release_requires_is_looked_at_again_after_it_has_waited(
    device: Device,
    hub: SmallHub,
    blobs: Blobs,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    may_go = False
    act = getattr(DirectoryInstaller, call)

    def busy(self: DirectoryInstaller, given: Any) -> None:
        if not may_go and self.folder(b"").parent.name == "app":
            raise RetryLater("not now", 0.01)
        act(self, given)

    monkeypatch.setattr(DirectoryInstaller, call, busy)
    app_of = publish(blobs, component="app", requires={"lamp": ("1.0.0",)})
    async with device.up():
        await hub.deployed("dlamp1", publish(blobs))
        hub.deploy("dapp", app_of)
        await deferred(hub, "dapp", "busy")
        await hub.deployed("dlamp2", publish(blobs, "2.0.0"))
        may_go = True
        await hub.until(lambda: any(is_final(stage) for stage in hub.stages("dapp")))

    assert hub.acks("dapp")["dapp/F"].reason == "requirement_unmet"
    assert device.runs("app") is None


@pytest.mark.parametrize("tries_max", [60, 2], ids=["long enough", "too short"])
async def test_a_way_back_that_has_to_wait_is_tried_again_within_its_bounds_and_over_restarts(
    device: Device,
    hub: SmallHub,
    blobs: Blobs,
    monkeypatch: pytest.MonkeyPatch,
    tries_max: int,
) -> None:
    loop, asked_twice = asyncio.get_running_loop(), asyncio.Event()
    asked = 0
    back = DirectoryInstaller.roll_back

    def busy(self: DirectoryInstaller, digest: bytes) -> bytes | None:
        nonlocal asked
        asked += 1
        if asked == 2:
            loop.call_soon_threadsafe(asked_twice.set)
        if asked <= 4:
            raise RetryLater("dpkg's lock is taken", 0.01)
        return back(self, digest)

    monkeypatch.setattr(way_back, "TRIES_MAX", tries_max)
    monkeypatch.setattr(way_back, "WAIT_MIN_S", 0.05)
    monkeypatch.setattr(DirectoryInstaller, "roll_back", busy)
    async with device.up(install_attempts_max=1):
        await hub.deployed("dgood", publish(blobs))
        hub.deploy("dbad", publish(blobs, "2.0.0", healthy=False))
        await asked_twice.wait()
    async with device.up(install_attempts_max=1):
        hub.deploy("dlater", publish(blobs, "3.0.0"))
        await hub.until(lambda: any(is_final(stage) for stage in hub.stages("dbad")))
        await hub.reached("dlater")

    acks = hub.acks("dbad")
    if tries_max > 4:
        assert (asked, acks["dbad/B"].reason) == (5, "health_failed")
    else:
        assert acks["dbad/F"].reason == "rollback_failed"
        assert "asked for time 2 times: dpkg's lock is taken" in acks["dbad/F"].detail


async def test_a_wait_that_has_ended_leaves_nothing_behind(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(), app(device) as backup:
        lock = await backup.inhibit()
        hub.deploy("dfirst", publish(blobs))
        await deferred(hub)
        await backup.ask(op="release", lock=lock)
        await hub.reached("dfirst")
        await device.ask(op="wake")
        await hub.deployed("dlater", publish(blobs, "1.1.0"))
    assert await _kept(device.folder / "state") == {"deferral": {}, "lock": {}}


async def _kept(state_dir: Path) -> dict[str, dict[str, bytes]]:
    async with await open_store(state_dir) as store:
        return {kind: await store.kept(kind) for kind in ("deferral", "lock")}


async def test_an_installer_that_never_finds_time_to_switch_is_given_up_and_nothing_was_touched(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(self: DirectoryInstaller, digest: bytes) -> None:
        raise RetryLater("the flasher cools down", 0.01)

    async with device.up():
        await hub.deployed("dgood", publish(blobs))
    monkeypatch.setattr(DirectoryInstaller, "activate", busy)
    async with device.up(defer_budget_s=0.5, defer_overdue="go"):
        hub.deploy("dfirst", publish(blobs, "1.1.0"))
        await deferred(hub, reason="busy")
        await hub.reached("dfirst", Stage.FAILED)
    end = hub.acks("dfirst")["dfirst/F"]
    assert end.reason == "deferred_too_long"
    assert "the flasher cools down" in end.detail
    assert device.runs() == "1.0.0"


async def why(device: Device, deployment: str = "dfirst") -> dict[str, Any]:
    told = await device.ask(op="why")
    (row,) = [row for row in told["deployments"] if row["deployment"] == deployment]
    assert row["sentence"] in told["sentences"]
    return dict(row)


async def test_a_device_says_why_it_waits_until_when_and_what_would_end_it(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(defer_overdue="go"), app(device) as backup:
        await backup.inhibit(ttl_s=7200)
        hub.deploy("dfirst", publish(blobs))
        await deferred(hub)
        told = await why(device)
        assert (told["doing"], told["before"], told["reason"]) == ("waiting", "stage", "inhibited")
        assert told["reasons"][0]["ends"] == "backup releases its lock"
        assert told["until"] is not None
        assert told["since_s"] >= 0
        assert "backup holds a lock: a backup runs" in told["sentence"]
        assert "It goes on when backup releases its lock, at Fri 2027-01-15" in told["sentence"]
        assert "goes on all the same after 7 d more" in told["sentence"]


async def test_a_device_says_that_it_waits_for_the_network(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    device.hub_url = NOWHERE
    async with device.up():
        hub.deploy("dfirst", publish(blobs))
        await hub.reached("dfirst", Stage.DELIVERED)
        while not (told := await why(device)).get("reason"):
            pass
        assert (told["doing"], told["reason"]) == ("fetching", "unreachable")
        assert "cannot be fetched now: the hub could not be reached" in told["sentence"]
        assert told["again_s"] >= 0


async def test_a_device_says_what_a_deployment_is_queued_behind(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    device.hub_url = NOWHERE
    async with device.up():
        hub.deploy("dfirst", publish(blobs))
        await hub.reached("dfirst", Stage.DELIVERED)
        hub.deploy("dpump", publish(blobs, "3.0.0", component="pump"))
        await hub.reached("dpump", Stage.DELIVERED)
        told = await why(device, "dpump")
    assert told["doing"] == "queued"
    assert told["sentence"] == "dpump (pump 3.0.0) waits until dfirst (lamp) is done."


async def test_a_device_that_has_done_everything_says_what_it_runs(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up():
        await hub.deployed("dfirst", publish(blobs))
        told = await device.ask(op="why")
    assert told["deployments"] == []
    assert told["sentences"][0] == "There is nothing to do; this device runs lamp 1.0.0."


async def test_a_release_may_say_how_long_it_can_wait_and_an_operator_prevails(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(), app(device) as backup:
        await backup.inhibit()
        hub.deploy("dfirst", publish(blobs, defer_s=3600, overdue="go"))
        await deferred(hub)
        waiting = hub.waiting("dfirst")
        assert waiting is not None
        assert (waiting.left_s, waiting.overdue) == (3600, "go")
        hub.terms("dfirst", overdue="give_up")
        await hub.until(lambda: _said(hub).overdue == "give_up")
        assert 3590 <= _said(hub).left_s <= 3600


async def test_without_room_nothing_is_fetched_and_no_operator_passes_that_over(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    async with device.up(free_min_bytes=2**62, defer_overdue="go"):
        hub.terms("dfirst", is_now=True, budget_s=1)
        hub.deploy("dfirst", publish(blobs))
        await deferred(hub, reason="no_space")
        assert hub.stages("dfirst") == [Stage.DELIVERED, Stage.DEFERRED]
        await hub.reached("dfirst", Stage.FAILED)
    assert hub.acks("dfirst")["dfirst/F"].reason == "deferred_too_long"
    assert blobs.requests == []
