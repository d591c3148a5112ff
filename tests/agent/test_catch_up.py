"""What a full disk kept the agent from keeping, once there is room again."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.daemon import Daemon
from agent.settings import Settings
from agent.store import NO_ROOM, Store, StoreFull, open_store
from sync.manifest import manifest_from
from sync.transport.memory import MemoryTransport
from sync.transport.memory_broker import MemoryBroker
from tests.fakes.small_hub import SmallHub

MANIFEST = manifest_from(
    {
        "component": "lamp",
        "version": "1.0.0",
        "artifacts": [{"name": "tree.tar.gz", "sha256": "0" * 64, "length_bytes": 1}],
        "health": {"command": ["/bin/true"]},
    }
)


async def test_what_a_group_was_told_while_the_disk_was_full_is_taken_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate(
        {
            "device": "lamp-1",
            "state_dir": tmp_path,
            "install_dir": tmp_path,
            "retry_first_s": 0.02,
        }
    )
    broker = MemoryBroker()
    refused = asyncio.Semaphore(0)

    async def refuse(*_: object, **__: object) -> None:
        refused.release()
        raise StoreFull(NO_ROOM)

    async with await open_store(tmp_path) as store, SmallHub(broker, "lamp-1").up() as hub:
        daemon = Daemon(settings, store, SystemClock(), partial(MemoryTransport, broker))
        running = asyncio.ensure_future(daemon.run())
        await hub.until(lambda: hub.held is not None)
        with monkeypatch.context() as full:
            full.setattr(Store, "keep", refuse)
            hub.deploy("dfull", MANIFEST, group=True)
            for _ in range(3):  # as it came, and twice when it was tried again
                await refused.acquire()
            assert not hub.acks("dfull")
        # Nobody says it a second time.
        await hub.until(lambda: bool(hub.acks("dfull")))
        running.cancel()
        await asyncio.wait([running])
