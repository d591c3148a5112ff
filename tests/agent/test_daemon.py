"""The agent's life beside its installs: connections, restarts, losses, settings, strangers."""

import asyncio
import json
import os
from dataclasses import replace
from itertools import cycle

import pytest

from agent import daemon
from agent.clock import SystemClock
from agent.store import FILE
from sync import documents as names
from sync import topics
from sync.messages import Diff, Full
from sync.records import Conflict, Fact, Local, select
from sync.stages import Stage
from sync.stamps import Stamp
from sync.transport.memory_broker import MemoryBroker, Message
from tests.agent.agents import ALL_STAGES, DEVICE, NOWHERE, Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub


async def test_a_device_that_lost_its_database_takes_back_what_it_said_and_installs_nothing_again(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest, group=True)
        await device.ask(op="set", key="mode", value="eco")
        await hub.until(lambda: "c/mode" in hub.values())
    acks, fetched = hub.acks("dfirst"), len(blobs.requests)
    for path in (device.folder / "state").glob(f"{FILE}*"):
        path.unlink()

    async with device.up():
        await hub.until(lambda: hub.held is not None and hub.held.epoch > 1)
        answer = await device.ask(op="get", key="mode")
        await hub.until(lambda: hub.running("lamp") is not None)

    assert answer["value"] == "eco"
    assert hub.acks("dfirst") == acks
    assert len(blobs.requests) == fetched


async def test_a_damaged_database_is_put_aside_and_told_until_somebody_has_looked(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        await hub.until(lambda: "s/class" in hub.values())
    state_dir = device.folder / "state"
    (state_dir / FILE).write_bytes(b"spoilt" * 1000)

    async with device.up():
        await hub.until(lambda: "s/damaged" in hub.values())
    told = select(Fact, names.FACT, hub.values())["damaged"]
    assert json.loads(told.value) == [f"{FILE}.damaged-1"]

    (state_dir / f"{FILE}.damaged-1").unlink()
    async with device.up():
        await hub.until(lambda: select(Fact, names.FACT, hub.values())["damaged"].value == "[]")


async def test_a_hub_that_lost_everything_is_told_everything_again(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(daemon, "REOPEN_SPREAD_S", 0.01)
            hub.held = None
            hub.say_born(run="another run")
            await hub.reached("dfirst")

    assert hub.stages("dfirst") == ALL_STAGES


async def test_the_device_hears_other_messages_while_it_waits_to_greet_a_new_hub(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        await hub.until(lambda: "s/class" in hub.values())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(daemon, "REOPEN_SPREAD_S", 3600.0)
            hub.say_born(run="another run")
            hub.deploy("dfirst", lamp("1.0.0")[0])
            await hub.reached("dfirst", Stage.DELIVERED)


async def test_a_setting_wished_for_and_one_set_apart_are_a_conflict_that_the_hub_sees(
    device: Device, hub: SmallHub, broker: MemoryBroker
) -> None:
    async with device.up():
        await hub.until(lambda: "s/class" in hub.values())
        broker.partition(DEVICE)
        hub.wish("mode", "full", clock=2**62)
        await device.ask(op="set", key="mode", value="eco")
        broker.heal(DEVICE)
        await hub.until(lambda: "x/mode" in hub.values())
        answer = await device.ask(op="get", key="mode")

        assert (answer["value"], answer["conflict"]) == ("full", True)
        conflict = select(Conflict, names.CONFLICT, hub.values())["mode"]
        assert (conflict.local, conflict.desired, conflict.winner) == (
            '"eco"',
            '"full"',
            "desired",
        )

        await device.ask(op="set", key="mode", value="off")
        await hub.until(lambda: select(Conflict, names.CONFLICT, hub.values())["mode"].winner == "")
        local = select(Local, names.LOCAL, hub.values())["mode"]
        assert local.saw == 2**62
        assert (await device.ask(op="get", key="mode"))["value"] == "off"


async def test_a_wish_with_the_largest_clock_of_all_stops_nothing(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        hub.wish("mode", "full", clock=2**63 - 1)
        await device.ask(op="set", key="mode", value="eco")
        await hub.until(lambda: "c/mode" in hub.values())
        await hub.deployed("dfirst", manifest)
        assert (await device.ask(op="set", key="mode", value="off"))["ok"]


class Broken:
    """The machine's clocks, with one that stands still or jumps from reading to reading."""

    def __init__(self, *, frozen: bool = False, jumps_ms: tuple[int, ...] = (0,)) -> None:
        self._true = SystemClock()
        self._frozen = self._true.stamp() if frozen else None
        self._jumps_ms = cycle(jumps_ms)

    def wall_ms(self) -> int:
        jump_ms = next(self._jumps_ms)
        return 1 if jump_ms == TO_1970 else self._true.wall_ms() + jump_ms

    def mono_s(self) -> float:
        return self._true.mono_s()

    def stamp(self) -> Stamp:
        now = self._frozen if self._frozen is not None else self._true.stamp()
        return replace(now, wall_ms=self.wall_ms())


TO_1970 = 1
TEN_DAYS_MS = 10 * 86_400_000


@pytest.mark.parametrize(
    "clock",
    [
        Broken(frozen=True),
        Broken(jumps_ms=(-TEN_DAYS_MS,)),
        Broken(jumps_ms=(TEN_DAYS_MS, 0, -TEN_DAYS_MS)),
        Broken(jumps_ms=(TO_1970,)),
        Broken(frozen=True, jumps_ms=(TO_1970, TEN_DAYS_MS)),
    ],
    ids=["boot clock stands still", "ten days behind", "jumping", "1970", "everything at once"],
)
async def test_whatever_the_clocks_say_releases_are_installed_and_the_later_write_counts(
    device: Device, hub: SmallHub, blobs: Blobs, clock: Broken
) -> None:
    device.clock = clock
    releases = [lamp(f"{number}.0.0") for number in (1, 2)]
    for manifest, tree in releases:
        blobs.publish(manifest, tree)
    async with device.up():
        for number, (manifest, _) in enumerate(releases):
            hub.deploy(f"d{number}", manifest, expires_ms=hub.now_ms + 1)
            await hub.until(lambda: Stage.ACKNOWLEDGED in hub.stages(f"d{number}"))  # noqa: B023
        for value in ("one", "two", "three"):
            await device.ask(op="set", key="mode", value=value)
    async with device.up():
        await device.ask(op="set", key="mode", value="four")
        hub.wish("mode", "five", clock=2**62)
        await hub.until(lambda: "x/mode" in hub.values())
        assert (await device.ask(op="get", key="mode"))["value"] == "five"
        await device.ask(op="set", key="mode", value="six")
        assert (await device.ask(op="get", key="mode"))["value"] == "six"

    assert set(hub.stages("d1")) == set(ALL_STAGES)
    assert device.runs() == "2.0.0"


async def test_births_are_numbered_upwards_over_connections_and_starts_and_a_stop_is_said(
    device: Device, hub: SmallHub, broker: MemoryBroker
) -> None:
    for _ in range(2):
        async with device.up():
            seen = len(hub.presence)
            await hub.until(lambda: len(hub.presence) > seen)  # noqa: B023 - awaited at once
            broker.cut(DEVICE)
            await hub.until(lambda: len(hub.presence) > seen + 2)  # noqa: B023 - as above
        gone = len(hub.presence)
        await hub.until(lambda: len(hub.presence) >= gone)  # noqa: B023 - as above

    said = [(each["online"], each.get("clean", False)) for each in hub.presence]
    births = [each["birth"] for each in hub.presence]
    assert births == sorted(births)  # type: ignore[type-var]
    assert len(set(births)) == 4
    assert said[:3] == [(True, False), (False, False), (True, False)]
    assert hub.presence[0]["version"] == "0.1.0"
    retained = json.loads(broker.retained()[topics.presence_topic(DEVICE)])
    assert (retained["online"], retained["clean"]) == (False, True)


async def test_anchors_of_the_hub_s_clock_travel_with_the_first_frames_of_a_connection(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        hub.wish("mode", "eco")
        await hub.until(lambda: bool(hub.anchors))

    sent_ms, arrived_ms = hub.anchors[0]
    assert sent_ms == hub.now_ms
    assert 0 < arrived_ms <= device.clock.stamp().boottime_ms


async def test_rubbish_in_the_hub_s_name_is_counted_and_changes_nothing(
    device: Device, hub: SmallHub, broker: MemoryBroker, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest)
        held = hub.held
        for topic in (topics.down_topic(DEVICE), topics.group_topic("all"), topics.HUB_PRESENCE):
            for payload in (b"", b"\xc1", b"{}", b"[" * 5000, os.urandom(300), b"\x95\x01"):
                broker.route(Message(topic, payload, 1), retain=False)
        hub.say(Full(f"dev/{DEVICE}", 9, b"\0\0", []), Diff("dev", 1, b"\x01" * 40, b"abcd"))
        hub.say(Full("des/other", 9, b"\0\0", []))
        hub.say(Full("des", 1, bytes.fromhex("0102630000ffffffff0f0a0100"), []))
        await hub.deployed("dlater", manifest)
        status = await device.ask(op="status")

    assert held is not None
    assert status["refused_from_hub"] >= 9
    assert hub.stages("dfirst") == ALL_STAGES


async def test_stopping_is_prompt_with_a_watcher_connected_and_a_download_waiting(
    device: Device, hub: SmallHub
) -> None:
    device.hub_url = NOWHERE
    async with device.up():
        hub.deploy("dlong", lamp("1.0.0")[0])
        await hub.until(lambda: hub.stages("dlong") == [Stage.DELIVERED])
        reader, writer = await asyncio.open_unix_connection(device.folder / "a.sock")
        writer.write(b'{"op":"watch"}\n')
        assert json.loads(await reader.readline())["ok"]

    assert await reader.read() == b""
    writer.close()
    assert not (device.folder / "a.sock").exists()
