"""The agent's own risky features behind flags: on if nobody says otherwise, off by a kill order."""

import json

import pytest

from sync.stages import Stage
from tests.agent.agents import Device, lamp
from tests.fakes.blobs import Blobs, serving_blobs
from tests.fakes.small_hub import SmallHub
from tests.sync.test_flags import definition


async def killed(device: Device, hub: SmallHub, key: str) -> None:
    """Kill a feature, and wait until the device has said that it obeys."""
    hub.kill(f"flag:{key}", clock=9)
    await hub.until(lambda: hub.obeyed(f"flag:{key}") is not None)


async def test_packs_are_used_unless_the_flag_is_killed(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    releases = [lamp(f"{number}.0.0") for number in (1, 2)]
    for manifest, tree in releases:
        blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("done", releases[0][0])
        await killed(device, hub, "agent.delta")
        asked_before = [each for each in blobs.requests if "/packs/" in str(each)]
        await hub.deployed("dtwo", releases[1][0])
    assert hub.acks("done")["done/V"].detail == "whole: no proven release runs to start from"
    assert hub.acks("dtwo")["dtwo/V"].detail == "whole: the flag agent.delta is off"
    assert [each for each in blobs.requests if "/packs/" in str(each)] == asked_before


async def test_a_flag_of_the_agents_own_is_read_as_any_other_and_told(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        hub.flag("agent.delta", json.dumps(definition(defaultVariant="off")), clock=3)
        await hub.deployed("done", manifest)
        await hub.until(lambda: hub.exposure("agent.delta") is not None)
    assert hub.acks("done")["done/V"].detail == "whole: the flag agent.delta is off"
    told = hub.exposure("agent.delta")
    assert told is not None
    assert (told.variant, told.clock) == ("off", 3)
    assert told.reader.startswith("agent@")


@pytest.mark.parametrize("is_killed", [False, True])
async def test_neighbours_are_asked_unless_the_flag_is_killed(
    device: Device, hub: SmallHub, blobs: Blobs, is_killed: bool
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    with serving_blobs() as neighbour:
        neighbour.publish(manifest, tree)
        async with device.up(neighbour_urls=[neighbour.url]):
            if is_killed:
                await killed(device, hub, "agent.neighbours")
            await hub.deployed("done", manifest)
            assert Stage.ACKNOWLEDGED in hub.stages("done")
        assert bool(neighbour.requests) is not is_killed


async def test_a_device_where_nobody_defined_a_flag_says_nothing_of_any(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("done", manifest)
    assert not [key for key in hub.values() if key.startswith(("e/", "q/"))]
