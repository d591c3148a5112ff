import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from agent import command
from agent.command import OUTPUT_BYTES_MAX, Ended, run_command

LONG_S = 60.0


async def run(
    code: str, folder: Path, *words: str, deadline_s: float = LONG_S, stays: bool = False
) -> Ended:
    return await run_command(
        ("{python}", "-c", code, *words),
        folder=folder,
        environment={"FIELDFARE_VERSION": "1.2.3"},
        python=sys.executable,
        deadline_s=deadline_s,
        stays=stays,
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child whose parent has died is a zombie until init collects it; it runs no more.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def gone(pid: int) -> None:
    end = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_a_command_runs_in_its_folder_with_its_environment_and_last_line_is_kept(
    tmp_path: Path,
) -> None:
    code = "import os; print('first'); print(os.getcwd(), os.environ['FIELDFARE_VERSION'])"

    assert await run(code, tmp_path) == Ended(0, f"{tmp_path} 1.2.3")


async def test_an_exit_code_and_a_signal_are_told(tmp_path: Path) -> None:
    assert (await run("import sys; sys.exit('no light')", tmp_path)) == Ended(1, "no light")
    assert (await run("import os; os.kill(os.getpid(), 9)", tmp_path)).code == -9


async def test_arguments_are_never_read_by_a_shell(tmp_path: Path) -> None:
    ended = await run("import sys; print(sys.argv[1])", tmp_path, "$(touch x); `touch y`")

    assert ended == Ended(0, "$(touch x); `touch y`")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("./missing",), ("/",), ("a\0b",)])
async def test_a_command_that_cannot_be_started_says_why(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    ended = await run_command(
        words, folder=tmp_path, environment={}, python=sys.executable, deadline_s=LONG_S
    )

    assert ended.code is None
    assert "cannot be started" in ended.output


async def test_a_folder_that_is_gone_says_so(tmp_path: Path) -> None:
    ended = await run("", tmp_path / "gone")

    assert ended.code is None
    assert "cannot be started" in ended.output


async def test_a_command_that_hangs_is_ended_at_its_deadline(tmp_path: Path) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"
    ended = await run(code, tmp_path, deadline_s=1.0)

    assert (ended.code, ended.is_late) == (None, True)


async def test_one_that_ignores_sigterm_and_its_children_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "GRACE_S", 0.1)
    code = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    pathlib.Path('pids.new').write_text(f'{os.getpid()} {child}')
    os.rename('pids.new', 'pids')
time.sleep(600)
"""
    ended = await run(code, tmp_path, deadline_s=2.0)

    assert ended.code is None
    for pid in (tmp_path / "pids").read_text().split():
        await gone(int(pid))


async def test_a_flood_of_output_neither_blocks_the_command_nor_fills_the_memory(
    tmp_path: Path,
) -> None:
    code = "import sys\nfor _ in range(200): sys.stdout.write('x' * 65536)\nprint('\\nlast')"

    assert await run(code, tmp_path) == Ended(0, "last")


async def test_of_a_line_without_end_only_a_bounded_part_is_told(tmp_path: Path) -> None:
    ended = await run("print('x' * 1_000_000)", tmp_path)

    assert ended == Ended(0, "x" * 200)
    assert OUTPUT_BYTES_MAX < 1_000_000


LEAVES_A_CHILD = """
import os, pathlib, time
child = os.fork()
if not child:
    time.sleep(600)
pathlib.Path('child').write_text(str(child))
print('started')
"""


async def test_what_a_restart_command_leaves_in_the_background_lives_on(tmp_path: Path) -> None:
    ended = await run(LEAVES_A_CHILD, tmp_path, stays=True)

    child = int((tmp_path / "child").read_text())
    assert ended == Ended(0, "started")
    assert is_alive(child)
    os.kill(child, 9)


async def test_what_a_health_command_leaves_in_the_background_is_ended(tmp_path: Path) -> None:
    ended = await run(LEAVES_A_CHILD, tmp_path)

    assert ended == Ended(0, "started")
    await gone(int((tmp_path / "child").read_text()))


async def test_output_that_is_no_text_is_told_as_well_as_it_can_be(tmp_path: Path) -> None:
    ended = await run("import sys; sys.stdout.buffer.write(bytes([255, 65]))", tmp_path)

    assert ended == Ended(0, "\N{REPLACEMENT CHARACTER}A")


async def test_nothing_is_left_of_a_command_when_the_agent_stops_in_the_middle(
    tmp_path: Path,
) -> None:
    code = "import os,pathlib,time; pathlib.Path('p').write_text(str(os.getpid())); time.sleep(600)"
    running = asyncio.create_task(run(code, tmp_path))
    while not (tmp_path / "p").exists() or not (tmp_path / "p").read_text():
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})

    assert running.cancelled()
    await gone(int((tmp_path / "p").read_text()))


async def test_a_release_cannot_speak_to_the_service_manager_in_the_name_of_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("PASSED_ON", "yes")

    code = "import os, sys; print(sorted({*os.environ} & {*sys.argv[1:]}))"
    ended = await run(code, tmp_path, "NOTIFY_SOCKET", "PASSED_ON")

    assert ended == Ended(0, "['PASSED_ON']")
