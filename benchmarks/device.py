"""What an agent costs its device: memory, idle CPU, bytes written, and how soon the hub knows."""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from agent.clock import SystemClock
from agent.documents import Documents
from agent.settings import Settings
from agent.store import open_store
from benchmarks.programs import Ground, ground
from benchmarks.result import Result
from sync import topics
from sync.stages import Stage
from sync.transport.mqtt import MqttTransport
from sync.transport.port import Connected, Delivery, Link

STAGES = (Stage.DELIVERED, Stage.VERIFIED, Stage.APPLIED, Stage.HEALTHY, Stage.ACKNOWLEDGED)


def run(*, short: bool) -> list[Result]:
    """Measure on this machine; the long form only takes more samples."""
    with tempfile.TemporaryDirectory(prefix="fieldfare-bench-") as folder:
        written = asyncio.run(_bytes_written(Path(folder) / "written", 100 if short else 1000))
        return [written, *asyncio.run(_with_hub(Path(folder), short=short))]


async def _bytes_written(folder: Path, deployments: int) -> Result:
    settings = Settings.model_validate({"device": "bench", "state_dir": folder})
    async with await open_store(folder) as store:
        documents = Documents(settings, store, SystemClock())
        await documents.start()
        before = _write_bytes()
        for number in range(deployments):
            for stage in STAGES:
                await documents.acknowledge(f"d{number:08d}", stage)
        spent = _write_bytes() - before
    count = deployments * len(STAGES)
    return Result(
        name="device.bytes_written_per_ack",
        value=spent / count,
        unit="bytes",
        aim="",
        note=f"{count} acknowledgements, each durable by itself (synchronous=FULL); counted by "
        "the kernel (/proc/self/io write_bytes), checkpoints included",
    )


def _write_bytes() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    return 0


async def _with_hub(folder: Path, *, short: bool) -> list[Result]:
    # The hub lets a device say 20 things a second for long; a series of measurements says more.
    limits = {"device_messages_per_s": "10000", "device_burst_count": "100000"}
    async with ground(folder, **limits) as place:
        idle = await _idle(place, 20.0 if short else 120.0)
        return [*idle, *await _latency(place, 300 if short else 3000)]


async def _idle(place: Ground, seconds: float) -> list[Result]:
    agent = await place.start_agent("bench-idle")
    await place.wait_known("bench-idle")
    process = psutil.Process(agent)
    await asyncio.sleep(5)  # what the start left to do is not idleness
    before, since = _cpu_s(process), time.monotonic()
    await asyncio.sleep(seconds)
    spent = _cpu_s(process) - before
    elapsed = time.monotonic() - since
    return [
        Result(
            name="agent.rss_mb",
            value=process.memory_info().rss / 1e6,
            unit="MB",
            aim="< 45",
            note="connected and settled, nothing to do",
        ),
        Result(
            name="agent.idle_cpu_ratio",
            value=spent / elapsed,
            unit="ratio",
            aim="< 0.001",
            note=f"CPU seconds per second over {elapsed:.0f} s, keep-alive included; the clock "
            f"counts in steps of {1 / os.sysconf('SC_CLK_TCK'):g} s",
        ),
    ]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _latency(place: Ground, count: int) -> list[Result]:
    """One write at a time: durable on the device, on the wire, durable on the hub, answered."""
    device = "bench-latency"
    state_dir = place.folder / device
    settings = Settings.model_validate({"device": device, "state_dir": state_dir})
    transport = MqttTransport(Link(client_id=device, port=place.broker_port))
    transport.subscribe(topics.down_topic(device))
    up = topics.up_topic(device)
    took_ms: list[float] = []
    async with await open_store(state_dir) as store, asyncio.TaskGroup() as tasks:
        documents = Documents(settings, store, SystemClock())
        await documents.start()
        running = tasks.create_task(transport.run())

        def send(frames: list[bytes]) -> None:
            for frame in frames:
                transport.publish_soon(up, frame)

        async def settle() -> None:
            while not documents.settled:
                for event in await transport.receive(100):
                    if isinstance(event, Connected):
                        send(await documents.opened())
                    elif isinstance(event, Delivery):
                        replies, _ = await documents.receive(event.payload, direct=True)
                        transport.acknowledge(event)
                        send(replies)

        await documents.acknowledge("dwarmup00", Stage.DELIVERED)
        await settle()
        for number in range(count):
            begun = time.perf_counter()
            await documents.acknowledge(
                f"d{number // len(STAGES):08d}", STAGES[number % len(STAGES)]
            )
            send(await documents.changed())
            await settle()
            took_ms.append((time.perf_counter() - begun) * 1000)
        running.cancel()
    cuts = statistics.quantiles(took_ms, n=100)
    note = f"{count} writes, one at a time, from the call on the device until the hub's durable "
    note += "answer is read; no linger"
    return [
        Result(name="sync.ack_p50_ms", value=cuts[49], unit="ms", aim="", note=note),
        Result(name="sync.ack_p99_ms", value=cuts[98], unit="ms", aim="", note=note),
    ]
