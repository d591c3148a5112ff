"""A whole agent on disks that are full, read-only or damaged."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.disks import CASES
from tests.agent.test_full_disk import APART


@pytest.mark.parametrize("case", CASES)
def test_a_disk_that_fails_leaves_the_old_release_running_and_the_end_is_said(
    case: str, tmp_path: Path
) -> None:
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare cannot make name spaces for users here")
    done = subprocess.run(
        [*APART, sys.executable, "-m", "tests.agent.disks", case, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
