"""The agent dies, by SIGKILL, before each call that changes anything, whichever backend it uses."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from firmware_hooks.boot.chosen import BACKENDS
from tests.fakes.firmware import BOARDS, Board, UBootBoard
from tests.fakes.write_log import require

ROOT = Path(__file__).parents[2]
SIGKILL = -9


def child(
    board: Board, name: str, act: str, *tracer: str, die_before: int = 0
) -> subprocess.CompletedProcess[str]:
    given = {"boot": name, "unsettled": True, "die_before": die_before, **board.options}
    command = [sys.executable, "-B", "-m", "tests.crash.boot_child", json.dumps(given), act]
    return subprocess.run(
        [*tracer, *command],
        input="\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )


@dataclass(frozen=True)
class Killed:
    """A device whose agent died in the act, or came to its end."""

    board: Board
    has_promised: bool
    at: str


def fresh(name: str, folder: Path, *, is_in_trial: bool) -> Board:
    folder.mkdir()
    board = BOARDS[name](folder)
    if is_in_trial:
        board.backend().try_once(board.slots[1])
        board.boot(*board.backend().reboot)
    return board


def killed_everywhere(name: str, act: str, folder: Path, *, is_in_trial: bool) -> Iterator[Killed]:
    """Give one device for each moment to die at, and last one whose agent was not killed."""
    for number in count(1):
        board = fresh(name, folder / f"{number}", is_in_trial=is_in_trial)
        ended = child(board, name, act, die_before=number)
        yield Killed(board, act in ended.stdout, f"before call {number}")
        if ended.returncode != SIGKILL:
            assert ended.returncode == 0, ended.stderr
            return


def tool_killed_everywhere(act: str, folder: Path, *, is_in_trial: bool) -> Iterator[Killed]:
    """Give one device for each write of the bootloader's tool that was not made."""
    require("strace")
    calls = ("write", "pwrite64", "fsync", "fdatasync", "rename", "ftruncate")
    board = fresh("uboot", folder / "all", is_in_trial=is_in_trial)
    log = folder / "calls"
    child(board, "uboot", act, "strace", "-f", "-qq", f"--trace={','.join(calls)}", f"-o{log}")
    by_process = Counter(re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE))
    for call in calls:
        most = max((n for (_, each), n in by_process.items() if each == call), default=0)
        for number in range(1, most + 1):
            board = fresh("uboot", folder / f"{call}{number}", is_in_trial=is_in_trial)
            kill = f"--inject={call}:signal=KILL:when={number}"
            ended = child(board, "uboot", act, "strace", "-f", "-qq", f"--trace={call}", kill)
            yield Killed(board, act in ended.stdout, f"{call} {number}")


def check_try(killed: Killed) -> str:
    """A try leads to the new slot, or nowhere else than before, and always back."""
    board, (old, new) = killed.board, killed.board.slots
    booted = board.boot(*board.backend().reboot)
    assert booted == new or not killed.has_promised, killed.at
    assert [board.boot() for _ in range(2)] == [old] * 2, killed.at
    board.backend().try_once(new)
    assert board.boot(*board.backend().reboot) == new, killed.at
    return booted


def check_commit(killed: Killed) -> str:
    """A commit leaves one of the two, and the new one if it was promised."""
    board, (_, new) = killed.board, killed.board.slots
    board.boot()  # a try may be left: it leads to the new slot once
    booted = board.boot()
    assert booted == new or not killed.has_promised, killed.at
    assert board.boot() == booted, killed.at
    board.backend().commit(new)
    assert [board.boot() for _ in range(2)] == [new] * 2, killed.at
    return booted


@pytest.mark.parametrize("name", BACKENDS)
def test_killed_while_asking_for_a_try_the_device_boots_and_comes_back(
    name: str, tmp_path: Path
) -> None:
    new = fresh(name, tmp_path / "first", is_in_trial=False).slots[1]

    ends = [
        check_try(killed)
        for killed in killed_everywhere(name, f"try:{new}", tmp_path, is_in_trial=False)
    ]

    assert ends[-1] == new


@pytest.mark.parametrize("name", BACKENDS)
def test_killed_while_committing_the_device_keeps_one_slot_and_what_was_promised(
    name: str, tmp_path: Path
) -> None:
    old, new = fresh(name, tmp_path / "first", is_in_trial=False).slots

    ends = [
        check_commit(killed)
        for killed in killed_everywhere(name, f"commit:{new}", tmp_path, is_in_trial=True)
    ]

    assert set(ends) == {old, new}
    assert ends[-1] == new


def test_a_tool_killed_in_the_middle_of_a_try_leaves_an_environment_that_boots(
    tmp_path: Path,
) -> None:
    act = f"try:{UBootBoard.slots[1]}"
    ends = [check_try(each) for each in tool_killed_everywhere(act, tmp_path, is_in_trial=False)]
    assert set(ends) == set(UBootBoard.slots)


def test_a_tool_killed_in_the_middle_of_a_commit_leaves_an_environment_that_boots(
    tmp_path: Path,
) -> None:
    act = f"commit:{UBootBoard.slots[1]}"
    ends = [check_commit(each) for each in tool_killed_everywhere(act, tmp_path, is_in_trial=True)]
    assert ends
