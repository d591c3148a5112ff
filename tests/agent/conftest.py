"""An agent, and what it needs around it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sync.transport.memory_broker import MemoryBroker
from tests.agent.agents import DEVICE, Device
from tests.fakes.blobs import Blobs, serving_blobs
from tests.fakes.small_hub import SmallHub


@pytest.fixture
def blobs() -> Iterator[Blobs]:
    with serving_blobs() as served:
        yield served


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def device(tmp_path: Path, broker: MemoryBroker, blobs: Blobs) -> Device:
    return Device(tmp_path, broker, blobs.url)


@pytest.fixture
async def hub(broker: MemoryBroker) -> AsyncIterator[SmallHub]:
    async with SmallHub(broker, DEVICE).up() as small:
        yield small
