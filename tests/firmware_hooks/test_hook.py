import contextlib
import hashlib
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from firmware_hooks import hook
from firmware_hooks.hook import CHUNK_BYTES, LINE_BYTES_MAX, Ended, run_hook

LONG_S = 60.0

CHILD = """
import os, pathlib, signal, time

def child(act):
    if not os.fork():
        act()
        pathlib.Path(f'child-{os.getpid()}.new').write_text(str(os.getpid()))
        os.rename(f'child-{os.getpid()}.new', f'child-{os.getpid()}')
        time.sleep(600)
        os._exit(0)

def wait_for_children(count):
    while len([*pathlib.Path().glob('child-*[0-9]')]) < count:
        time.sleep(0.01)
"""


def run(code: str, folder: Path, *words: str, timeout_s: float = LONG_S, **more: Any) -> Ended:
    environment: Mapping[str, str] = {"PART": "of the order"}
    argv = [sys.executable, "-c", code, *words]
    return run_hook(argv, folder=folder, environment=environment, timeout_s=timeout_s, **more)


def is_alive(pid: int) -> bool:
    # A child whose parent has died is a zombie until init collects it; it runs no more.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pid: int) -> bool:
    end_s = time.monotonic() + 30
    while is_alive(pid):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def children(folder: Path, count: int) -> list[int]:
    pids = [int(path.read_text()) for path in folder.glob("child-*[0-9]")]
    assert len(pids) == count
    return pids


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "GRACE_S", 0.2)


def test_it_runs_in_its_folder_with_its_environment_and_both_outputs_are_kept(
    tmp_path: Path,
) -> None:
    code = "import os,sys; print(os.getcwd(), os.environ['PART']); sys.exit('no light')"

    ended = run(code, tmp_path)

    assert ended == Ended(1, f"{tmp_path} of the order\n".encode(), b"no light\n", is_late=False)
    assert ended.last_line == "no light"


def test_arguments_are_never_read_by_a_shell(tmp_path: Path) -> None:
    ended = run("import sys; print(sys.argv[1])", tmp_path, "$(touch x); `touch y`")

    assert ended.stdout == b"$(touch x); `touch y`\n"
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_killed_by_a_signal_is_told_as_its_number(tmp_path: Path) -> None:
    ended = run("import os; os.kill(os.getpid(), 9)", tmp_path)

    assert (ended.code, ended.is_late) == (-9, False)


@pytest.mark.parametrize("program", ["./missing", "/", "a\0b", "./data"])
def test_one_that_cannot_be_executed_says_why_and_is_not_late(tmp_path: Path, program: str) -> None:
    (tmp_path / "data").write_text("no program")

    ended = run_hook([program], folder=tmp_path, environment={}, timeout_s=LONG_S)

    assert (ended.code, ended.stdout, ended.is_late) == (None, b"", False)
    assert "cannot be started" in ended.last_line


def test_a_folder_that_is_gone_says_so(tmp_path: Path) -> None:
    assert "cannot be started" in run("", tmp_path / "gone").last_line


def test_one_that_hangs_is_ended_when_its_time_is_over(tmp_path: Path) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"

    ended = run(code, tmp_path, timeout_s=1.0)

    assert ended == Ended(None, b"up\n", b"", is_late=True)


def test_one_that_ends_well_when_it_is_asked_to_was_late_all_the_same(tmp_path: Path) -> None:
    code = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print('tidied'), sys.exit(0)))
print('up', flush=True)
time.sleep(600)
"""
    ended = run(code, tmp_path, timeout_s=1.0)

    assert ended == Ended(None, b"up\ntidied\n", b"", is_late=True)


@pytest.mark.usefixtures("short_grace")
def test_one_that_ignores_sigterm_is_killed_with_all_its_children(tmp_path: Path) -> None:
    code = f"""{CHILD}
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child(lambda: None)
child(lambda: None)
time.sleep(600)
"""
    ended = run(code, tmp_path, timeout_s=2.0)

    assert ended.is_late
    assert all(gone(pid) for pid in children(tmp_path, 2))


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("ignores", [False, True])
def test_children_that_it_leaves_with_its_pipes_are_ended_and_its_code_counts(
    tmp_path: Path, *, ignores: bool
) -> None:
    act = "lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignores else "lambda: None"
    code = f"{CHILD}\nchild({act})\nwait_for_children(1)\nprint('done', flush=True)\nos._exit(3)"

    ended = run(code, tmp_path)

    assert (ended.code, ended.stdout, ended.is_late) == (3, b"done\n", False)
    assert gone(children(tmp_path, 1)[0])


def test_a_daemon_that_has_closed_the_pipes_lives_on(tmp_path: Path) -> None:
    code = f"{CHILD}\nchild(lambda: os.closerange(0, 3))\nwait_for_children(1)\nprint('started')"

    ended = run(code, tmp_path)

    daemon = children(tmp_path, 1)[0]
    assert (ended.code, ended.stdout) == (0, b"started\n")
    assert is_alive(daemon)
    os.kill(daemon, 9)


@pytest.mark.usefixtures("short_grace")
def test_a_child_that_left_the_group_with_the_pipes_is_not_waited_for(tmp_path: Path) -> None:
    code = f"{CHILD}\nchild(os.setsid)\nwait_for_children(1)\nprint('done')"

    ended = run(code, tmp_path)

    assert (ended.code, ended.stdout) == (0, b"done\n")
    os.kill(children(tmp_path, 1)[0], 9)


def test_a_flood_blocks_nobody_and_of_it_the_beginning_and_the_last_errors_are_kept(
    tmp_path: Path,
) -> None:
    code = """
import os, threading
def flood(descriptor, first, last):
    os.write(descriptor, first)
    for _ in range(300):
        os.write(descriptor, b'x' * 65536)
    os.write(descriptor, last)
both = [threading.Thread(target=flood, args=(n, b'first', b'last')) for n in (1, 2)]
[thread.start() for thread in both]
[thread.join() for thread in both]
"""
    ended = run(code, tmp_path, stdout_bytes_max=100, stderr_bytes_max=50)

    assert ended.stdout == b"first" + b"x" * 95
    assert ended.stderr == b"x" * 46 + b"last"
    assert ended.code == 0


def test_one_that_closes_its_output_early_is_still_waited_for(tmp_path: Path) -> None:
    code = """
import os, pathlib
print('only this', flush=True)
os.closerange(1, 3)
pathlib.Path('done').touch()
os._exit(7)
"""
    ended = run(code, tmp_path)

    assert ended == Ended(7, b"only this\n", b"", is_late=False)
    assert (tmp_path / "done").exists()


def test_output_that_is_no_text_is_kept_as_it_is(tmp_path: Path) -> None:
    ended = run("import sys; sys.stdout.buffer.write(bytes(range(256)))", tmp_path)

    assert ended.stdout == bytes(range(256))
    assert isinstance(ended.last_line, str)


def test_lines_are_told_while_it_runs(tmp_path: Path) -> None:
    code = """
import sys
for n in range(3):
    print(n, flush=True)
    sys.stdin.readline()
sys.stdout.write('10 %\\r20 %\\r\\nrest without end')
"""
    told: list[str] = []

    ended = run(code, tmp_path, stdin=b"\n" * 3, on_line=told.append)

    assert told == ["0", "1", "2", "10 %", "20 %", "rest without end"]
    assert ended.code == 0


def test_of_a_huge_line_a_bounded_part_is_told_and_the_next_one_whole(tmp_path: Path) -> None:
    told: list[str] = []

    run("print('x' * 5_000_000); print('next')", tmp_path, on_line=told.append)

    assert told == ["x" * LINE_BYTES_MAX, "next"]


def test_an_error_of_who_listens_ends_the_program_and_goes_on_to_the_caller(
    tmp_path: Path,
) -> None:
    def fails(line: str) -> None:
        raise RuntimeError(line)

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(RuntimeError) as raised:
        run(code, tmp_path, on_line=fails)

    assert gone(int(str(raised.value)))


def test_much_input_is_read_to_its_end(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8 * CHUNK_BYTES
    code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"

    ended = run(code, tmp_path, stdin=content)

    assert ended.stdout.decode().strip() == hashlib.sha256(content).hexdigest()


def test_input_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    ended = run("print('done')", tmp_path, stdin=b"x" * 10_000_000)

    assert ended == Ended(0, b"done\n", b"", is_late=False)


def test_without_input_it_reads_none(tmp_path: Path) -> None:
    assert run("import sys; print(len(sys.stdin.read()))", tmp_path).stdout == b"0\n"


def test_one_that_is_cancelled_is_ended_and_is_not_late(tmp_path: Path) -> None:
    cancel = threading.Event()

    ended = run(
        "import time; print('up', flush=True); time.sleep(600)",
        tmp_path,
        on_line=lambda _: cancel.set(),
        cancel=cancel,
    )

    assert ended == Ended(None, b"up\n", b"", is_late=False)


def test_one_that_ends_by_itself_is_not_disturbed_by_a_cancel_that_never_comes(
    tmp_path: Path,
) -> None:
    ended = run("sum(range(10_000_000)); print('done')", tmp_path, cancel=threading.Event())

    assert ended == Ended(0, b"done\n", b"", is_late=False)


def test_it_cannot_speak_to_the_service_manager_in_the_name_of_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("PASSED_ON", "yes")

    code = "import os, sys; print(sorted({*os.environ} & {*sys.argv[1:]}))"
    ended = run(code, tmp_path, "NOTIFY_SOCKET", "PASSED_ON")

    assert ended.stdout == b"['PASSED_ON']\n"


def test_nothing_is_left_open_by_a_hundred_hooks(tmp_path: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(100):
        run_hook(["/bin/true"], folder=tmp_path, environment={}, timeout_s=LONG_S, stdin=b"x")

    assert len([*Path("/proc/self/fd").iterdir()]) == before
