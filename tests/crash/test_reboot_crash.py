"""Installs that take a reboot, with the power cut at each step: one release runs, as is known."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from agent import journal as journals
from agent.install import State
from agent.store import open_store
from sync import documents as names
from sync import records
from sync.manifest import Manifest
from sync.records import Running
from sync.replica import values_of
from sync.stages import Reason, Stage, is_final, stage_of
from tests.crash import slots
from tests.crash.test_agent_install import BAD, FIRST, GOOD, OWN, Place, _Blobs, wish

pytestmark = pytest.mark.timeout(600)

STARTS_MAX = 40


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


def start(place: Place, kill_at: int = 0, *, comes_up: bool = True) -> tuple[int, int]:
    """Start the device once; return the exit code and how many steps it told of."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.crash.reboot_child"),
            *(str(place.state_dir), str(place.install_dir)),
            *(str(kill_at), "yes" if comes_up else "no"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, int(done.stdout) if done.returncode == 0 else 0


def settle(place: Place, *, comes_up: bool = True) -> int:
    """Start the device until nothing is left to do; return how many starts that took."""
    for count in range(1, STARTS_MAX):
        code, _ = start(place, comes_up=comes_up)
        if code == 0:
            return count
    raise AssertionError(f"not settled after {STARTS_MAX} starts")


@dataclass(frozen=True)
class Result:
    booted: str
    kept: str
    tried: str
    state: State
    reason: str
    stages: frozenset[Stage]
    ends: frozenset[Stage]
    reported: Running


async def look(place: Place, deployment: str) -> Result:
    async with await open_store(place.state_dir) as store:
        values = values_of((await store.holdings())[OWN])
        journal = journals.decode((await store.journals())["lamp"])
    prefix = f"{names.ACK}{deployment}/"
    stages = {stage_of(key[len(prefix) :]) for key in values if key.startswith(prefix)}
    flags = slots.read(place.install_dir / "lamp")
    assert journal is not None
    return Result(
        booted=flags["booted"],
        kept=flags["kept"],
        tried=flags["try"],
        state=journal.at,
        reason=journal.reason,
        stages=frozenset(stage for stage in stages if stage is not None),
        ends=frozenset(stage for stage in stages if stage is not None and is_final(stage)),
        reported=records.decode_as(Running, "v/lamp", values["v/lamp"]),
    )


def check(result: Result, end: Stage, kill_at: int) -> None:
    """Check that exactly one release runs, that it is kept, and that the hub will know."""
    new, old = GOOD[0].digest().hex(), FIRST[0].digest().hex()
    runs = new if end is Stage.ACKNOWLEDGED else old
    assert (result.booted, result.kept, result.tried) == (runs, runs, ""), kill_at
    assert result.ends == {end}, kill_at
    assert (result.reported.release.hex(), result.reported.healthy) == (runs, True), kill_at


@pytest.fixture
async def origin(tmp_path: Path) -> Place:
    """A device that runs the first release."""
    place = Place(tmp_path / "origin" / "state", tmp_path / "origin" / "install")
    place.state_dir.mkdir(parents=True)
    await wish(place, "dfirst000", FIRST, 1)
    assert await asyncio.to_thread(settle, place) == 2
    return place


def copied(place: Place, folder: Path) -> Place:
    case = place.copy(folder)
    shutil.copy(place.state_dir.parent / "starts", folder / "starts")
    return case


async def test_a_release_runs_for_good_after_one_reboot(origin: Place, tmp_path: Path) -> None:
    await wish(origin, "dsecond00", GOOD, 2)

    assert await asyncio.to_thread(settle, origin) == 2

    result = await look(origin, "dsecond00")
    check(result, Stage.ACKNOWLEDGED, 0)
    assert result.state is State.COMMITTED


@pytest.mark.parametrize(
    ("release", "state"), [(GOOD, State.COMMITTED), (BAD, State.ROLLED_BACK)], ids=["good", "bad"]
)
async def test_a_reboot_that_was_ordered_is_no_try_so_that_one_try_is_enough(
    release: tuple[Manifest, bytes],
    state: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIELDFARE_AGENT_INSTALL_ATTEMPTS_MAX", "1")
    place = Place(tmp_path / "state", tmp_path / "install")
    place.state_dir.mkdir()
    await wish(place, "dfirst000", FIRST, 1)
    await asyncio.to_thread(settle, place)
    await wish(place, "dsecond00", release, 2)

    await asyncio.to_thread(settle, place)

    result = await look(place, "dsecond00")
    end = Stage.ACKNOWLEDGED if release is GOOD else Stage.ROLLED_BACK
    check(result, end, 0)
    assert result.state is state


async def test_a_release_that_takes_its_time_to_come_up_after_the_reboot_is_waited_for(
    origin: Place,
) -> None:
    (origin.install_dir / "lamp" / slots.COMING_UP).write_text("2")
    await wish(origin, "dsecond00", GOOD, 2)

    await asyncio.to_thread(settle, origin)

    result = await look(origin, "dsecond00")
    check(result, Stage.ACKNOWLEDGED, 0)
    assert Stage.APPLIED in result.stages


async def test_an_unhealthy_one_is_left_by_another_reboot(origin: Place) -> None:
    await wish(origin, "dsecond00", BAD, 2)

    assert await asyncio.to_thread(settle, origin) == 3

    result = await look(origin, "dsecond00")
    check(result, Stage.ROLLED_BACK, 0)


@pytest.mark.parametrize(("starts", "is_back"), [(2, True), (30, False)])
async def test_a_device_starts_as_often_as_its_installer_asks_until_it_is_back_or_it_is_too_much(
    starts: int, origin: Place, *, is_back: bool
) -> None:
    await wish(origin, "dsecond00", BAD, 2)
    await asyncio.to_thread(start, origin)  # it is switched to
    assert slots.read(origin.install_dir / "lamp")["try"] == BAD[0].digest().hex()
    (origin.install_dir / "lamp" / slots.STARTS_LEFT).write_text(str(starts))

    assert await asyncio.to_thread(settle, origin) <= 8

    result = await look(origin, "dsecond00")
    if is_back:
        check(result, Stage.ROLLED_BACK, 0)
        assert (origin.install_dir / "lamp" / slots.STARTS_LEFT).read_text() == "0"
    else:
        assert result.state is State.STUCK
        assert result.ends == {Stage.FAILED}
        assert not result.reported.healthy


async def test_a_device_that_boots_the_old_image_is_known_to_have_fallen_back(
    origin: Place,
) -> None:
    await wish(origin, "dsecond00", GOOD, 2)

    await asyncio.to_thread(lambda: settle(origin, comes_up=False))

    result = await look(origin, "dsecond00")
    check(result, Stage.ROLLED_BACK, 0)
    assert result.reason == Reason.FELL_BACK


STRIDE = 15
"""The default run cuts the power at every fifteenth step, the long form at each; a step costs up to
five starts of the agent."""


@pytest.mark.parametrize(
    ("release", "allowed", "stride"),
    [
        (GOOD, {Stage.ACKNOWLEDGED, Stage.ROLLED_BACK}, STRIDE),
        (BAD, {Stage.ROLLED_BACK}, STRIDE),
        pytest.param(GOOD, {Stage.ACKNOWLEDGED, Stage.ROLLED_BACK}, 1, marks=pytest.mark.soak),
        pytest.param(BAD, {Stage.ROLLED_BACK}, 1, marks=pytest.mark.soak),
    ],
    ids=["good", "unhealthy", "good-long", "unhealthy-long"],
)
async def test_with_the_power_cut_at_any_step_of_any_start_one_release_runs_and_is_known(
    release: object, allowed: set[Stage], stride: int, origin: Place, tmp_path: Path
) -> None:
    await wish(origin, "dsecond00", release, 2)  # type: ignore[arg-type]
    for first in (0, 1):  # the start that switches, and the one after the reboot
        at = stride
        while True:
            case = copied(origin, tmp_path / f"case-{first}-{at}")
            for _ in range(first):
                await asyncio.to_thread(start, case)
            _, steps = await asyncio.to_thread(start, case, at)
            await asyncio.to_thread(settle, case)
            result = await look(case, "dsecond00")
            (end,) = result.ends
            assert end in allowed, (first, at)
            check(result, end, at)
            shutil.rmtree(tmp_path / f"case-{first}-{at}")
            if steps or at > 60:
                break
            at += stride


@pytest.mark.parametrize("kill_at", [3, 8])
async def test_a_device_that_dies_at_one_step_for_ever_ends_with_what_ran_before(
    kill_at: int, origin: Place
) -> None:
    await wish(origin, "dsecond00", GOOD, 2)
    for _ in range(STARTS_MAX):
        code, _ = await asyncio.to_thread(start, origin, kill_at)
        if code == 0:
            break

    await asyncio.to_thread(settle, origin)

    result = await look(origin, "dsecond00")
    (end,) = result.ends
    check(result, end, kill_at)


async def test_a_release_that_takes_the_device_down_in_its_trial_is_a_boot_loop(
    origin: Place,
) -> None:
    health = GOOD[0].health.model_copy(
        update={"command": ("sh", "-c", 'kill -9 "$PPID"'), "deadline_s": 30}
    )
    deadly = GOOD[0].model_copy(update={"health": health, "version": "6.6.6"})
    await wish(origin, "ddeadly00", (deadly, GOOD[1]), 2)

    assert await asyncio.to_thread(settle, origin) <= 12

    result = await look(origin, "ddeadly00")
    assert result.booted == result.kept == FIRST[0].digest().hex()
    assert result.ends == {Stage.ROLLED_BACK}
    assert result.reason in (Reason.BOOT_LOOP, Reason.ATTEMPTS_EXHAUSTED)
    assert json.loads((origin.install_dir / "lamp" / slots.FLAGS).read_text())["try"] == ""


async def test_a_release_that_cannot_be_committed_is_gone_back_from_and_is_no_success(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path / "state", tmp_path / "install")
    place.state_dir.mkdir()
    await wish(place, "dfirst000", FIRST, 1)
    await asyncio.to_thread(settle, place)
    (place.install_dir / "lamp" / slots.READ_ONLY).touch()
    await wish(place, "dsecond00", GOOD, 2)
    await asyncio.to_thread(settle, place)

    result = await look(place, "dsecond00")

    check(result, Stage.ROLLED_BACK, 0)
    assert result.reason == "installer_failed"
    slots.start(place.install_dir / "lamp", comes_up=True)
    assert slots.read(place.install_dir / "lamp")["booted"] == result.reported.release.hex()
