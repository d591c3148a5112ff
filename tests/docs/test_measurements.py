"""The reference of measurements, held against the code."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent import measures, measuring
from agent.client import Client
from agent.measures import Measures
from agent.statsd import take_lines
from sync.stamps import Stamp

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "measurements.md").read_text()
NOW = Stamp(b"boot-1", 1000, 1_800_000_000_000)


def plain(name: str) -> str:
    """Return a metric's name without what differs from device to device."""
    return re.sub(r"\{\w+\}|\b[A-Z]+\b", "*", name)


def named_in(cell: str) -> set[str]:
    """Return the metrics of a table's cell; `.restarts` stands beside one that it shares."""
    found = re.findall(r"`([^`]+)`", cell)
    first = found[0].rpartition(".")[0]
    return {plain(first + each if each.startswith(".") else each) for each in found}


def test_every_metric_of_the_device_itself_is_documented_and_nothing_else_is() -> None:
    code = "".join(path.read_text() for path in (ROOT / "agent").glob("*.py"))
    measured = {plain(name) for name in re.findall(r'Series\(f?"([^"]+)"', code)}
    table = PAGE[PAGE.index("## What the device measures by itself") :]
    cells = re.findall(r"^\| (`[a-z]+\..*?) \| [a-z]", table, re.MULTILINE)
    assert set[str]().union(*map(named_in, cells)) == measured


@pytest.mark.parametrize(
    ("what", "bound"),
    [
        ("series", f"{measures.SERIES_MAX};"),
        ("events", f"the last {measures.EVENTS_MAX} |"),
        ("cases", f"the last {measures.CASES_MAX} |"),
        ("all together", f"{measures.LIVE_BYTES_MAX // 1024} KiB |"),
        ("lines from applications", f"{measuring.LINES_PER_S} a second;"),
    ],
)
def test_the_bounds_are_those_of_the_code(what: str, bound: str) -> None:
    assert f"| {what} | {bound}" in PAGE


@pytest.mark.parametrize(
    "line",
    [
        "count door.opened",
        "count door.opened 2 release=door@1.4.0",
        "observe door.open_s 0.31 variant=door-fast=on",
        "gauge level 4",
        "event E1 detail=what it said",
        "outcome i1 open",
        "outcome i1 open ajar",
        "case i1 human",
        "case i1 automatic",
        "dropped 3",
        "door.open:310|ms|#release:door@1.4.0",
        "door.open:310|h|@0.5|#release:door@1.4.0,variant:door-fast=on,other:tag",
    ],
)
def test_every_form_of_line_in_the_reference_is_understood(line: str) -> None:
    assert take_lines(Measures(), line, NOW) == []


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_python_of_the_reference_runs_and_counts_what_nobody_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FIELDFARE_MEASURE_SOCKET", str(tmp_path / "none.sock"))
    names: dict[str, object] = {}
    exec(block("python"), names)  # noqa: S102 - our own page
    client = names["measure"]
    assert isinstance(client, Client)
    assert client.dropped_count == 4


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_the_c_of_the_reference_compiles_without_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "measure.c"
    heads = "".join(f"#include <sys/{name}.h>\n" for name in ("types", "socket", "un"))
    source.write_text(f"{heads}void tell(void) {{\n{block('c')}\n}}\n")
    subprocess.run(
        ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", tmp_path / "m.o"],
        check=True,
    )
