"""Releases whose own programs misbehave, on a whole agent: each ends in a stated outcome."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sync.manifest import Health, Manifest
from sync.stages import Stage
from tests.agent.agents import Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub
from tests.firmware_hooks.trees import release

pytestmark = pytest.mark.timeout(60)

HANGS = "while :; do sleep 1; done"
FORKS = f"for n in 1 2 3; do sh -c '{HANGS}' $0 & done; {HANGS}"
DAEMON = f"for n in 1 2 3; do sh -c '{HANGS}' $0 & done; exit 1"
FLOODS = "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done"
DEAF = f"trap '' TERM INT HUP; {HANGS}"
DEAF_FLOOD = f"trap '' TERM; {FLOODS}"

WORST = {"forks and hangs": FORKS, "floods and ignores": DEAF_FLOOD}
HOSTILE = {
    "hangs": HANGS,
    "forks and hangs": FORKS,
    "leaves children with its pipes and fails": DAEMON,
    "floods its output": FLOODS,
    "ignores the order to end": DEAF,
    "floods and ignores": DEAF_FLOOD,
}


def mark_of(folder: Path) -> str:
    """Return a word that every process of a release shows, so that those left can be found."""
    return "hostile-" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def words(script: str, folder: Path) -> tuple[str, ...]:
    return ("sh", "-c", script, mark_of(folder))


def left(folder: Path) -> list[str]:
    """Return the processes of hostile releases of this test that are there."""
    mark = mark_of(folder).encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if mark in line.split(b"\0"):
                found.append(f"{process.name}: {line!r}")
    return found


async def good_one(device: Device, hub: SmallHub, blobs: Blobs) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    await hub.deployed("dgood", manifest)


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_health_check_that_misbehaves_ends_the_trial_within_its_deadline_and_leads_back(
    device: Device, hub: SmallHub, blobs: Blobs, script: str
) -> None:
    reason = "health_failed" if script == DAEMON else "health_timed_out"
    bad, tree = lamp("2.0.0")
    health = Health(command=words(script, device.folder), deadline_s=0.3, pause_s=0.05)
    bad = bad.model_copy(update={"health": health})
    blobs.publish(bad, tree)
    async with device.up():
        await good_one(device, hub, blobs)
        hub.deploy("dbad", bad)
        await hub.reached("dbad", Stage.ROLLED_BACK)
        assert hub.acks("dbad")["dbad/B"].reason == reason

    assert device.runs() == "1.0.0"
    assert left(device.folder) == []


@pytest.mark.parametrize("script", [*WORST.values(), DAEMON], ids=[*WORST, "leaves children"])
async def test_a_restart_command_that_misbehaves_ends_within_its_time_and_leads_back(
    device: Device, hub: SmallHub, blobs: Blobs, script: str
) -> None:
    restart = words(script, device.folder)
    bad, tree = lamp("2.0.0", restart=restart, restart_s=0.5)
    blobs.publish(bad, tree)
    async with device.up():
        await good_one(device, hub, blobs)
        hub.deploy("dbad", bad)
        await hub.reached("dbad", Stage.ROLLED_BACK)

    assert device.runs() == "1.0.0"
    assert left(device.folder) == []


def program(device: Device, script: str) -> dict[str, Any]:
    """Return settings that name a program which misbehaves with all but version 1.0.0."""
    hook = device.folder / "hook.sh"
    hook.write_text(f'#!/bin/sh\n[ "$FIELDFARE_VERSION" != 1.0.0 ] || exit 0\n{script}\n')
    hook.chmod(0o755)
    command = f"{hook} {mark_of(device.folder)}"
    return {"installers": {"program": {"command": command, "timeout_s": 0.5}}}


def released(version: str) -> tuple[Manifest, bytes]:
    """Return a release for the `program` installer."""
    manifest, tree = release({"VERSION": version.encode() + b"\n"}, version=version)
    health = Health(command=("true",), deadline_s=0.3, pause_s=0.05)
    update = {"component": "lamp", "installer": "program", "health": health}
    return manifest.model_copy(update=update), tree


def test_a_process_that_is_left_would_be_found(tmp_path: Path) -> None:
    assert left(tmp_path) == []
    command = ["sh", "-c", "echo; read line", mark_of(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it runs
        found = left(tmp_path)
        child.kill()
    assert len(found) == 1


@pytest.mark.parametrize(
    ("phase", "end", "runs"),
    [
        ("stage", Stage.FAILED, "1.0.0"),
        ("activate", Stage.ROLLED_BACK, "1.0.0"),
        ("check-trial", Stage.ROLLED_BACK, "1.0.0"),
        ("commit", Stage.ACKNOWLEDGED, "2.0.0"),
    ],
)
@pytest.mark.parametrize("script", WORST.values(), ids=WORST.keys())
async def test_an_installing_program_that_misbehaves_ends_within_its_time_in_a_stated_outcome(
    device: Device, hub: SmallHub, blobs: Blobs, script: str, phase: str, end: Stage, runs: str
) -> None:
    settings = program(device, f'[ "$FIELDFARE_PHASE" = {phase} ] || exit 0\n{script}')
    good, bad = released("1.0.0"), released("2.0.0")
    blobs.publish(*good)
    blobs.publish(*bad)
    async with device.up(**settings):
        await hub.deployed("dgood", good[0])
        hub.deploy("dbad", bad[0])
        await hub.reached("dbad", end)
        running = hub.running("lamp")
        assert running is not None
        assert (running.version, running.healthy) == (runs, True)

    assert left(device.folder) == []


async def test_a_way_back_that_misbehaves_too_is_reported_as_such_and_what_runs_is_known(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    script = f'case "$FIELDFARE_PHASE" in check-trial|roll-back) {DEAF_FLOOD};; esac'
    settings = program(device, script)
    good, bad = released("1.0.0"), released("2.0.0")
    blobs.publish(*good)
    blobs.publish(*bad)
    async with device.up(**settings):
        await hub.deployed("dgood", good[0])
        hub.deploy("dbad", bad[0])
        await hub.reached("dbad", Stage.FAILED)
        assert hub.acks("dbad")["dbad/F"].reason == "rollback_failed"
        running = hub.running("lamp")
        # A program of which nothing comes back may have done anything: nothing is claimed.
        assert running is not None
        assert (running.version, running.healthy) == ("", False)

    assert left(device.folder) == []
