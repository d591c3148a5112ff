"""The hub is killed at random under load, again and again; nothing that it acknowledged is lost."""

import asyncio
import contextlib
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import httpx
import pytest

from hub.broker_plan import BrokerKind
from hub.store import documents, projection
from hub.store.database import Connection, open_database
from sync.documents import DocumentName, Kind
from sync.records import Conflict, Local, encode
from sync.replica import values_of
from tests.fakes.fleet import Fleet, fact, runs
from tests.fakes.hub_process import HubProcess
from tests.system.brokers import RealBroker, running_broker

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

KILLS = 25
DEVICES = 40
POLL_S = 0.01
WRITES_BETWEEN_KILLS_MAX = 300
SETTLE_MAX_S = 120.0


class Load:
    """Devices that never stop writing, and an operator who keeps deploying."""

    def __init__(self, fleet: Fleet, hub: HubProcess, random: Random) -> None:
        self.fleet = fleet
        self.hub = hub
        self.random = random
        self.accepted: list[str] = []
        self.restores = 0
        """How often the hub was put back to an older state."""
        self.writes_count = 0
        self.goes_on = True

    async def write(self) -> None:
        names = list(self.fleet.devices)
        while self.goes_on:
            for _ in range(self.random.randrange(1, 8)):
                self._write_one(self.random.choice(names))
            await asyncio.sleep(POLL_S)

    def _write_one(self, name: str) -> None:
        self.writes_count += 1
        device, random = self.fleet.devices[name], self.random
        number = self.writes_count
        match random.randrange(12):
            case 0:
                self.fleet.restart(name)
            case 1:
                self.fleet.write(name, fact(f"fact-{random.randrange(5)}", number))
            case 2:
                self.fleet.write(name, runs("lamp", f"1.{number}", bytes(32), device.boot))
            case 3:
                local = encode(Local(number, json.dumps(number)))
                conflict = encode(Conflict(number, "1", "2", "2", "desired"))
                key = f"key-{random.randrange(5)}"
                self.fleet.write(name, {f"c/{key}": local, f"x/{key}": conflict})
            case 4:
                self.fleet.repeat_old(random)
            case _:
                stage = random.choice("DVIHK")
                self.fleet.write(name, device.ack(f"dmade{number // 5}", stage))

    async def operate(self) -> None:
        """Deploy and wish; only what the hub has confirmed counts."""
        while self.goes_on:
            await asyncio.sleep(20 * POLL_S)
            if not self.hub.look():
                continue
            async with self.hub.client(timeout=5) as client:
                with contextlib.suppress(httpx.HTTPError):
                    await self._deploy(client)

    async def _deploy(self, client: httpx.AsyncClient) -> None:
        blob = b"a tree"
        digest = hashlib.sha256(blob).hexdigest()
        await client.put(f"/blobs/{digest}", content=blob)
        version = f"2.{len(self.accepted)}"
        manifest = {
            "component": "lamp",
            "version": version,
            "artifacts": [{"name": "tree", "sha256": digest, "length_bytes": len(blob)}],
            "health": {"command": ["true"]},
            "unmeasured": "a tree of the tests",
        }
        await client.post("/releases", json=manifest)
        asked = {"release": f"lamp@{version}", "group": "all"}
        restores = self.restores
        answer = await client.post("/deployments", json=asked)
        # A hub that was restored since knows nothing of what its predecessor has just confirmed.
        if answer.status_code == httpx.codes.ACCEPTED and restores == self.restores:
            self.accepted.append(answer.json()["deployment"])
        name = self.random.choice(list(self.fleet.devices))
        await client.put(f"/devices/{name}/settings/mode", json={"value": version})


@contextlib.asynccontextmanager
async def under_load(folder: Path, broker: RealBroker, random: Random) -> AsyncIterator[Load]:
    hub = HubProcess(folder / "hub", broker=f"127.0.0.1:{broker.port}")
    async with Fleet(broker.port) as fleet:
        await fleet.connected.wait()
        for number in range(DEVICES):
            fleet.add(f"device-{number}", obeys=number % 2 == 0)
        load = Load(fleet, hub, random)
        await hub.start()
        tasks = [asyncio.create_task(load.write()), asyncio.create_task(load.operate())]
        try:
            yield load
        finally:
            load.goes_on = False
            for task in tasks:
                task.cancel()
            hub.kill()


async def kill_at_random(load: Load) -> None:
    """Let some writes happen, kill the hub in the middle of them, start it again."""
    goal = load.writes_count + load.random.randrange(WRITES_BETWEEN_KILLS_MAX)
    while load.writes_count < goal:
        await asyncio.sleep(POLL_S)
    load.hub.kill()
    load.hub.spawn()
    # Half of the time it dies again before it is ready.
    if load.random.random() < 0.5:
        while load.hub.is_running and not load.hub.look():
            await asyncio.sleep(POLL_S)
    assert load.hub.is_running, load.hub.said()


async def settle(load: Load) -> None:
    load.goes_on = False
    try:
        async with asyncio.timeout(SETTLE_MAX_S):
            while not load.fleet.is_settled() or not holds_the_hubs_documents(load):
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(
            f"never at rest: {load.fleet.unsettled()[:5]}\n{load.hub.said()[-3000:]}"
        ) from None


def holds_the_hubs_documents(load: Load) -> bool:
    """Tell whether all devices hold the same group document, with what was accepted last."""
    group = DocumentName(Kind.GROUP, "all")
    held = [device.held.get(group) for device in load.fleet.devices.values()]
    if not load.accepted:
        return True
    newest = f"r/{load.accepted[-1]}"
    return all(
        holding is not None and holding == held[0] and newest in values_of(holding)
        for holding in held
    )


def check_everything(load: Load, state_dir: Path) -> None:
    """Compare what the hub has on its disk with what the devices have."""
    database = open_database(state_dir)
    try:
        database.transact(lambda db: compare(load, db))
    finally:
        database.close_now()


def compare(load: Load, db: Connection) -> None:
    differing = []
    for device in load.fleet.devices.values():
        held = documents.load(db, device.document)
        own = device.author.holding()
        assert held is not None
        same = (held.epoch, held.vector, values_of(held)) == (own.epoch, own.vector, values_of(own))
        if not same:
            differing.append(device.name)
    assert differing == []
    rows = db.execute(
        "SELECT d.id, s.deployment, s.stage FROM seen AS s JOIN device AS d ON d.n = s.device"
    )
    seen = {(name, f"a/{deployment}/{stage}") for name, deployment, stage in rows}
    written = {(d.name, key) for d in load.fleet.devices.values() for key in d.written_acks}
    assert written - seen == set()
    known = {found for (found,) in db.execute("SELECT id FROM deployment")}
    assert set(load.accepted) <= known
    live = projection.dump(db)
    # Nobody in this load waits, has flags or measures; other tests have devices that do.
    unused = {"p_waiting", "p_exposure", "p_obeyed", "p_measure", "p_event", "p_case"}
    assert {name for name, found in live.items() if not found} == unused
    projection.rebuild(db)
    assert projection.dump(db) == live


@pytest.mark.parametrize("kind", [BrokerKind.MOSQUITTO, BrokerKind.NATS])
async def test_a_hub_killed_25_times_under_load_ends_with_every_document_and_row_right(
    tmp_path: Path, kind: BrokerKind
) -> None:
    random = Random(25)
    async with (
        running_broker(kind, tmp_path) as broker,
        under_load(tmp_path, broker, random) as load,
    ):
        for _ in range(KILLS):
            await kill_at_random(load)
        await settle(load)
        assert load.hub.end() == 0, load.hub.said()
        check_everything(load, tmp_path / "hub")
        assert load.accepted


@pytest.mark.parametrize("kind", [BrokerKind.MOSQUITTO, BrokerKind.NATS])
async def test_a_broker_that_dies_and_forgets_everything_changes_nothing_in_the_end(
    tmp_path: Path, kind: BrokerKind
) -> None:
    random = Random(7)
    async with (
        running_broker(kind, tmp_path) as broker,
        under_load(tmp_path, broker, random) as load,
    ):
        for _ in range(4):
            goal = load.writes_count + random.randrange(WRITES_BETWEEN_KILLS_MAX)
            while load.writes_count < goal:
                await asyncio.sleep(POLL_S)
            broker.kill()
            if random.random() < 0.5:
                load.hub.kill()
                load.hub.spawn()
            await broker.restart(forget=True)
        await settle(load)
        assert load.hub.end() == 0, load.hub.said()
        check_everything(load, tmp_path / "hub")


async def test_a_hub_restored_from_an_older_backup_learns_again_what_it_has_lost(
    tmp_path: Path,
) -> None:
    random = Random(3)
    state_dir, backup = tmp_path / "hub", tmp_path / "backup"
    async with (
        running_broker(BrokerKind.MOSQUITTO, tmp_path) as broker,
        under_load(tmp_path, broker, random) as load,
    ):
        while load.writes_count < 500 or not load.accepted:
            await asyncio.sleep(POLL_S)
        load.hub.kill()
        shutil.copytree(state_dir, backup)
        known = len(load.accepted)
        await load.hub.start()
        goal = load.writes_count + 500
        while load.writes_count < goal or len(load.accepted) == known:
            await asyncio.sleep(POLL_S)
        load.hub.kill()
        shutil.rmtree(state_dir)
        shutil.copytree(backup, state_dir)
        # What was accepted after the backup is lost with the hub's disk, and only that; and so are
        # acknowledgements that devices have pruned since.
        del load.accepted[known:]
        load.restores += 1
        for device in load.fleet.devices.values():
            device.written_acks &= set(device.author.values())
            # From here on a device prunes only what this hub has confirmed.
            device.confirmed_acks.clear()
        await load.hub.start()
        while len(load.accepted) == known:
            await asyncio.sleep(POLL_S)
        await settle(load)
        assert load.hub.end() == 0, load.hub.said()
        check_everything(load, state_dir)
