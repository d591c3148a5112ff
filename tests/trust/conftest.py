from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from hub.trust.keys import KeyFolder
from tests.agent.conftest import blobs, broker, device, hub
from tests.hub.core import Core, running
from tests.hub.web import api_of


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    with running(tmp_path / "hub") as core:
        yield core


@pytest.fixture
async def client(core: Core, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(core, tmp_path / "hub") as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


__all__ = ["blobs", "broker", "client", "core", "device", "folder", "hub"]
