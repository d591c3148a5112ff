"""A device's real documents and store under fire; a child process, because a crash is a finding."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CASES = 10_000
SOAK_CASES = 200_000


def _attack(folder: Path, seed: int, cases: int) -> None:
    command = [sys.executable, "-m", "tests.agent.hostile", str(folder), str(seed), str(cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout}{done.stderr[-4000:]}"
    assert done.stdout.splitlines()[-1] == "unharmed"


@pytest.mark.timeout(300)
def test_hostile_frames_of_a_hub_neither_stop_a_device_nor_unsay_what_it_said(
    tmp_path: Path,
) -> None:
    _attack(tmp_path, seed=1, cases=CASES)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [11, 12])
def test_hostile_frames_of_a_hub_by_the_hundred_thousand(tmp_path: Path, seed: int) -> None:
    _attack(tmp_path, seed=seed, cases=SOAK_CASES // 2)
