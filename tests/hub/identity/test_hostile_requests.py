"""Whatever a stranger sends, nobody gets a certificate for a key that he has not proven to hold."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CASES = int(os.environ.get("FIELDFARE_FUZZ_CASES", "20000"))
SOAK_CASES = 100_000
SEED = int(os.environ.get("FIELDFARE_FUZZ_SEED", "1"))


def check(cases: int) -> None:
    """Attack in a process of its own, so that its death is a finding like any other."""
    words = ["-m", "tests.hub.identity.hostile", "--cases", str(cases), "--seed", str(SEED)]
    run = subprocess.run(
        [sys.executable, *words],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    how = signal.Signals(-run.returncode).name if run.returncode < 0 else run.returncode
    assert run.returncode == 0, f"ended with {how}; seed {SEED}\n{run.stderr[-4000:]}"
    counts: dict[str, int] = json.loads(run.stdout)
    # It was an attack: much was refused, and some got as far as the good ones do.
    assert counts["refused 400"] > cases * 0.3
    assert counts["refused 403"] > cases * 0.02
    assert counts["waiting"] > 0
    assert counts["renewed"] > 0
    assert counts["issued rows"] == 1


def test_hostile_requests_get_nothing() -> None:
    check(CASES)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_hostile_requests_get_nothing() -> None:
    check(SOAK_CASES)
