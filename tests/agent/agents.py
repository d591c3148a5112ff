"""A whole agent for tests: real files, real commands, a broker in memory."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from agent.clock import Clock, SystemClock
from agent.daemon import _live
from agent.settings import Settings
from sync.manifest import Health, Manifest
from sync.stages import Stage
from sync.transport.memory import MemoryTransport
from sync.transport.memory_broker import MemoryBroker
from tests.firmware_hooks.trees import release

DEVICE = "lamp-1"
NOWHERE = "http://127.0.0.1:1"
ALL_STAGES = [
    Stage.DELIVERED,
    Stage.VERIFIED,
    Stage.APPLIED,
    Stage.HEALTHY,
    Stage.ACKNOWLEDGED,
]


def lamp(
    version: str, *, healthy: bool = True, component: str = "lamp", **more: Any
) -> tuple[Manifest, bytes]:
    manifest, tree = release({"VERSION": version.encode() + b"\n"}, version=version)
    wanted = version if healthy else "another version"
    health = Health(command=("grep", "-qx", wanted, "VERSION"), deadline_s=0.3, pause_s=0.05)
    return manifest.model_copy(update={"component": component, "health": health, **more}), tree


class Device:
    """One agent and its folders; started and stopped by the test."""

    def __init__(self, folder: Path, broker: MemoryBroker, hub_url: str) -> None:
        self.folder = folder
        self.broker = broker
        self.hub_url = hub_url
        self.clock: Clock = SystemClock()

    def settings(self, **more: Any) -> Settings:
        return Settings.model_validate(
            {
                "device": DEVICE,
                "hub_url": self.hub_url,
                "state_dir": self.folder / "state",
                "install_dir": self.folder / "install",
                "local_socket": self.folder / "a.sock",
                "retry_first_s": 0.2,
                "retry_longest_s": 1.0,
                "linger_ms": 5,
                "disk_reserve_bytes": 0,
                "allow_unsigned": True,
                **more,
            }
        )

    async def live(self, **more: Any) -> None:
        """Run the agent until cancelled, or until it cannot."""
        connect = partial(MemoryTransport, self.broker)
        await _live(self.settings(**more), self.clock, connect)

    @contextlib.asynccontextmanager
    async def up(self, **more: Any) -> AsyncIterator["Device"]:
        """Run the agent for the length of the block."""
        task = asyncio.create_task(self.live(**more))
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def runs(self, component: str = "lamp") -> str | None:
        version = self.folder / "install" / component / "current" / "VERSION"
        return version.read_text().strip() if version.exists() else None

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Ask the agent over its socket, as soon as there is one."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self.folder / "a.sock")
            except OSError:
                await asyncio.sleep(0.01)
            else:
                break
        writer.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return answer
