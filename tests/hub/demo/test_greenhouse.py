"""The example application, as an agent would run it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "greenhouse"


class House:
    """A device's folders, with both versions laid out."""

    def __init__(self, place: Path) -> None:
        # Deeper than the address of a Unix socket can be long.
        self.state = place / ("state" * 20)
        self.sensors = place / "sensors"
        self.sensors.mkdir(parents=True)
        self._place = place
        for version in ("1.0.0", "1.1.0"):
            shutil.copytree(EXAMPLE / "common", place / version)
            shutil.copytree(EXAMPLE / version, place / version, dirs_exist_ok=True)

    def run(self, version: str, script: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-B", script],
            cwd=self._place / version,
            env={
                **os.environ,
                "FIELDFARE_STATE_DIR": str(self.state),
                "GREENHOUSE_SENSORS": str(self.sensors),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def healthy(self, version: str) -> tuple[int, str]:
        """Try until the check passes, or fails for another reason than that it is early."""
        while True:
            code, told = self.run(version, "health.py")
            if "times so far" not in told:
                return code, told


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    (house.sensors / "air_temperature").write_text("27.5\n")
    yield house
    house.run("1.0.0", "stop.py")


def test_a_version_starts_and_proves_itself(house: House) -> None:
    assert house.run("1.0.0", "health.py") == (1, "the controller does not answer")
    assert house.run("1.0.0", "restart.py") == (0, "greenhouse 1.0.0 answers")
    assert house.healthy("1.0.0") == (0, "1.0.0 measures air_temperature 27.5")
    assert (house.state / "window").read_text() == "open\n"


def test_the_new_version_takes_the_place_of_the_old_one_and_behaves_differently(
    house: House,
) -> None:
    (house.sensors / "soil_moisture").write_text("20")
    house.run("1.0.0", "restart.py")
    assert house.run("1.1.0", "health.py") == (1, "1.0.0 runs, not 1.1.0")

    assert house.run("1.1.0", "restart.py") == (0, "greenhouse 1.1.0 answers")

    told = "1.1.0 measures air_temperature 27.5, soil_moisture 20"
    assert house.healthy("1.1.0") == (0, told)
    assert (house.state / "valve").read_text() == "open\n"
    assert (house.state / "window").read_text() == "closed\n"


def test_without_the_sensor_that_it_needs_the_new_version_is_not_healthy_and_the_old_one_is(
    house: House,
) -> None:
    house.run("1.1.0", "restart.py")
    assert house.healthy("1.1.0") == (1, "no reading from soil_moisture")
    house.run("1.0.0", "restart.py")
    assert house.healthy("1.0.0")[0] == 0


def test_a_version_that_does_not_start_says_why(house: House) -> None:
    (house._place / "1.1.0" / "control.py").write_text("raise RuntimeError('no pump')\n")
    code, told = house.run("1.1.0", "restart.py")
    assert (code, told) == (1, "greenhouse 1.1.0 did not start: RuntimeError: no pump")


def test_it_leaves_nothing_in_the_folder_of_the_release(house: House) -> None:
    before = sorted(path.name for path in (house._place / "1.0.0").iterdir())
    house.run("1.0.0", "restart.py")
    house.healthy("1.0.0")
    assert sorted(path.name for path in (house._place / "1.0.0").iterdir()) == before


def test_it_can_be_stopped_and_stopping_twice_is_fine(house: House) -> None:
    house.run("1.0.0", "restart.py")
    assert house.run("1.0.0", "stop.py") == (0, "stopped")
    assert house.run("1.0.0", "stop.py") == (0, "no controller runs")
