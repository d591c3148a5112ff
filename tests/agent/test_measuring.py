"""A whole agent that measures: what applications say is on the hub, once, also after restarts."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from agent.client import Client
from agent.measuring import LINES_PER_S
from sync.records import Case, Measure, select
from sync.replica import values_of
from tests.agent.agents import Device
from tests.fakes.small_hub import SmallHub


async def flush(device: Device, *lines: str) -> list[str]:
    answer = await device.ask(op="measure", lines=list(lines), now=True)
    assert answer["ok"], answer
    faults: list[str] = answer["faults"]
    return faults


async def total(hub: SmallHub, metric: str, expected: float) -> Measure:
    """Wait until the hub has a series with this sum."""
    key = f"{metric}/-/-"

    def found() -> Measure | None:
        return select(Measure, "m/", values_of(hub.held_telemetry)).get(key)

    await hub.until(lambda: (record := found()) is not None and record.total == expected)
    record = found()
    assert record is not None
    return record


@contextlib.asynccontextmanager
async def client_of(device: Device) -> AsyncIterator[Client]:
    await device.ask(op="status")
    client = Client(str(device.folder / "measure.sock"))
    try:
        yield client
    finally:
        client.close()


async def test_what_an_application_measures_is_on_the_hub(device: Device, hub: SmallHub) -> None:
    async with device.up(), client_of(device) as client:
        for _ in range(3):
            client.count("door.opened", 2)
        client.observe("open_s", 0.3)
        client.outcome("i-1", "closed", "ajar", "the sensor says so")
        client.case("i-1", human=True)
        await flush(device)
        record = await total(hub, "door.opened", 6.0)
        assert record.count == 3
        case = select(Case, "i/", values_of(hub.held_telemetry))["i-1"]
        assert (case.intended, case.reached, case.by) == ("closed", "ajar", "human")
        assert client.dropped_count == 0


async def test_a_restart_goes_on_counting_where_it_stopped(device: Device, hub: SmallHub) -> None:
    async with device.up(), client_of(device) as client:
        client.count("x", 2)
        await flush(device)
        before = await total(hub, "x", 2.0)
        client.count("x")  # stored when the agent stops
        await device.ask(op="status")
    async with device.up():
        await flush(device, "count x")
        after = await total(hub, "x", 4.0)
    assert after.start == before.start
    assert after.count == 3


async def test_a_device_that_lost_its_database_does_not_take_back_what_it_counted(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        await flush(device, "count x 2")
        await total(hub, "x", 2.0)
    for path in (device.folder / "state").glob("agent.db*"):
        path.unlink()
    async with device.up():
        await flush(device, "count y")
        await total(hub, "y", 1.0)
        values = values_of(hub.held_telemetry)
    assert select(Measure, "m/", values)["x/-/-"].total == 2.0


async def test_status_shows_what_was_dropped_and_why(device: Device) -> None:
    async with device.up(vitals_s=0):
        faults = await flush(device, "count x", "count X", "rubbish")
        status = await device.ask(op="status")
        rows = await device.ask(op="measures")
    assert len(faults) == 2
    assert status["measures"]["dropped"] == {"bad_line": 1, "bad_name": 1}
    assert [row["metric"] for row in rows["series"] if row["metric"] == "x"] == ["x"]


async def test_the_hub_is_told_what_was_dropped_also_over_restarts(
    device: Device, hub: SmallHub
) -> None:
    for starts in (1, 2):
        async with device.up(vitals_s=0):
            await flush(device, "rubbish", "more rubbish")
            await flush(device, "count x")
            await total(hub, "agent.dropped.bad_line", 2.0 * starts)


async def test_a_flood_is_bounded_and_counted(device: Device) -> None:
    async with device.up(vitals_s=0), client_of(device) as client:
        sent = 0
        for _ in range(3 * LINES_PER_S):
            client.count("x")
            sent += 1
            if sent % 20 == 0:
                await asyncio.sleep(0)
        await flush(device)
        rows = (await device.ask(op="measures"))["series"]
        dropped = (await device.ask(op="status"))["measures"]["dropped"]
    (row,) = [row for row in rows if row["metric"] == "x"]
    lost = dropped.get("too_many", 0) + client.dropped_count
    assert row["count"] + lost == sent


async def test_a_call_without_an_agent_is_dropped_counted_and_told_later(
    tmp_path: Path, device: Device
) -> None:
    client = Client(str(tmp_path / "measure.sock"))
    client.count("x")
    client.count("x")
    assert client.dropped_count == 2
    async with device.up(vitals_s=0):
        await device.ask(op="status")
        client._retry_mono = 0.0  # as if a second had passed
        client.count("x")
        await flush(device)
        dropped = (await device.ask(op="status"))["measures"]["dropped"]
    client.close()
    assert dropped == {"by_applications": 2}


async def test_the_device_measures_itself_without_being_asked(
    device: Device, hub: SmallHub
) -> None:
    async with device.up(vitals_s=0.05):
        await hub.until(lambda: bool(hub.presence))
        rows: dict[str, object] = {}
        while "device.cpu_ratio" not in rows:
            answer = await device.ask(op="measures")
            rows = {row["metric"]: row for row in answer["series"]}
        await flush(device)
        answer = await device.ask(op="measures")
    metrics = {row["metric"]: row for row in answer["series"]}
    assert metrics["device.expected_s"]["total"] >= metrics["device.connected_s"]["total"] > 0
    assert "device.memory_used_ratio" in metrics


async def test_restarts_of_the_agent_are_told_apart(device: Device, hub: SmallHub) -> None:
    for _ in range(2):
        async with device.up(vitals_s=0):
            await flush(device, "count x")
    async with device.up(vitals_s=0):
        await flush(device, "count x")
        record = await total(hub, "agent.restarts.stopped", 2.0)
    assert record.kind == "c"


def test_the_client_needs_the_standard_library_alone() -> None:
    command = (
        "import sys, json; import agent.client; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    told = subprocess.run(
        [sys.executable, "-S", "-c", command],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    loaded = set(json.loads(told.stdout))
    assert loaded - set(sys.stdlib_module_names) - {"agent", "__main__"} == set()


def test_a_client_never_blocks_on_an_agent_that_does_not_read(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "m.sock"))
        client = Client(str(tmp_path / "m.sock"))
        for _ in range(5000):
            client.count("x")
        client.close()
    assert client.dropped_count > 0
