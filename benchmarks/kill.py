"""How long a kill order takes to a thousand devices that are connected, and back.

Every device has a connection of its own to a real broker, a real document and a real conversation
with the hub, and follows its group and the topic of kill orders. The clock runs from the operator's
request over HTTP until the hub says that the last device holds to the order, which it does once it
has durably taken in the device's word. Hub, broker and all devices share this machine.
"""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.programs import ground
from benchmarks.result import Result
from hub.client import HubClient
from tests.fakes.fleet import Fleet, fact

DEVICES_COUNT = 1000
ROUNDS_SHORT = 3
ROUNDS_LONG = 20

CONNECTING_COUNT = 50
"""Devices that connect at once: this is about a fleet that is there, not about one that arrives."""

SETTLE_MAX_S = 120.0
REACH_MAX_S = 60.0
POLL_S = 0.02

TICK_S = 5.0
"""How often a device looks whether it has something to say again; a loss would show."""

FLAG = {
    "state": "ENABLED",
    "variants": {"on": True, "off": False},
    "defaultVariant": "off",
    "metadata": {
        "owner": "benchmark",
        "cleanup": "none",
        "expires": "2099-01-01",
        "lease_s": 86_400,
        "safe": "off",
        "hash": "flagd-fractional-v3",
    },
}


async def _settled(fleets: list[Fleet], what: str = "") -> None:
    """Wait until the hub said that it holds all that devices wrote, also that they obey `what`."""
    async with asyncio.timeout(SETTLE_MAX_S):
        for fleet in fleets:  # one after the other: looking at all of them again and again is dear
            (device,) = fleet.devices.values()
            # Nothing tells of it: what a device holds is worked out when it is asked.
            while (what and what not in device.killed) or not device.is_settled():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)


async def _connect(port: int, stack: AsyncExitStack) -> list[Fleet]:
    """Return devices, each on a connection of its own."""
    fleets: list[Fleet] = []
    for first in range(0, DEVICES_COUNT, CONNECTING_COUNT):
        coming = []
        for number in range(first, first + CONNECTING_COUNT):
            device = f"load-{number:04}"
            fleet = Fleet(port, name=device, tick_s=TICK_S, hears=device)
            fleet.add(device, obeys=True)
            coming.append(await stack.enter_async_context(fleet))
        for fleet in coming:
            await asyncio.wait_for(fleet.connected.wait(), SETTLE_MAX_S)
            (name,) = fleet.devices
            fleet.write(name, fact("class", "pump"))
        fleets += coming
    await _settled(fleets)
    return fleets


async def _round(fleets: list[Fleet], client: HubClient, flag: str) -> tuple[float, Any]:
    """Kill a flag; return how long it took, and the hub's own answer."""
    defined = {"definition": FLAG}
    await asyncio.to_thread(client.change, "PUT", f"/groups/all/flags/{flag}", defined)
    await _settled(fleets)
    path = f"/kills/flag%3A{flag}"
    since = time.perf_counter()
    await asyncio.to_thread(client.change, "PUT", path, {"why": "benchmark"})
    # The devices are asked first: to ask the hub now would slow down what is measured.
    await _settled(fleets, f"flag:{flag}")
    async with asyncio.timeout(REACH_MAX_S):
        while True:
            found = await asyncio.to_thread(client.plain, path)
            if found["reached_count"] == DEVICES_COUNT:
                return time.perf_counter() - since, found
            await asyncio.sleep(POLL_S)


async def _measure(folder: Path, rounds: int) -> tuple[list[float], Any]:
    """Return the time of each round, and the hub's own answer on the last."""
    settings = {
        "device_messages_per_s": "10000",
        "device_burst_count": "100000",
        "new_devices_per_hour_max_count": str(10 * DEVICES_COUNT),
    }
    async with ground(folder, **settings) as place, AsyncExitStack() as stack:
        client = HubClient(place.url, token=(folder / "hub.token").read_text().strip)
        fleets = await _connect(place.broker_port, stack)
        rows = [await _round(fleets, client, f"feature-{number}") for number in range(rounds)]
    return [took_s for took_s, _ in rows], rows[-1][1]


def run(*, short: bool) -> list[Result]:
    """Measure three orders to 1,000 devices, in the long form twenty; the slowest one counts."""
    rounds = ROUNDS_SHORT if short else ROUNDS_LONG
    with tempfile.TemporaryDirectory(prefix="fieldfare-bench-") as name:
        took_s, found = asyncio.run(_measure(Path(name), rounds))
    most_ms = found["time_to_kill"]["p95"]["hi_ms"]
    return [
        Result(
            name="kill.live_1000_s",
            value=max(took_s),
            unit="s",
            aim="< 2",
            note=f"the slowest of {rounds} orders to {DEVICES_COUNT} connected devices, each on "
            "its own connection to a real broker, from the request until the hub durably holds "
            f"the word of the last; the quickest took {min(took_s):.2f} s; {found['sentence']}, "
            f"95 % of them within {most_ms} ms by the hub's own figures",
        )
    ]
