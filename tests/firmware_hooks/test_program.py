import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from firmware_hooks.contract import InstallerError, Options, Order, RetryLater, TellsProgress
from firmware_hooks.program import LATER_CODES, Phase, ProgramInstaller
from sync.stages import Reason
from tests.firmware_hooks.releases import order_of, put


class Device:
    """A device whose program does what a table in the test says, and writes down its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "flash"
        self.said: list[str] = []
        self.does()

    def does(self, **phases: str) -> None:
        """Say in shell what the program does in each phase; nothing in the others."""
        cases = "\n".join(f"{phase.replace('_', '-')}) {what} ;;" for phase, what in phases.items())
        self.program.write_text(
            f'#!/bin/sh\necho "$1 $FIELDFARE_VERSION<$FIELDFARE_OTHER_VERSION"'
            f' >>"{self.folder}/calls"\ncase "$1" in\n{cases}\nesac\n'
        )
        self.program.chmod(0o755)

    def installer(self, **options: str | float) -> ProgramInstaller:
        given: Options = {"command": str(self.program), **options}
        made = ProgramInstaller("lamp", self.folder / "install", given)
        made.on_progress = self.said.append
        return made

    def order(self, version: str, **parameters: str | float | bool) -> Order:
        files = {"image": version.encode()}
        return order_of(self.folder, version, files, installer="program", parameters=parameters)

    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        found = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return found


def alive(group: int) -> list[int]:
    """Return who of a process group still runs; who was ended and not yet collected does not."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_program_is_called_once_for_each_phase_with_both_releases(device: Device) -> None:
    put(device.installer(), device.order("1"))
    assert device.calls() == [
        "stage 1.0<",
        "activate 1.0<",
        "check-trial 1.0<",
        "commit 1.0<",
        "clean-up 1.0<",
    ]
    new = device.order("2")
    device.installer().stage(new)
    device.installer().activate(new.digest)
    device.installer().roll_back(new.digest)
    assert device.calls() == ["stage 2.0<", "activate 2.0<1.0", "roll-back 2.0<1.0"]


def test_a_program_finds_the_release_its_parameters_and_its_own_folder_in_its_environment(
    device: Device,
) -> None:
    names = "COMPONENT PHASE VERSION DIGEST PARAMETER_BAUD_RATE PARAMETER_FAST PARAMETER_NOTE"
    device.does(
        activate=f'for n in {names}; do eval "echo $n=\\"\\$FIELDFARE_$n\\""; done;'
        ' cat "$FIELDFARE_ARTIFACTS_DIR/image"; echo; pwd; echo kept >"$FIELDFARE_WORK_DIR/note"'
    )
    parameters: dict[str, str | float | bool] = {
        "baud-rate": 115200,
        "fast": True,
        "note": "a $(b) 'c'",
    }
    order = device.order("1", **parameters)

    put(device.installer(), order)

    assert device.said == [
        "COMPONENT=lamp",
        "PHASE=activate",
        "VERSION=1.0",
        f"DIGEST={order.digest.hex()}",
        "PARAMETER_BAUD_RATE=115200",
        "PARAMETER_FAST=true",
        "PARAMETER_NOTE=a $(b) 'c'",
        "1",
        str(device.installer().folder(order.digest)),
    ]
    put(device.installer(), device.order("2"))
    assert (device.folder / "install/lamp/work/note").read_text() == "kept\n"


def test_the_agent_is_told_how_far_it_is(device: Device) -> None:
    device.does(stage="echo 10 %; printf '20 %%\\r30 %%'")

    device.installer().stage(device.order("1"))

    assert device.said == ["10 %", "20 %", "30 %"]
    assert isinstance(device.installer(), TellsProgress)


@pytest.mark.parametrize("code", LATER_CODES)
@pytest.mark.parametrize("phase", ["stage", "activate"])
def test_a_program_may_ask_to_be_called_later_and_is_then_called_anew(
    phase: str, code: int, device: Device
) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.does(**{phase: f"echo the door is open >&2; exit {code}"})

    with pytest.raises(RetryLater) as later:
        device.installer().stage(new)
        device.installer().activate(new.digest)

    assert later.value.reason == Reason.BUSY
    assert "the door is open" in later.value.detail
    assert later.value.wait_s > 0
    assert device.installer().running() == old
    assert device.installer().roll_back(new.digest) == old

    device.does()
    assert put(device.installer(), new) == device.installer().running()


def test_a_program_that_asks_to_wait_after_it_had_begun_can_still_be_rolled_back(
    device: Device,
) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    device.does(activate="exit 1")
    with pytest.raises(InstallerError):
        device.installer().activate(new.digest)
    device.does(activate="exit 21")
    with pytest.raises(RetryLater):
        device.installer().activate(new.digest)
    assert device.installer().running() is None
    device.calls()

    assert device.installer().roll_back(new.digest) == old

    assert device.calls() == ["roll-back 2.0<1.0"]


@pytest.mark.parametrize("phase", ["check-trial", "roll-back", "clean-up"])
def test_where_there_is_no_later_the_code_for_it_is_a_failure(phase: str, device: Device) -> None:
    put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    device.installer().activate(new.digest)
    device.does(**{phase.replace("-", "_"): "exit 21"})
    acts: dict[str, Callable[[], object]] = {
        "check-trial": lambda: device.installer().check_trial(new.digest),
        "roll-back": lambda: device.installer().roll_back(new.digest),
        "clean-up": device.installer().clean_up,
    }

    with pytest.raises(InstallerError) as failed:
        acts[phase]()

    assert not isinstance(failed.value, RetryLater)


def test_a_program_that_fails_says_why_in_its_last_line_and_the_way_back_is_open(
    device: Device,
) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    device.does(activate="echo trying; echo the flash is worn >&2; exit 1")

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(new.digest)

    assert failed.value.reason == Reason.INSTALLER_FAILED
    assert failed.value.detail == "flash activate ended with 1: the flash is worn"
    assert device.installer().running() is None
    assert device.installer().roll_back(new.digest) == old
    assert device.installer().running() == old


def test_what_a_program_refuses_to_stage_leaves_nothing_behind(device: Device) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.does(stage='touch "$FIELDFARE_RELEASE_DIR/half"; exit 1')

    with pytest.raises(InstallerError):
        device.installer().stage(new)

    releases = device.folder / "install/lamp/releases"
    assert [path.name for path in releases.iterdir()] == [old.hex()]


def test_a_way_back_that_fails_is_told_and_can_be_tried_again(device: Device) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    device.installer().activate(new.digest)
    device.does(roll_back="exit 1")
    with pytest.raises(InstallerError) as failed:
        device.installer().roll_back(new.digest)
    assert failed.value.reason == Reason.ROLLBACK_FAILED
    assert device.installer().running() is None

    device.does()
    assert device.installer().roll_back(new.digest) == old
    assert device.installer().running() == old


def test_a_commit_never_fails_whatever_the_program_says(device: Device) -> None:
    order = device.order("1")
    device.installer().stage(order)
    device.installer().activate(order.digest)
    device.does(commit="echo no >&2; exit 1")

    device.installer().commit(order.digest)

    assert device.installer().running() == order.digest
    assert "no" in device.said[-1]


def test_a_program_that_finds_something_else_running_ends_the_trial(device: Device) -> None:
    order = device.order("1")
    device.installer().stage(order)
    device.installer().activate(order.digest)
    device.does(check_trial="echo it runs 0.9 >&2; exit 1")

    with pytest.raises(InstallerError) as failed:
        device.installer().check_trial(order.digest)

    assert "it runs 0.9" in failed.value.detail


@pytest.mark.parametrize(
    "hangs",
    ["exec sleep 600", "trap '' TERM; while :; do sleep 1; done", "sleep 600 & wait"],
    ids=["sleeps", "ignores SIGTERM", "forks"],
)
def test_a_program_that_hangs_is_ended_with_its_children_and_the_way_back_is_open(
    hangs: str, device: Device
) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    device.does(activate=f'echo $$ >"{device.folder}/pid"; {hangs}')

    with pytest.raises(InstallerError) as failed:
        device.installer(timeout_s=0.5).activate(new.digest)

    assert failed.value.reason == Reason.HOOK_TIMED_OUT
    while alive(int((device.folder / "pid").read_text())):
        time.sleep(0.01)
    assert device.installer().roll_back(new.digest) == old


def test_a_program_that_floods_its_output_ends_all_the_same(device: Device) -> None:
    device.does(activate="head -c 30000000 /dev/zero | tr '\\0' x; echo; echo done >&2; exit 1")
    order = device.order("1")
    device.installer().stage(order)

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(order.digest)

    assert failed.value.detail.endswith("done")
    assert sum(map(len, device.said)) < 10_000


def test_releases_may_ask_for_another_program_of_those_that_the_device_names(
    device: Device,
) -> None:
    other = device.folder / "other"
    other.write_text(f'#!/bin/sh\necho "$@" >>"{device.folder}/others"\n')
    other.chmod(0o755)

    put(
        device.installer(command_radio=f"{other} --port '/dev/tty 1'"),
        device.order("1", program="radio"),
    )

    assert device.calls() == []
    assert (device.folder / "others").read_text().splitlines()[1] == "--port /dev/tty 1 activate"


@pytest.mark.parametrize(
    ("options", "parameters", "reason"),
    [
        ({"command": ""}, {}, Reason.REQUIREMENT_UNMET),
        ({}, {"program": "radio"}, Reason.REQUIREMENT_UNMET),
        ({"command": "/nowhere/flash"}, {}, Reason.REQUIREMENT_UNMET),
        ({"command": "/etc/passwd"}, {}, Reason.REQUIREMENT_UNMET),
    ],
)
def test_a_program_that_the_device_does_not_have_is_said_before_anything_is_touched(
    options: dict[str, str], parameters: dict[str, str], reason: Reason, device: Device
) -> None:
    with pytest.raises(InstallerError) as failed:
        device.installer(**options).stage(device.order("1", **parameters))

    assert failed.value.reason == reason
    assert failed.value.detail
    assert not list((device.folder / "install").rglob("image"))


@pytest.mark.parametrize(
    "options", [{"comand": "x"}, {"timeout_s": 0}, {"timeout_s": "10"}, {"timeout_s": True}]
)
def test_an_option_that_is_wrong_is_said_to_the_owner_of_the_device(
    options: Options, tmp_path: Path
) -> None:
    with pytest.raises(InstallerError) as refused:
        ProgramInstaller("lamp", tmp_path, options)

    assert repr(min(options)) in refused.value.detail


def test_a_program_in_the_middle_of_its_work_when_the_agent_dies_is_called_again(
    device: Device,
) -> None:
    """The agent's death is real; its program lives on, and ends before it is called again."""
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    fifo = device.folder / "go"
    os.mkfifo(fifo)
    device.does(activate=f'echo begun; read line <"{fifo}"; echo "$line" >>"{device.folder}/done"')
    device.calls()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        told = os.fdopen(write_end, "w")
        installer = device.installer()
        installer.on_progress = lambda line: print(line, end="", file=told, flush=True)
        installer.activate(new.digest)
        os._exit(0)
    os.close(write_end)
    assert os.read(read_end, 100) == b"begun"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read_end)
    assert device.installer().running() is None
    fifo.write_text("first\n")
    while not (device.folder / "done").exists():
        time.sleep(0.01)

    device.does()
    device.installer().activate(new.digest)

    assert device.installer().running() == new.digest
    assert device.calls() == ["activate 2.0<1.0", "activate 2.0<1.0"]
    assert device.installer().roll_back(new.digest) == old


def test_the_phases_keep_their_names() -> None:
    assert [phase.value for phase in Phase] == [
        "stage",
        "activate",
        "check-trial",
        "commit",
        "roll-back",
        "clean-up",
    ]
