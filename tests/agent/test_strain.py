import os
from pathlib import Path

import pytest

from agent.strain import read_strain


def supply(root: Path, name: str, **words: str) -> None:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for word, value in words.items():
        (folder / word).write_text(value + "\n")


def test_the_emptiest_battery_counts(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", capacity="80", status="Discharging", present="1")
    supply(tmp_path, "BAT1", type="Battery", capacity="15", status="Discharging")
    strain = read_strain(tmp_path, tmp_path)
    assert (strain.battery_ratio, strain.is_fed) == (0.15, False)


def test_a_mouse_has_no_say(tmp_path: Path) -> None:
    supply(tmp_path, "hid-1", type="Battery", capacity="3", status="Discharging", scope="Device")
    assert read_strain(tmp_path, tmp_path).battery_ratio is None


def test_a_battery_that_is_taken_out_has_no_say(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", capacity="0", present="0")
    assert read_strain(tmp_path, tmp_path).battery_ratio is None


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_a_battery_that_is_charged_feeds_nobody(tmp_path: Path, status: str) -> None:
    supply(tmp_path, "BAT0", type="Battery", capacity="5", status=status)
    assert read_strain(tmp_path, tmp_path).is_fed


@pytest.mark.parametrize(("online", "is_fed"), [("1", True), ("0", False)])
def test_a_plug_feeds_the_device_if_there_is_power(
    tmp_path: Path, online: str, *, is_fed: bool
) -> None:
    supply(tmp_path, "AC", type="Mains", online=online)
    supply(tmp_path, "BAT0", type="Battery", capacity="5", status="Unknown")
    assert read_strain(tmp_path, tmp_path).is_fed is is_fed


def test_the_load_is_for_each_processor(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("6.00 1.00 0.50 1/123 4567\n")
    assert read_strain(tmp_path, tmp_path).load_ratio == 6.0 / (os.cpu_count() or 1)


def test_a_folder_that_is_not_there_yet_has_the_room_of_its_disk(tmp_path: Path) -> None:
    assert read_strain(tmp_path, tmp_path / "to" / "come").free_bytes


def test_a_device_that_says_nothing_is_not_strained(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", capacity="full", status="?")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("")
    strain = read_strain(tmp_path, tmp_path)
    assert (strain.battery_ratio, strain.load_ratio) == (None, None)


def test_this_machine_can_be_asked() -> None:
    strain = read_strain(Path("/"), Path("/"))
    assert strain.load_ratio is not None
    assert strain.free_bytes is not None
