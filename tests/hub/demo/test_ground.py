import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from hub.demo import ground as module
from hub.demo.ground import CannotStart, Ground, free_port

# In a process of its own: a ground makes its process the parent of every orphan below it.
LEAVE_SOMETHING_BEHIND = """
import sys, time
from hub.demo.ground import Ground, descendants
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DETACH = f"import subprocess; subprocess.Popen({SLEEP!r}, start_new_session=True)"
with Ground(keep=sys.argv[1] == "keep") as ground:
    ground.program("plain", SLEEP, {}).start()
    detached = ground.program("detached", [sys.executable, "-c", DETACH], {})
    detached.start()
    killed = ground.program("killed", SLEEP, {})
    killed.start()
    killed.kill()
    assert not killed.is_running() and killed.pid is None
    # What was detached is there when its parent is gone; the ground's warden is among them.
    while detached.is_running() or len(found := descendants()) != 3:
        time.sleep(0.01)
    print(ground.folder, *found, flush=True)
"""


@pytest.mark.parametrize("keep", ["keep", "remove"])
def test_whatever_was_started_has_ended_even_what_lost_its_parent(keep: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE_SOMETHING_BEHIND, keep],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    folder, *pids = done.stdout.split()
    assert len(pids) == 3
    assert not any(psutil.pid_exists(int(pid)) for pid in pids)
    assert Path(folder).exists() is (keep == "keep")
    if keep == "keep":
        assert sorted(path.name for path in Path(folder).iterdir()) == [
            "detached",
            "killed",
            "plain",
        ]
        subprocess.run(["rm", "-r", folder], check=True)


KILLED = """
import os, signal, sys, time
from hub.demo.ground import Ground, descendants
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DETACH = f"import subprocess; subprocess.Popen({SLEEP!r}, start_new_session=True)"
with Ground() as ground:
    ground.program("plain", SLEEP, {}).start()
    detached = ground.program("detached", [sys.executable, "-c", DETACH], {})
    detached.start()
    while detached.is_running() or len(found := descendants()) != 3:
        time.sleep(0.01)
    print(ground.folder, *found, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_ground_that_is_killed_outright_leaves_no_process_and_no_folder() -> None:
    demo = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    folder, *pids = demo.stdout.readline().split()
    left = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
    demo.communicate()
    assert demo.returncode == -signal.SIGKILL
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert not Path(folder).exists()


def test_without_room_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: _made(tmp_path / "demo"))
    monkeypatch.setattr(module, "FOLDER_BYTES_MAX", 1000)
    monkeypatch.setattr(module, "ROOM_MIN_BYTES", 2**62)
    with pytest.raises(CannotStart, match="MB free, and the demo wants"):
        Ground()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_too_deep_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 70)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: _made(deep))
    with pytest.raises(CannotStart, match="too long for the sockets"):
        Ground()
    assert not deep.exists()


def _made(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def test_a_program_that_cannot_be_started_is_named() -> None:
    with Ground() as ground:
        ghost = ground.program("ghost", ["/nowhere/ghost"], {})
        with pytest.raises(CannotStart, match="ghost cannot be started"):
            ghost.start()
        assert ghost.last_words() == "it said nothing"


def test_free_ports_can_be_had() -> None:
    assert 0 < free_port() < 65_536
