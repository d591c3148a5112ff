"""What measuring costs: an application for each call, and a device's card for each day at idle."""

import asyncio
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from agent.client import Client
from benchmarks.programs import Ground, ground
from benchmarks.result import Result

PACE_S: Final = 0.001
"""Between two calls, so that the agent keeps up and what is timed is no dropped call."""

FASTER: Final = 600
"""So many times as fast as by default a device at idle measures and stores here: ten hours pass in
a minute."""

STATSD: Final = b"bench.call_s:0.31|h|#release:bench@1.0.0"

DAY_S: Final = 86_400
MB: Final = 1e6


def run(*, short: bool) -> list[Result]:
    """Measure on this machine; the long form only takes more samples."""
    with tempfile.TemporaryDirectory(prefix="fieldfare-bench-") as folder:
        return asyncio.run(_with_hub(Path(folder), short=short))


async def _with_hub(folder: Path, *, short: bool) -> list[Result]:
    limits = {"device_messages_per_s": "10000", "device_burst_count": "100000"}
    async with ground(folder, **limits) as place:
        call = await _call(place, 2_000 if short else 20_000)
        return [call, await _idle(place, 30.0 if short else 180.0)]


async def _call(place: Ground, count: int) -> Result:
    device = "bench-call"
    await place.start_agent(device)
    await place.wait_known(device)
    measure = Client(str(place.folder / device / "measure.sock"), release="bench@1.0.0")
    ours = await asyncio.to_thread(_timed, lambda: measure.observe("bench.call_s", 0.31), count)
    dropped = measure.dropped_count
    measure.close()
    theirs = await asyncio.to_thread(_peer, count)
    median, p99 = (statistics.quantiles(ours, n=100)[at] * 1e6 for at in (49, 98))
    peer = statistics.median(theirs) * 1e6
    return Result(
        name="client.call_us",
        value=median,
        unit="us",
        aim="< 100",
        peer=f"a bare sendto of the same as a statsd datagram over UDP ({peer:.1f} us)",
        ratio=median / peer,
        note=f"median of {count} calls of observe, {PACE_S * 1000:g} ms apart, to an agent that "
        f"runs; p99 {p99:.0f} us; {dropped} were dropped",
    )


def _peer(count: int) -> list[float]:
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.setblocking(False)  # noqa: FBT003 - its own form
    to = listening.getsockname()
    ended = threading.Event()

    def drain() -> None:
        listening.settimeout(0.1)
        while not ended.is_set():
            try:
                listening.recv(2048)
            except TimeoutError:
                continue

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        return _timed(
            lambda: sending.sendto(b"bench.call_s:0.31|h|#release:bench@1.0.0", to), count
        )
    finally:
        ended.set()
        thread.join()
        listening.close()
        sending.close()


def _timed(call: Callable[[], object], count: int) -> list[float]:
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
        time.sleep(PACE_S)
    return took


async def _idle(place: Ground, seconds: float) -> Result:
    device = "bench-wear"
    vitals_s, flush_s = 60 / FASTER, 300 / FASTER
    agent = await place.start_agent(
        device, vitals_s=f"{vitals_s}", measure_flush_s=f"{flush_s}", linger_ms="1000"
    )
    await place.wait_known(device)
    await asyncio.sleep(5)  # what the start left to do is not idleness
    process = psutil.Process(agent)
    before, since = _written(agent), time.monotonic()
    await asyncio.sleep(seconds)
    spent, elapsed = _written(agent) - before, time.monotonic() - since
    if not process.is_running():
        raise RuntimeError("the agent ended")
    return Result(
        name="device.idle_bytes_written_per_day",
        value=spent / (elapsed * FASTER) * DAY_S,
        unit="bytes",
        aim=f"< {2 * MB:.0f}",
        note=f"a connected agent that measures itself, {FASTER} times as fast as by default, for "
        f"{elapsed:.0f} s; counted by the kernel (write_bytes), checkpoints included; what an "
        "agent does by the minute and not by its measuring is counted once for ten hours",
    )


def _written(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    return 0
