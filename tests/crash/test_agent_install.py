"""The agent dies, by SIGKILL, before and after each durable write and each act of an install."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from agent import journal as journals
from agent.install import State
from agent.store import open_store
from firmware_hooks.directory import DirectoryInstaller
from sync import documents as names
from sync import records
from sync.author import Author
from sync.client_ids import client_id
from sync.documents import DocumentName, Kind, Side
from sync.follower import follow
from sync.manifest import Manifest
from sync.messages import Full
from sync.records import Deployment, Running
from sync.replica import Holding, values_of
from sync.stages import Stage, is_final, stage_of
from tests.crash.agent_child import DEVICE
from tests.system.programs import lamp

pytestmark = pytest.mark.timeout(600)

OWN = DocumentName(Kind.DEVICE, DEVICE)
DESIRED = DocumentName(Kind.DESIRED, DEVICE)


@dataclass(frozen=True)
class Place:
    """Where the device keeps its state and its releases."""

    state_dir: Path
    install_dir: Path

    def copy(self, folder: Path) -> "Place":
        shutil.copytree(self.state_dir, folder / "state", symlinks=True)
        if self.install_dir.exists():
            shutil.copytree(self.install_dir, folder / "install", symlinks=True)
        return Place(folder / "state", folder / "install")


BLOBS: dict[str, bytes] = {}
"""What the hub in these tests has, by digest."""


class _Blobs(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = BLOBS.get(self.path.rpartition("/")[2])
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True, scope="module")
def hub() -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Blobs)
    thread = Thread(target=server.serve_forever)
    thread.start()
    os.environ["FIELDFARE_AGENT_HUB_URL"] = f"http://127.0.0.1:{server.server_port}"
    yield
    del os.environ["FIELDFARE_AGENT_HUB_URL"]
    server.shutdown()
    thread.join()
    server.server_close()


def run(place: Place, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.crash.agent_child"]
    command += [str(place.state_dir), str(place.install_dir), str(kill_at)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
    )


async def wish(place: Place, deployment: str, release: tuple[Manifest, bytes], order: int) -> None:
    """Put a deployment into the hub's document on the device, and its files on the hub."""
    manifest, tree = release
    BLOBS[manifest.digest().hex()] = manifest.canonical()
    BLOBS[manifest.artifacts[0].sha256] = tree
    record = Deployment(
        order, manifest.component, manifest.version, manifest.digest(), len(manifest.canonical())
    )
    async with await open_store(place.state_dir) as store:
        held = (await store.holdings()).get(DESIRED)
        author = Author(held, client_id=client_id(Side.HUB, order, order))
        author.write({names.DEPLOYMENT + deployment: records.encode(record)})
        await store.keep({DESIRED: author.holding()})


@dataclass(frozen=True)
class Result:
    running: bytes | None
    version: str
    journal: State
    stages: frozenset[Stage]
    reported: Running
    own: Holding


async def look(place: Place, deployment: str) -> Result:
    async with await open_store(place.state_dir) as store:
        own = (await store.holdings())[OWN]
        stored = journals.decode((await store.journals())["lamp"])
    values = values_of(own)
    prefix = f"{names.ACK}{deployment}/"
    stages = {stage_of(key[len(prefix) :]) for key in values if key.startswith(prefix)}
    version = place.install_dir / "lamp" / "current" / "VERSION"
    assert stored is not None
    return Result(
        running=DirectoryInstaller("lamp", place.install_dir).running(),
        version=version.read_text() if version.exists() else "",
        journal=stored.at,
        stages=frozenset(stage for stage in stages if stage is not None),
        reported=records.decode_as(Running, "v/lamp", values["v/lamp"]),
        own=own,
    )


def acceptable_to_a_hub(own: Holding) -> bool:
    message = Full("dev", own.epoch, own.state, [])
    followed = follow(OWN, None, message, DEVICE)
    return followed.holding is not None and values_of(followed.holding) == values_of(own)


GOOD, BAD = lamp("1.1.0"), lamp("1.1.0", healthy=False)
FIRST = lamp("1.0.0")

SCENARIOS = {
    "good": (True, GOOD, State.COMMITTED, Stage.ACKNOWLEDGED, "1.1.0"),
    "unhealthy": (True, BAD, State.ROLLED_BACK, Stage.ROLLED_BACK, "1.0.0"),
    "first-unhealthy": (False, BAD, State.ROLLED_BACK, Stage.ROLLED_BACK, ""),
}


async def prepared(folder: Path, *, has_earlier: bool, release: tuple[Manifest, bytes]) -> Place:
    place = Place(folder / "state", folder / "install")
    if has_earlier:
        await wish(place, "dfirst000", FIRST, 1)
        done = await asyncio.to_thread(run, place)
        assert done.returncode == 0, done.stderr
    await wish(place, "dsecond00", release, 2)
    return place


STRIDE = 5
"""The default run dies at every fifth step, from another first step in each scenario; the long form
at each. A step costs two starts of the agent."""


@pytest.mark.parametrize(
    ("name", "first", "stride"),
    [
        *((name, number + 1, STRIDE) for number, name in enumerate(SCENARIOS)),
        *(pytest.param(name, 1, 1, marks=pytest.mark.soak) for name in SCENARIOS),
    ],
)
async def test_killed_at_any_step_the_install_ends_as_if_nothing_had_happened(
    name: str, first: int, stride: int, tmp_path: Path
) -> None:
    has_earlier, release, journal, end, version = SCENARIOS[name]
    place = await prepared(tmp_path / "origin", has_earlier=has_earlier, release=release)
    whole = await asyncio.to_thread(run, place.copy(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    steps = json.loads(whole.stdout)
    assert steps > 20

    for kill_at in range(first, steps + 1, stride):
        case = place.copy(tmp_path / f"case-{kill_at}")
        killed = await asyncio.to_thread(run, case, kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        again = await asyncio.to_thread(run, case)
        assert again.returncode == 0, again.stderr

        result = await look(case, "dsecond00")
        expected = release[0].digest() if end is Stage.ACKNOWLEDGED else FIRST[0].digest()
        assert result.running == (expected if version else None), kill_at
        assert (result.version, result.journal) == (version, journal), kill_at
        assert {stage for stage in result.stages if is_final(stage)} == {end}, kill_at
        assert result.reported.version == version, kill_at
        assert result.reported.healthy is bool(version), kill_at
        assert acceptable_to_a_hub(result.own), kill_at
        shutil.rmtree(tmp_path / f"case-{kill_at}")


async def test_an_install_that_kills_the_agent_every_time_is_given_up_and_the_old_release_runs(
    tmp_path: Path,
) -> None:
    place = await prepared(tmp_path, has_earlier=True, release=GOOD)
    health_kills = "import os,signal; os.kill(os.getppid(), signal.SIGKILL)"
    manifest, tree = GOOD
    deadly = manifest.model_copy(
        update={
            "version": "6.6.6",
            "health": manifest.health.model_copy(
                update={"command": ("{python}", "-c", health_kills)}
            ),
        }
    )
    assert (await asyncio.to_thread(run, place)).returncode == 0
    await wish(place, "ddeadly00", (deadly, tree), 3)

    deaths = 0
    while (done := await asyncio.to_thread(run, place)).returncode == -signal.SIGKILL:
        deaths += 1
        assert deaths < 10

    assert done.returncode == 0, done.stderr
    result = await look(place, "ddeadly00")
    assert deaths == 3
    assert result.running == GOOD[0].digest()
    assert result.journal is State.ROLLED_BACK
    assert Stage.ROLLED_BACK in result.stages
