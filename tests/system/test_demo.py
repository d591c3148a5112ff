"""The demo as a person runs it, and stopped in the middle."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hub.broker_plan import find_candidates

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

DEMO = [str(Path(sys.executable).parent / "fieldfare"), "demo"]


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a folder for temporary files whose path leaves room for sockets; it ends up empty."""
    folder = Path(tempfile.mkdtemp(prefix="ff-", dir="/tmp"))
    yield folder
    folder.rmdir()


def start(folder: Path, place: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*DEMO, *words],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("how", [(), ("--tls",)], ids=["plain", "tls"])
def test_everything_that_the_hub_reports_is_what_was_done_to_the_devices(
    tmp_path: Path, place: Path, how: tuple[str, ...]
) -> None:
    if how and find_candidates().mosquitto is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    demo = start(tmp_path, place, "--json", "facts.json", "--page", "outcome.html", *how)
    told, _ = demo.communicate()
    assert demo.returncode == 0, told
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["holds"] is True
    assert facts["strangers_are_refused"] is bool(how)
    by_fault = {each["fault"]: each for each in facts["devices"]}
    assert {fault: each["first"]["reported"] for fault, each in by_fault.items()} == {
        "none": "acknowledged",
        "offline": "unreachable",
        "no_sensor": "rolled_back",
        "deaf": "silent",
        "killed": "acknowledged",
        "wrong_clock": "acknowledged",
    }
    assert {fault: each["final"]["runs"] for fault, each in by_fault.items()} == {
        "none": "1.1.0",
        "offline": "1.1.0",
        "no_sensor": "1.0.0",
        "deaf": "1.1.0",
        "killed": "1.1.0",
        "wrong_clock": "1.1.0",
    }
    assert "3 of 6 devices run greenhouse 1.1.0" in told
    assert "house-4 is silent" in (tmp_path / "outcome.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.json", "outcome.html"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_leaves_no_process_and_no_folder(
    tmp_path: Path, place: Path, how: signal.Signals
) -> None:
    demo = start(tmp_path, place, "--page", "outcome.html")
    assert demo.stdout is not None
    started: list[psutil.Process] = []
    for line in demo.stdout:
        if "have proven it" in line:
            started = psutil.Process(demo.pid).children(recursive=True)
            demo.send_signal(how)
            break
    told, _ = demo.communicate()
    assert demo.returncode == 130, told
    assert len(started) >= 14  # a hub, its broker, six agents, six applications
    assert not [process for process in started if process.is_running()]
    assert list(tmp_path.iterdir()) == []


def test_killed_outright_it_leaves_no_process_and_no_folder(tmp_path: Path, place: Path) -> None:
    demo = start(tmp_path, place, "--page", "outcome.html")
    assert demo.stdout is not None
    for line in demo.stdout:
        if "have proven it" in line:
            break
    started = psutil.Process(demo.pid).children(recursive=True)
    demo.kill()
    demo.communicate()
    assert len(started) >= 14
    assert psutil.wait_procs(started, timeout=60)[1] == []
    assert list(place.iterdir()) == []


def test_where_the_page_cannot_be_written_nothing_is_begun(tmp_path: Path, place: Path) -> None:
    (tmp_path / "file").write_text("")
    demo = start(tmp_path, place, "--page", "file/outcome.html")
    told, _ = demo.communicate()
    assert (demo.returncode, told.count("\n")) == (20, 1), told
    assert "file/outcome.html cannot be written" in told
