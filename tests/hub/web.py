"""The HTTP API over a core, and what its tests say again and again."""

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from litestar.types import ASGIApp

from hub.api.app import build_api
from hub.api.status import Status
from hub.artifacts import Artifacts
from hub.clock import Clock
from hub.identity.desk import Desk
from hub.operations import Operations
from hub.operators import LIFE_S, Scope, Shown
from hub.packs import Packs
from hub.publisher import Publisher
from hub.settings import Settings
from hub.tokens import make
from hub.trust.desk import TrustDesk
from hub.trust.online import OnlineKeys
from sync.transport.memory import MemoryTransport
from sync.transport.memory_broker import MemoryBroker
from sync.transport.port import Link
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core
from tests.hub.identity.paper import registrar_of

BLOB = b"a tree of files" * 1000
DIGEST = hashlib.sha256(BLOB).hexdigest()


class CoreClock:
    """The clock of a test's hub."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def now_ms(self) -> int:
        return self._core.now.ms

    def mono_s(self) -> float:
        return self._core.now.mono_s


def trust_desk_of(operations: Operations) -> TrustDesk:
    """Return what serves signed metadata of `operations`."""
    keys = OnlineKeys(operations.settings.state_dir)
    return TrustDesk(operations.database, operations.clock, keys, operations.ledger)


def desk_of(operations: Operations) -> Desk:
    """Return where devices and operators come about identities."""
    return Desk(
        registrar=registrar_of(),
        database=operations.database,
        clock=operations.clock,
        address="hub.example:8443",
        ledger=operations.ledger,
    )


def operations_of(core: Core, state_dir: Path, **chosen: Any) -> Operations:
    clock: Clock = CoreClock(core)
    artifacts = Artifacts(state_dir, blob_max_bytes=1_000_000)
    transport = MemoryTransport(MemoryBroker(), Link(client_id="hub"))
    return Operations(
        settings=Settings(state_dir=state_dir, blob_max_bytes=1_000_000, **chosen),
        clock=clock,
        database=core.database,
        artifacts=artifacts,
        desired=core.desired,
        entries=core.entries,
        groups=core.groups,
        conversations=core.conversations,
        packs=Packs(state_dir, artifacts, count_max=3, make_s=60, bytes_max=10_000_000),
        publisher=Publisher(transport, core.database, core.groups, clock, b"hub-1!"),
    )


def status() -> Status:
    return Status(
        run="00",
        broker_kind="external",
        broker_host="127.0.0.1",
        broker_port=1883,
        started_at_ms=1,
        is_connected=lambda: True,
        counters=lambda: {"frame_count": 3},
    )


def app_of(core: Core, state_dir: Path, **chosen: Any) -> ASGIApp:
    """Return the API over `core`."""
    operations = operations_of(core, state_dir, **chosen)
    return build_api(operations, status(), trust_desk_of(operations), desk_of(operations))


def token_of(core: Core, scope: Scope = Scope.ADMIN, name: str = "ada") -> Shown:
    """Return a new token."""
    return core.database.transact(lambda db: make(db, name, scope, LIFE_S, core.now.ms))[1]


@asynccontextmanager
async def api_of(core: Core, state_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the API over `core`, as an admin."""
    api = app_of(core, state_dir)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=api, raise_app_exceptions=False),  # type: ignore[arg-type]
        base_url="http://127.0.0.1:8420/api/v1",
        headers={"authorization": f"Bearer {token_of(core).text()}"},
    ) as client:
        yield client


def manifest_of(
    version: str = "1.0.0", digest: str = DIGEST, length: int = len(BLOB)
) -> dict[str, Any]:
    return {
        "component": "lamp",
        "version": version,
        "artifacts": [{"name": "tree.tar.gz", "sha256": digest, "length_bytes": length}],
        "health": {"command": ["true"]},
        "owner": "lights@example.org",
        "outcomes": ["adoption"],
    }


def device_of(core: Core, name: str = "d1") -> FleetDevice:
    device = FleetDevice(name, 1)
    device.write(fact("site", "s7"), core.now.mono_s)
    core.connect(device)
    return device


async def release_of(client: httpx.AsyncClient, version: str = "1.0.0", **given: Any) -> str:
    """Publish lamp with this version, its manifest changed by what is given."""
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    answer = await client.post("/releases", json=manifest_of(version) | given)
    assert answer.status_code in {200, 201}, answer.text
    return f"lamp@{version}"


def check_problem(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert re.search(words, problem["detail"]), problem
    assert "\n" not in problem["detail"]
