"""How many durable updates a hub takes in for each second of CPU, through a real broker.

The load: devices that each acknowledge one stage after another, the next one only after the hub's
durable answer to the one before, as real agents do, of deployments that the hub has made. All of
them share one connection to the broker, so that the load costs little beside the hub it measures;
the topic names the device.
"""

import asyncio
import hashlib
import secrets
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.programs import ground
from benchmarks.result import Result
from hub.client import HubClient
from sync import topics
from sync.author import Author
from sync.client_ids import client_id
from sync.documents import Side, ack_key
from sync.manifest import Manifest
from sync.messages import Diff, Full, Message, in_frames
from sync.records import Ack, encode
from sync.transport.mqtt import MqttTransport
from sync.transport.port import Connected, Delivery, Link
from sync.vector import tag_of

STAGES = "DVIHK"
WINDOW_COUNT = 1500
"""Devices that await an answer at the same time."""


@dataclass(slots=True)
class Device:
    """One simulated device and the frames that it still has to send, in order."""

    name: str
    frames: deque[bytes] = field(default_factory=deque)


def deploy(url: str, folder: Path, count: int) -> list[str]:
    """Have the hub make so many deployments of one release; return their ids."""
    client = HubClient(url, token=(folder / "hub.token").read_text().strip)
    artifact = folder / "artifact"
    artifact.write_bytes(b"a tree of files")
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
    client.put_blob(artifact, digest)
    manifest = Manifest.model_validate(
        {
            "component": "lamp",
            "version": "1.0.0",
            "artifacts": [
                {"name": "tree.tar.gz", "sha256": digest, "length_bytes": artifact.stat().st_size}
            ],
            "health": {"command": ["true"]},
            "unmeasured": "a tree of the benchmark",
        }
    )
    client.publish(manifest)
    return [client.deploy("lamp@1.0.0", group="all").deployment for _ in range(count)]


def make_device(
    number: int, deployments: Sequence[str], *, frames_count: int, acks_per_frame: int
) -> Device:
    """Return a device whose first frame carries its whole document, each later one new stages."""
    name = f"load-{number:06d}"
    boot = secrets.token_bytes(6)
    author = Author(None, client_id=client_id(Side.DEVICE, 3, secrets.randbits(16)))
    device = Device(name)
    reached = 0

    def next_ack() -> dict[str, bytes]:
        nonlocal reached
        key = ack_key(deployments[reached // len(STAGES)], STAGES[reached % len(STAGES)])
        reached += 1
        return {key: encode(Ack(boot, 60_000 + reached * 900, 1_790_000_000_000 + reached, 2))}

    def add(message: Message) -> None:
        (frame,) = in_frames([message], sender=boot, sent_ms=60_000 + reached * 900)
        device.frames.append(frame)

    author.write(next_ack())
    add(Full("dev", author.epoch, author.holding().state, []))
    for _ in range(frames_count):
        entries: dict[str, bytes] = {}
        for _ in range(acks_per_frame):
            entries |= next_ack()
        update = author.write(entries)
        add(Diff("dev", author.epoch, update, tag_of(author.vector())))
    return device


class Load:
    """Drives the devices over one connection."""

    def __init__(self, port: int) -> None:
        self.transport = MqttTransport(
            Link(client_id="load", port=port, version="3.1.1", inflight_max_count=5000)
        )
        self.transport.subscribe("ff/1/+/down", qos=0)

    async def connected(self) -> None:
        """Wait for the connection."""
        while not any(isinstance(event, Connected) for event in await self.transport.receive(1)):
            pass

    async def drive(self, devices: list[Device], frames_each: int) -> None:
        """Let every device send `frames_each` frames, each after the answer to the one before."""
        waiting = deque(devices)
        left = {topics.down_topic(device.name): (device, frames_each) for device in devices}
        pending = 0
        while waiting or pending:
            while waiting and pending < WINDOW_COUNT:
                device = waiting.popleft()
                self._send(device)
                pending += 1
            for event in await self.transport.receive(2000):
                if not isinstance(event, Delivery) or event.topic not in left:
                    continue
                device, count = left[event.topic]
                if count <= 1:
                    del left[event.topic]
                    pending -= 1
                else:
                    left[event.topic] = (device, count - 1)
                    self._send(device)

    def _send(self, device: Device) -> None:
        self.transport.publish_soon(topics.up_topic(device.name), device.frames.popleft())


async def _measure(
    folder: Path, *, devices_count: int, frames: int, acks: int
) -> tuple[float, float]:
    """Return updates per CPU second of the hub and updates per second of wall time."""
    settings = {
        "device_messages_per_s": "10000",
        "device_burst_count": "100000",
        "new_devices_per_hour_max_count": str(10 * devices_count),
    }
    deployments_count = -(-(1 + frames * acks) // len(STAGES))
    async with ground(folder, **settings) as place, asyncio.TaskGroup() as tasks:
        load = Load(place.broker_port)
        running = tasks.create_task(load.transport.run())
        await load.connected()
        made = await asyncio.to_thread(deploy, place.url, folder, deployments_count)
        devices = [
            make_device(number, made, frames_count=frames, acks_per_frame=acks)
            for number in range(devices_count)
        ]
        await load.drive(devices, 1)
        process = psutil.Process(place.hub_pid)
        before, since = process.cpu_times(), time.perf_counter()
        await load.drive(devices, frames)
        elapsed = time.perf_counter() - since
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        running.cancel()
    updates = devices_count * frames * acks
    return updates / spent, updates / elapsed


async def _both(folder: Path, *, devices_count: int) -> list[Result]:
    single = await _measure(folder / "single", devices_count=devices_count, frames=8, acks=1)
    batched = await _measure(folder / "batched", devices_count=devices_count // 2, frames=8, acks=4)
    load = "each durable (group commit, synchronous=FULL) and answered before the device's next"
    return [
        Result(
            name="hub.updates_per_cpu_s",
            value=single[0],
            unit="updates/s",
            aim="> 15000",
            note=f"one acknowledgement a frame, {devices_count} devices, {load}; hub process "
            f"only; {single[1]:,.0f} per second of wall time beside broker and load",
        ),
        Result(
            name="hub.updates_batched_per_cpu_s",
            value=batched[0],
            unit="updates/s",
            aim="",
            note=f"four acknowledgements a frame, {devices_count // 2} devices, {load}; "
            f"{batched[1]:,.0f} per second of wall time",
        ),
    ]


def run(*, short: bool) -> list[Result]:
    """Measure with 2,000 devices, in the long form with 20,000."""
    with tempfile.TemporaryDirectory(prefix="fieldfare-bench-") as name:
        folder = Path(name)
        (folder / "single").mkdir()
        (folder / "batched").mkdir()
        return asyncio.run(_both(folder, devices_count=2000 if short else 20_000))
