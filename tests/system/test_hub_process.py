"""The hub as a process: how it starts, how it refuses to, how it stops."""

import asyncio
import contextlib
import json
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import httpx
import psutil
import pytest

from hub.demo.ground import free_port
from hub.errors import ExitCode
from hub.store.database import DATABASE_FILE
from tests.fakes.fleet import Fleet, fact
from tests.fakes.hub_process import HubProcess

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

POLL_S = 0.02


@contextlib.asynccontextmanager
async def running(folder: Path, **settings: object) -> AsyncIterator[HubProcess]:
    hub = HubProcess(folder / "hub", **settings)
    try:
        await hub.start()
        yield hub
    finally:
        hub.kill()


async def ends(hub: HubProcess) -> tuple[int | None, str]:
    """Start a hub that should not run; return its exit code and its last line."""
    hub.spawn()
    while hub.is_running:
        assert not hub.look(), hub.said()
        await asyncio.sleep(POLL_S)
    return hub.end(), hub.said().strip().splitlines()[-1]


async def test_it_says_in_one_line_where_it_is_and_stops_cleanly_with_its_broker(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as hub:
        (line,) = [each for each in hub.said().splitlines() if "is ready" in each]
        assert hub.url in line
        assert str(tmp_path / "hub") in line
        children = psutil.Process(hub.pid).children(recursive=True)
        assert len(children) == 1
        async with Fleet(hub.broker_port) as fleet:
            await fleet.connected.wait()
            fleet.add("d1")
            fleet.write("d1", fact("class", "lamp"))
            while not fleet.is_settled():
                await asyncio.sleep(POLL_S)
        assert await asyncio.to_thread(hub.end) == ExitCode.OK
        assert "Traceback" not in hub.said()
        assert not any(child.is_running() for child in children)


async def test_a_hub_that_is_killed_takes_its_broker_along_and_the_next_one_starts(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with running(tmp_path, broker_port=port) as hub:
        (broker,) = psutil.Process(hub.pid).children(recursive=True)
        hub.kill()
        await asyncio.to_thread(broker.wait, 20)
        await hub.start()
        assert hub.broker_port == port


async def test_a_broker_that_dies_is_replaced_and_devices_notice_nothing_but_a_delay(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as hub, Fleet(hub.broker_port) as fleet:
        await fleet.connected.wait()
        fleet.add("d1")
        (broker,) = psutil.Process(hub.pid).children(recursive=True)
        broker.kill()
        fleet.write("d1", fact("class", "lamp"))
        while not fleet.is_settled():
            await asyncio.sleep(POLL_S)
        assert "class" in await _facts(hub, "d1")


async def _unacknowledged_count(client: httpx.AsyncClient) -> int:
    counters = (await client.get("/hub")).json()["counters"]
    count: int = counters["mqtt_received_count"] - counters["mqtt_acknowledged_count"]
    return count


async def _facts(hub: HubProcess, device: str) -> dict[str, object]:
    async with hub.client() as client:
        found: dict[str, object] = (await client.get(f"/devices/{device}")).json()["facts"]
    return found


async def test_a_second_hub_on_the_same_folder_leaves_the_first_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        second = HubProcess(tmp_path / "hub", log_level="error")
        second.log = tmp_path / "second.log"
        code, line = await ends(second)
        assert code == ExitCode.ANOTHER_HUB
        assert f"another hub (process {hub.pid}) runs on" in line
        assert hub.is_running
        async with hub.client() as client:
            assert (await client.get("/hub")).status_code == 200


@pytest.mark.parametrize(
    ("setting", "code"), [("http_port", ExitCode.PORT), ("broker_port", ExitCode.BROKER)]
)
async def test_a_port_that_is_taken_is_named_and_nothing_is_left_running(
    tmp_path: Path, setting: str, code: ExitCode
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found, line = await ends(HubProcess(tmp_path / "hub", **{setting: port}))
    assert found == code
    assert str(port) in line
    assert "Traceback" not in line


async def test_a_database_of_a_newer_hub_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        hub.end()
    path = tmp_path / "hub" / DATABASE_FILE
    database = apsw.Connection(str(path))
    database.execute("PRAGMA user_version = 1000")
    database.close()
    code, line = await ends(HubProcess(tmp_path / "hub"))
    assert code == ExitCode.NEWER_DATABASE
    assert "newer hub (schema 1000" in line
    path.write_bytes(b"rubbish" * 1000)
    code, line = await ends(HubProcess(tmp_path / "hub"))
    assert code == ExitCode.DAMAGED_DATABASE
    assert "backup" in line


async def test_a_folder_that_cannot_be_used_and_a_wrong_setting_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    hub = HubProcess(tmp_path / "file" / "hub")
    hub.log = tmp_path / "hub.log"
    code, line = await ends(hub)
    assert code == ExitCode.STATE_DIR
    assert "state_dir" in line
    code, line = await ends(HubProcess(tmp_path / "hub", http_host="0.0.0.0"))
    assert code == ExitCode.SETTINGS
    assert "loopback" in line
    assert not (tmp_path / "hub").exists()


async def test_a_full_disk_stops_nothing_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails, then it works again."""
    async with running(tmp_path) as hub, Fleet(hub.broker_port) as fleet:
        await fleet.connected.wait()
        fleet.add("d1")
        fleet.write("d1", fact("class", "lamp"))
        while not fleet.is_settled():
            await asyncio.sleep(POLL_S)
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        async with hub.client() as client:
            wish = {"value": "x"}
            refused = await client.put("/devices/d1/settings/mode", json=wish)
            assert refused.status_code == 507
            upload = await client.put(f"/blobs/{'0' * 64}", content=b"x" * 100)
            assert upload.status_code == 507
            fleet.write("d1", fact("while", "full"))
            # The limit is on its log too, so what it says of this is not in there.
            while await _unacknowledged_count(client) == 0:
                await asyncio.sleep(POLL_S)
            assert not fleet.is_settled()
            assert "while" not in await _facts(hub, "d1")
            resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, unlimited)
            while not fleet.is_settled():
                await asyncio.sleep(POLL_S)
            assert "while" in await _facts(hub, "d1")
            assert (await client.put("/devices/d1/settings/mode", json=wish)).status_code == 200
        assert list((tmp_path / "hub" / "blobs" / "incoming").iterdir()) == []
        assert await asyncio.to_thread(hub.end) == ExitCode.OK


def test_to_a_program_it_says_in_fields_where_it_is(tmp_path: Path) -> None:
    words = ["--json", "--state-dir", str(tmp_path / "hub"), "--http-port", "0"]
    words += ["--broker-port", str(free_port())]
    hub = subprocess.Popen([sys.executable, "-m", "hub.cli", "hub", *words], stdout=subprocess.PIPE)
    assert hub.stdout is not None
    with hub.stdout:
        told = json.loads(hub.stdout.readline()) | json.loads(hub.stdout.readline())
        ready, token = told["ready"], told["bootstrap_token"]
        shown = {"Authorization": f"Bearer {token}"}
        found = httpx.get(f"{ready['url']}/api/v1/hub", headers=shown).json()
        hub.terminate()
        assert hub.stdout.read() == b""

    assert hub.wait() == ExitCode.OK
    assert found["broker"]["port"] == ready["broker_port"]
    assert ready["state_dir"] == str(tmp_path / "hub")


async def test_it_tells_the_service_manager_that_it_is_ready_goes_on_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(30)
        async with running(tmp_path) as hub:
            ready = (await asyncio.to_thread(manager.recv, 4096)).decode().split("\n")
            assert ready[0] == "READY=1"
            assert hub.url in ready[1]
            for _ in range(2):
                assert await asyncio.to_thread(manager.recv, 4096) == b"WATCHDOG=1"
            assert await asyncio.to_thread(hub.end) == ExitCode.OK
        heard = b""
        while heard != b"STOPPING=1":
            heard = manager.recv(4096)
