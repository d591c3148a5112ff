"""Flags on a whole agent: defined, read, killed, and fallen back from when the hub is silent."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from agent.clock import SystemClock
from sync.stages import Stage
from sync.stamps import Stamp
from sync.transport.memory_broker import MemoryBroker
from tests.agent.agents import DEVICE, NOWHERE, Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub
from tests.sync.test_flags import METADATA, definition

DAY_S = 86_400


def text(**changes: Any) -> str:
    return json.dumps(definition(**changes))


class Shifted(SystemClock):
    """The machine's clocks, with more uptime than there was, and another boot if wished."""

    def __init__(self) -> None:
        super().__init__()
        self.more_s = 0
        self.wall_more_s = 0
        self.other_boot = b""

    def wall_ms(self) -> int:
        return super().wall_ms() + 1000 * self.wall_more_s

    def stamp(self) -> Stamp:
        now = super().stamp()
        return replace(
            now,
            boot=self.other_boot or now.boot,
            boottime_ms=now.boottime_ms + 1000 * self.more_s,
        )


async def comes_to(device: Device, key: str, **wanted: Any) -> dict[str, Any]:
    """Return the answer about a flag once it has these fields."""
    async with asyncio.timeout(30):
        while True:
            answer = await device.ask(op="flag", key=key, reader="app@1.0.0")
            if all(answer[name] == value for name, value in wanted.items()):
                return answer


async def test_a_flag_is_read_over_the_socket_and_the_hub_learns_what_it_came_to(
    device: Device, hub: SmallHub
) -> None:
    rule = {"if": [{"==": [{"var": "site"}, "s7"]}, "on", "off"]}
    async with device.up(labels={"site": "s7"}):
        assert (await device.ask(op="flag", key="pump-fast"))["reason"] == "DEFAULT"
        hub.flag("pump-fast", text(targeting=rule), clock=3)
        answer = await comes_to(device, "pump-fast", variant="on")
        assert (answer["value"], answer["reason"]) == (True, "TARGETING_MATCH")
        await hub.until(lambda: hub.exposure("pump-fast") is not None)
    told = hub.exposure("pump-fast")
    assert told is not None
    assert (told.variant, told.reason, told.clock) == ("on", "TARGETING_MATCH", 3)
    assert (told.reader, told.variants_count) == ("app@1.0.0", 1)


async def test_targeting_can_ask_for_what_the_application_adds_but_not_override_the_device(
    device: Device, hub: SmallHub
) -> None:
    rule = {
        "if": [
            {"!=": [{"var": "targetingKey"}, DEVICE]},
            "off",
            {"==": [{"var": "mode"}, "night"]},
            "on",
            "off",
        ]
    }
    async with device.up():
        hub.flag("f", text(targeting=rule))
        await comes_to(device, "f", reason="TARGETING_MATCH")
        answer = await device.ask(
            op="flag", key="f", context={"mode": "night", "targetingKey": "somebody"}
        )
        assert answer["variant"] == "on"


async def test_bad_questions_about_flags_are_refused(device: Device) -> None:
    async with device.up():
        for request in (
            {},
            {"key": "A B"},
            {"key": "f", "reader": "a b"},
            {"key": "f", "context": []},
            {"key": "f", "context": {str(n): n for n in range(99)}},
        ):
            assert not (await device.ask(op="flag", **request))["ok"]


async def test_a_definition_that_cannot_be_read_is_an_error_and_the_application_decides(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        hub.flag("f", text(metadata={**METADATA, "hash": "flagd-fractional-v4"}))
        answer = await comes_to(device, "f", reason="ERROR")
        assert answer["value"] is None
        assert "flagd-fractional-v3" in answer["detail"]


async def test_a_kill_order_by_the_topic_alone_counts_at_once_and_after_a_restart(
    device: Device, hub: SmallHub, broker: MemoryBroker
) -> None:
    async with device.up():
        hub.flag("f", text())
        await comes_to(device, "f", variant="on")
        hub.kill("flag:f", clock=9)
        await comes_to(device, "f", variant="off", reason="DISABLED")
        await hub.until(lambda: hub.obeyed("flag:f") is not None)
        told = hub.obeyed("flag:f")
        assert told is not None
        assert (told.clock, told.how) == (9, "order")
        broker.partition(DEVICE)
    async with device.up():
        await comes_to(device, "f", variant="off", reason="DISABLED")


async def test_a_kill_order_of_the_document_counts_and_a_later_one_takes_it_back(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        hub.flag("f", text())
        hub.kill("flag:f", clock=9, topic=False)
        await comes_to(device, "f", reason="DISABLED")
        await hub.until(lambda: hub.obeyed("flag:f") is not None)
        hub.kill("flag:f", clock=10, is_killed=False)
        await comes_to(device, "f", variant="on")
        await hub.until(lambda: getattr(hub.obeyed("flag:f"), "how", "") == "back")
        told = hub.obeyed("flag:f")
        assert told is not None
        assert told.clock == 10


async def test_without_word_from_the_hub_the_safe_variant_counts_when_the_lease_is_over(
    device: Device, hub: SmallHub, broker: MemoryBroker
) -> None:
    clock = device.clock = Shifted()
    async with device.up():
        hub.flag("f", text())
        await comes_to(device, "f", variant="on")
        broker.partition(DEVICE)
        clock.more_s = DAY_S - 60
        clock.wall_more_s = -10 * DAY_S  # setting the clock changes nothing
        assert (await device.ask(op="flag", key="f"))["variant"] == "on"
        clock.more_s = DAY_S + 60
        answer = await device.ask(op="flag", key="f")
        assert (answer["variant"], answer["reason"]) == ("off", "STALE")
        broker.heal(DEVICE)
        await comes_to(device, "f", variant="on", reason="STATIC")


async def test_a_reboot_does_not_begin_the_lease_anew(
    device: Device, hub: SmallHub, broker: MemoryBroker
) -> None:
    clock = device.clock = Shifted()
    async with device.up():
        hub.flag("f", text())
        await comes_to(device, "f", variant="on")
        broker.partition(DEVICE)
    clock.more_s = DAY_S - 60
    async with device.up():
        assert (await device.ask(op="flag", key="f"))["variant"] == "on"
    clock.other_boot = b"boot-2"
    clock.more_s = 0
    async with device.up():
        answer = await device.ask(op="flag", key="f")
        assert (answer["variant"], answer["reason"]) == ("off", "STALE")
        assert (await device.ask(op="flags"))["silent_s"] > DAY_S


async def test_all_flags_are_listed_without_being_read(device: Device, hub: SmallHub) -> None:
    async with device.up():
        hub.flag("f", text())
        hub.kill("flag:gone", clock=4)
        await comes_to(device, "gone", reason="DISABLED")
        async with asyncio.timeout(30):
            while len(rows := (await device.ask(op="flags"))["flags"]) < 2:
                pass
    assert [(row["key"], row["variant"], row["reason"], row["killed"]) for row in rows] == [
        ("f", "on", "STATIC", False),
        ("gone", "", "DISABLED", True),
    ]
    assert rows[0]["lease_s"] == DAY_S
    assert hub.exposure("f") is None


async def test_who_watches_flags_is_told_of_definitions_and_kills(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        await device.ask(op="status")
        reader, writer = await asyncio.open_unix_connection(device.folder / "a.sock")
        writer.write(b'{"op":"watch","what":"flags"}\n')
        first = json.loads(await reader.readline())
        assert (first["definitions"], first["killed"]) == ({}, [])
        assert first["context"]["targetingKey"] == DEVICE
        hub.flag("f", text(), clock=3)
        hub.kill("flag:f", clock=4)
        async with asyncio.timeout(30):
            while True:
                seen = json.loads(await reader.readline())
                if seen["killed"] and seen["definitions"]:
                    break
        assert seen["definitions"]["f"]["clock"] == 3
        assert json.loads(seen["definitions"]["f"]["definition"]) == definition()
        writer.close()


async def test_a_device_that_fell_back_while_apart_says_so_once_the_hub_is_back(
    device: Device, hub: SmallHub, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock = device.clock = Shifted()
    async with device.up():
        hub.flag("f", text())
        await comes_to(device, "f", variant="on")
        broker.partition(DEVICE)
    clock.more_s = DAY_S + 60
    async with device.up():
        await comes_to(device, "f", reason="STALE")
        async with asyncio.timeout(30):
            while not any(each.msg == "obeyed" for each in caplog.records):
                await device.ask(op="status")
        broker.heal(DEVICE)
        await hub.until(lambda: getattr(hub.obeyed("flag:f"), "how", "") == "back")
    told = hub.obeyed("flag:f")
    assert told is not None
    assert told.clock == 1


async def test_a_killed_deployment_that_has_not_begun_is_cancelled(
    device: Device, hub: SmallHub
) -> None:
    device.hub_url = NOWHERE
    manifest, _ = lamp("1.0.0")
    async with device.up():
        hub.deploy("dfirst", manifest)
        await hub.reached("dfirst", Stage.DELIVERED)
        hub.kill("deployment:dfirst", clock=9)
        await hub.reached("dfirst", Stage.CANCELLED)
        await hub.until(lambda: hub.obeyed("deployment:dfirst") is not None)
    told = hub.obeyed("deployment:dfirst")
    assert told is not None
    assert told.detail == "cancelled before it was tried"


async def test_a_killed_deployment_that_is_being_tried_goes_back(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    good, tried = lamp("1.0.0"), lamp("2.0.0", healthy=False)
    health = tried[0].health.model_copy(update={"deadline_s": 600.0})
    trial = tried[0].model_copy(update={"health": health})
    blobs.publish(*good)
    blobs.publish(trial, tried[1])
    async with device.up():
        await hub.deployed("dgood", good[0])
        hub.deploy("dtried", trial)
        async with asyncio.timeout(30):
            while not (await device.ask(op="status"))["activity"].startswith("trial"):
                pass
        hub.kill("deployment:dtried", clock=9)
        await hub.reached("dtried", Stage.ROLLED_BACK)
        await hub.until(lambda: hub.obeyed("deployment:dtried") is not None)
    assert device.runs() == "1.0.0"
    assert hub.acks("dtried")["dtried/B"].reason == "killed"
    told = hub.obeyed("deployment:dtried")
    assert told is not None
    assert told.detail == "rolled back"


async def test_a_killed_deployment_that_was_committed_stays_and_says_so(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest)
        hub.kill("deployment:dfirst", clock=9)
        await hub.until(lambda: hub.obeyed("deployment:dfirst") is not None)
    told = hub.obeyed("deployment:dfirst")
    assert told is not None
    assert told.detail == "committed before the order came: it stays"
    assert device.runs() == "1.0.0"
