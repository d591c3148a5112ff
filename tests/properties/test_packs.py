"""Packs lead from any tree to any other; spoilt ones lead nowhere."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_hooks.tree import list_tree
from tests.fakes.packs import Files, pair

ROOT = Path(__file__).parents[2]

CASES = 3000
SOAK_CASES = 100_000
PEAK_BYTES_MAX = 64_000_000

NAMES = ("a", "b-1", "b-2", "c.py", "ding", "é")
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda piece, count: piece * count, st.binary(min_size=1), st.integers(1, 300)),
    st.sampled_from([b"".join(b"%d\n" % n for n in range(k, 3000)) for k in (0, 1, 500)]),
)
FILES = st.one_of(CONTENTS, st.tuples(CONTENTS, st.just(0o755)))


@st.composite
def trees(draw: st.DrawFn) -> Files:
    """Trees that share names and contents with each other, more often than not."""
    found: dict[str, bytes | tuple[bytes, int] | str | None] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5)):
        match draw(st.integers(0, 4)):
            case 0:
                found[name] = draw(st.sampled_from(NAMES))
            case 1:
                found[name] = None
            case 2:
                for below in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3)):
                    found[f"{name}/{below}"] = draw(FILES)
            case _:
                found[name] = draw(FILES)
    return found


@given(old=trees(), new=trees())
def test_a_pack_between_any_two_trees_makes_exactly_the_second(old: Files, new: Files) -> None:
    with tempfile.TemporaryDirectory() as folder:
        between = pair(Path(folder), old, new)
        between.make()
        between.apply(Path(folder) / "out")
        assert list_tree(Path(folder) / "out") == between.target.text
        assert list_tree(between.old) == between.base.text


def attack(cases: int, seed: int) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.properties.hostile_packs"),
            *("--cases", str(cases), "--seed", str(seed)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    counts = json.loads(run.stdout)
    assert counts["refused"] > cases * 0.8
    assert counts["list refused"] > cases * 0.3
    assert counts["list taken"] > cases * 0.01
    assert counts.get("base differs", 0) == 0
    assert counts["peak bytes"] < PEAK_BYTES_MAX


def test_thousands_of_spoilt_packs_make_the_right_tree_or_none() -> None:
    attack(CASES, 1)


@pytest.mark.soak
def test_a_hundred_thousand_spoilt_packs_make_the_right_tree_or_none() -> None:
    attack(SOAK_CASES, 2)
