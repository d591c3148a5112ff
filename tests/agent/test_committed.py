"""What accepted releases ask of later ones: it counts also while nothing is known to run."""

from pathlib import Path

import pytest

from agent.committed import NAME, Committed, note_committed, read_committed
from firmware_hooks.directory import DirectoryInstaller
from sync.stages import Reason, Stage
from tests.agent.agents import Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub


def test_the_highest_floor_and_the_last_way_stay(tmp_path: Path) -> None:
    folder = tmp_path / "lamp"
    assert read_committed(folder) == Committed()

    for version, floor in (("1.0", ""), ("2.0", "1.10"), ("3.0", "1.9")):
        note_committed(folder, lamp(version, floor=floor)[0])
    note_committed(folder, lamp("4.0", installer="file")[0])

    assert read_committed(folder) == Committed("1.10", "file")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"floor": 1}', b"[" * 5000])
def test_what_cannot_be_read_asks_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)

    assert read_committed(tmp_path) == Committed()


@pytest.mark.parametrize("is_new", [False, True], ids=["noted at a start", "noted at its commit"])
async def test_a_floor_and_a_way_hold_while_nothing_is_known_to_run(
    device: Device,
    hub: SmallHub,
    blobs: Blobs,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_new: bool,
) -> None:
    first, older = lamp("2.0.0", floor="2.0.0"), lamp("0.9.0")
    other = lamp("3.0.0", installer="file")
    for each in (first, older, other):
        blobs.publish(*each)
    async with device.up():
        await hub.deployed("dfirst", first[0])
    if not is_new:  # as a program that did not note it has left it
        (device.folder / "state" / "manifests" / "lamp" / NAME).unlink()
        async with device.up():
            await hub.deployed("dagain", first[0])
    monkeypatch.setattr(DirectoryInstaller, "running", lambda _: None)
    async with device.up():
        hub.deploy("dolder", older[0])
        await hub.until(lambda: bool({Stage.APPLIED, Stage.FAILED} & set(hub.stages("dolder"))))
        hub.deploy("dother", other[0])
        await hub.reached("dother", Stage.FAILED)

    assert hub.acks("dolder")["dolder/F"].reason == Reason.DOWNGRADE
    assert hub.acks("dother")["dother/F"].reason == Reason.INCOMPATIBLE
