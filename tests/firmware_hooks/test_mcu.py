"""A real flasher, flashrom, on the chip that its dummy programmer emulates; and worse flashers."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from firmware_hooks.contract import InstallerError, Options, Order
from firmware_hooks.mcu import TRIES, McuInstaller
from sync.stages import Reason
from tests.firmware_hooks.releases import order_of, put

CHIP_BYTES = 65536


class Board:
    """A chip in a file, and whatever writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chip = folder / "chip"
        self.chip.write_bytes(b"factory\n".ljust(CHIP_BYTES, b"\xff"))
        self.said: list[str] = []
        self.options: dict[str, str | float] = {
            "write": f"dd if={{image}} of={self.chip} conv=notrunc,fsync status=none",
            "verify": f"cmp -n {CHIP_BYTES} {{image}} {self.chip}",
            "read": f"dd if={self.chip} of={{image}} status=none",
        }

    def flasher(self, text: str) -> str:
        """Return a command that runs this shell: $1 is the image, $chip the chip."""
        path = self.folder / "flasher"
        path.write_text(f'#!/bin/sh\nchip="{self.chip}"\n{text}\n')
        path.chmod(0o755)
        return f"{path} {{image}}"

    def installer(self, **options: str | float) -> McuInstaller:
        given: Options = {
            name: value for name, value in {**self.options, **options}.items() if value != ""
        }
        made = McuInstaller("lamp", self.folder / "install", given)
        made.on_progress = self.said.append
        return made

    def order(self, version: str, **parameters: str | bool) -> Order:
        image = f"version {version}\n".encode().ljust(CHIP_BYTES, b"\xff")
        return order_of(
            self.folder, version, {"image": image}, installer="mcu", parameters=parameters
        )

    def shows(self) -> str:
        return self.chip.read_bytes().partition(b"\n")[0].decode(errors="replace")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.skipif(shutil.which("flashrom") is None, reason="needs flashrom")
def test_a_real_flasher_writes_verifies_and_brings_back_what_was_on_the_chip(board: Board) -> None:
    programmer = f"dummy:emulate=VARIABLE_SIZE,size={CHIP_BYTES},image={board.chip}"
    board.options = {
        # It verifies on its own unless told not to (-n); here that is ours to do.
        "write": f"flashrom --programmer {programmer} -n --write {{image}}",
        "verify": f"flashrom --programmer {programmer} --verify {{image}}",
        "read": f"flashrom --programmer {programmer} --read {{image}}",
        "identify": f"head -n 1 {board.chip}",
    }
    first, second = board.order("1", identity="1"), board.order("2", identity="2")
    board.installer().stage(first)
    board.installer().activate(first.digest)
    assert board.shows() == "version 1"
    assert any("Erase/write done" in line for line in board.said)
    assert board.installer().roll_back(first.digest) is None
    assert board.shows() == "factory"

    put(board.installer(), first)
    board.installer().stage(second)
    board.installer().activate(second.digest)
    board.installer().check_trial(second.digest)
    assert board.shows() == "version 2"
    assert board.installer().roll_back(second.digest) == first.digest
    assert board.shows() == "version 1"


@pytest.mark.parametrize("how", ["verify", "read"])
def test_a_flasher_that_claims_to_have_written_is_not_believed(how: str, board: Board) -> None:
    board.options["verify" if how == "read" else "read"] = ""
    board.options["write"] = board.flasher('echo "100 % written"')
    order = board.order("1", without_way_back=True)
    board.installer().stage(order)

    with pytest.raises(InstallerError) as failed:
        board.installer().activate(order.digest)

    assert f"{TRIES} times" in failed.value.detail
    assert len([line for line in board.said if line.startswith("try ")]) == TRIES
    assert board.installer().running() is None
    assert board.shows() == "factory"


def test_a_flasher_that_fails_at_first_is_tried_again(board: Board) -> None:
    flag = board.folder / "failed"
    board.options["write"] = board.flasher(
        f"[ -e {flag} ] || {{ touch {flag}; echo no contact >&2; exit 1; }}\n"
        'dd if="$1" of="$chip" conv=notrunc status=none'
    )

    put(board.installer(), board.order("1"))

    assert board.shows() == "version 1"
    assert board.said == [f"try 1 of {TRIES}: write ended with 1: no contact"]


def test_a_chip_that_holds_the_image_is_not_written_again(board: Board) -> None:
    order = board.order("1")
    board.chip.write_bytes(b"version 1\n".ljust(CHIP_BYTES, b"\xff"))
    board.options["write"] = board.flasher("exit 1")

    put(board.installer(), order)

    assert board.shows() == "version 1"


def test_a_chip_may_be_larger_than_the_image(board: Board) -> None:
    board.options["verify"] = ""
    board.chip.write_bytes(b"\xff" * 2 * CHIP_BYTES)

    put(board.installer(), board.order("1"))

    assert board.shows() == "version 1"
    assert board.chip.stat().st_size == 2 * CHIP_BYTES


@pytest.mark.parametrize("next_call", ["activate", "roll_back"])
def test_an_agent_and_flasher_that_are_killed_halfway_write_again(
    next_call: str, board: Board
) -> None:
    old = put(board.installer(), board.order("1"))
    agent = board.folder / "agent"
    flag = board.folder / "killed"
    board.options["write"] = board.flasher(
        f"if [ ! -e {flag} ]; then touch {flag}\n"
        'dd if="$1" of="$chip" bs=1000 count=20 conv=notrunc status=none\n'
        f'kill -KILL "$(cat {agent})"; kill -KILL $$; fi\n'
        'dd if="$1" of="$chip" conv=notrunc status=none'
    )
    new = board.order("2")
    board.installer().stage(new)
    child = os.fork()
    if child == 0:
        agent.write_text(str(os.getpid()))
        board.installer().activate(new.digest)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert board.installer().running() is None

    if next_call == "activate":
        board.installer().activate(new.digest)
        assert board.installer().running() == new.digest
        assert board.chip.read_bytes() == new.artifacts["image"].read_bytes()
    else:
        assert board.installer().roll_back(new.digest) == old
        assert board.shows() == "version 1"


def test_a_flasher_that_hangs_is_ended_and_the_image_before_is_written(board: Board) -> None:
    old = put(board.installer(), board.order("1"))
    new = board.order("2")
    board.installer().stage(new)
    write = board.options["write"]
    hangs = board.flasher('printf half | dd of="$chip" conv=notrunc status=none; exec sleep 600')

    with pytest.raises(InstallerError) as failed:
        board.installer(write=hangs, timeout_s=0.3).activate(new.digest)

    assert failed.value.reason == Reason.HOOK_TIMED_OUT
    assert board.installer(write=write).roll_back(new.digest) == old
    assert board.shows() == "version 1"


def test_progress_is_told_once_for_each_percentage(board: Board) -> None:
    board.options["write"] = board.flasher(
        "for n in 1.0 1.4 1.9 2.0 50 50 100; do printf 'Writing at 0x0... (%s %%)\\r' $n; done\n"
        'echo; echo done; dd if="$1" of="$chip" conv=notrunc status=none'
    )

    put(board.installer(), board.order("1"))

    numbers = [line.partition("(")[2].partition(" ")[0] for line in board.said[:-1]]
    assert numbers == ["1.0", "2.0", "50", "100"]
    assert board.said[-1] == "done"


def test_the_microcontroller_is_reset_after_it_was_written(board: Board) -> None:
    log = board.folder / "resets"
    board.options["reset"] = f"sh -c 'head -n 1 {board.chip} >>{log}'"
    put(board.installer(), board.order("1"))
    new = board.order("2")
    board.installer().stage(new)
    board.installer().activate(new.digest)
    board.installer().roll_back(new.digest)

    assert log.read_text().splitlines() == ["version 1", "version 2", "version 1"]


def test_a_microcontroller_that_says_it_runs_something_else_ends_the_trial(board: Board) -> None:
    board.options["identify"] = f"cat {board.folder}/says"
    order = board.order("1")
    board.installer().stage(order)
    board.installer().activate(order.digest)
    says = board.folder / "says"

    says.write_text("lamp 1.0 ok\n")
    board.installer().check_trial(order.digest)
    for answer in ("lamp 1.0.1 ok\n", "", "lamp 0.9\n"):
        says.write_text(answer)
        with pytest.raises(InstallerError):
            board.installer().check_trial(order.digest)


def test_without_a_way_to_read_the_chip_the_first_release_has_to_say_so(board: Board) -> None:
    board.options["read"] = ""
    with pytest.raises(InstallerError) as refused:
        board.installer().stage(board.order("1"))
    assert refused.value.reason == Reason.REQUIREMENT_UNMET
    assert "without_way_back" in refused.value.detail

    order = board.order("1", without_way_back=True)
    board.installer().stage(order)
    board.installer().activate(order.digest)
    with pytest.raises(InstallerError) as failed:
        board.installer().roll_back(order.digest)
    assert failed.value.reason == Reason.ROLLBACK_FAILED
    assert board.shows() == "version 1"


def test_what_was_on_the_chip_is_read_anew_when_nothing_of_ours_was_on_it(board: Board) -> None:
    order = board.order("1")
    board.installer().stage(order)
    board.installer().activate(order.digest)
    board.installer().roll_back(order.digest)
    board.chip.write_bytes(b"by hand\n".ljust(CHIP_BYTES, b"\xff"))

    board.installer().activate(order.digest)
    board.installer().roll_back(order.digest)

    assert board.shows() == "by hand"


@pytest.mark.parametrize(
    "options", [{}, {"write": "x"}, {"verify": "x"}, {"write": "x", "verify": "y", "erase": "z"}]
)
def test_options_that_are_wrong_are_said_to_the_owner_of_the_device(
    options: Options, tmp_path: Path
) -> None:
    with pytest.raises(InstallerError) as refused:
        McuInstaller("lamp", tmp_path, options)
    assert "option" in refused.value.detail


@pytest.mark.parametrize("parameters", [{"colour": "red"}, {"without_way_back": "yes"}])
def test_parameters_that_are_wrong_are_refused(parameters: dict[str, str], board: Board) -> None:
    with pytest.raises(InstallerError) as refused:
        board.installer().stage(board.order("1", **parameters))
    assert refused.value.reason == Reason.MANIFEST_INVALID
