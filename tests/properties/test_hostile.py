"""Whatever a peer sends, nothing crashes, hangs or grows, and no document becomes wrong.

Each side is attacked in a process of its own, so that its death is a finding like any other.
Run `python -m tests.properties.hostile` by hand to look for longer or to replay a finding.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sync.documents import Side
from tests.properties.hostile import GROWTH_BYTES_MAX, read_trace

ROOT = Path(__file__).parents[2]

CASES = int(os.environ.get("FIELDFARE_FUZZ_CASES", "20000"))
SOAK_CASES = 200_000
SEED = int(os.environ.get("FIELDFARE_FUZZ_SEED", "1"))


def attack(side: Side, cases: int, trace: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.properties.hostile", "--side", side.value]
    command += ["--seed", str(SEED), "--cases", str(cases), "--trace", str(trace), *options]
    # A backtrace of the engine loads its symbols: fifty megabytes that are none of our growth.
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def check(side: Side, cases: int, trace: Path) -> None:
    """Attack, and check that it was one: much was refused, and much got through to the engine."""
    run = attack(side, cases, trace)
    if run.returncode:
        kept = Path(f"hostile-{side.value}-{SEED}.trace").absolute()
        kept.write_bytes(trace.read_bytes())
        pytest.fail(
            f"{how_it_ended(run.returncode)} in batch {read_trace(kept)[0]}; see {kept}, "
            f"replay with --side {side.value} --seed {SEED} --replay\n{run.stderr[-4000:]}"
        )
    counts: dict[str, int] = json.loads(run.stdout)
    assert counts["cases"] == cases
    assert counts["grown bytes"] <= GROWTH_BYTES_MAX
    assert counts["not a frame"] > cases * 0.05
    assert counts["offences"] > cases * 0.1
    assert counts["dev changed"] + counts["des changed"] > cases * 0.05


def how_it_ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("side", list(Side))
def test_a_hostile_peer_achieves_nothing(side: Side, tmp_path: Path) -> None:
    check(side, CASES, tmp_path / "trace")


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("side", list(Side))
def test_a_hostile_peer_achieves_nothing_for_long(side: Side, tmp_path: Path) -> None:
    check(side, SOAK_CASES, tmp_path / "trace")


@pytest.mark.parametrize("side", list(Side))
def test_without_the_gate_the_same_attack_succeeds(side: Side, tmp_path: Path) -> None:
    assert attack(side, 2000, tmp_path / "trace", "--no-gate").returncode != 0
