"""Which ends of a whole agent count as deaths of what it fetches; see also tests/crash."""

import asyncio
import sqlite3
import threading
from pathlib import Path

from agent.blocks import BLOCK_BYTES
from agent.fetch import Fetcher, FetchLimits
from agent.journal import Journal, decode
from agent.lives import Tally
from sync.stages import Stage
from tests.agent.agents import NOWHERE, Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub


def stored(device: Device) -> Journal:
    """Return the journal as a death of the agent would leave it now."""
    place = f"file:{device.folder / 'state' / 'agent.db'}?mode=ro"
    database = sqlite3.connect(place, uri=True)
    try:
        (found,) = database.execute("SELECT journal FROM install").fetchone()
    finally:
        database.close()
    journal = decode(found)
    assert journal is not None
    return journal


async def test_to_be_switched_off_in_order_is_no_death_however_often_it_happens(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    hub.deploy("dfirst", manifest)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        asked, may_answer = asyncio.Event(), threading.Event()

        def hold(asked: asyncio.Event = asked, may_answer: threading.Event = may_answer) -> None:
            loop.call_soon_threadsafe(asked.set)
            may_answer.wait(30)

        blobs.on_request = hold
        async with device.up(fetch_deaths_max=1):
            await asked.wait()
            before = stored(device).tally
        may_answer.set()
        assert (before.deaths, stored(device).tally.deaths) == (1, 0)
    blobs.on_request = lambda: None
    async with device.up(fetch_deaths_max=1):
        await hub.reached("dfirst", Stage.ACKNOWLEDGED)

    assert device.runs() == "1.0.0"


async def test_to_lose_power_while_the_hub_is_out_of_reach_is_no_death(
    device: Device, hub: SmallHub
) -> None:
    device.hub_url = NOWHERE
    hub.deploy("dfirst", lamp("1.0.0")[0])
    async with device.up():
        await hub.until(lambda: Stage.DELIVERED in hub.stages("dfirst"))
        while (await device.ask(op="status"))["activity"] == "idle":
            pass
        while stored(device).tally.deaths:
            await device.ask(op="status")
        before = stored(device)

    assert before.state == "fetching"


async def test_to_lose_power_while_the_hub_answers_is_a_death(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, _ = lamp("1.0.0")
    blobs.publish(manifest)
    hub.deploy("dfirst", manifest)
    seen: list[Tally] = []
    blobs.on_request = lambda: seen.append(stored(device).tally)
    async with device.up():
        await hub.reached("dfirst", Stage.FAILED)

    assert {tally.deaths for tally in seen} == {1}
    assert stored(device).reason == "not_found"


def test_of_what_is_here_whole_files_count_and_the_checked_blocks_of_others(tmp_path: Path) -> None:
    limits = FetchLimits(attempts_max=1, stall_s=1, disk_reserve_bytes=0)
    folder = tmp_path / "downloads"
    fetcher = Fetcher(NOWHERE, folder, limits)
    assert fetcher.verified_bytes() == 0
    folder.mkdir()
    for name, length in {
        "aa": 100,
        "bb.part": 2 * BLOCK_BYTES + 7,
        "bb.blocks": 96,
        "bb.spent": 3,
        "cc.part": 2 * BLOCK_BYTES,  # nothing it could have been compared with
        "dd.blocks": 32,  # nothing has come yet
    }.items():
        (folder / name).write_bytes(bytes(length))

    assert fetcher.verified_bytes() == 100 + 2 * BLOCK_BYTES
