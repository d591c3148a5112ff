"""The swupdate installer with Debian's SWUpdate, update files of its format, a CA of the tests."""

import fcntl
from pathlib import Path

import pytest

from firmware_hooks import swupdate
from firmware_hooks.contract import InstallerError, RetryLater
from sync.stages import Reason
from tests.fakes.firmware import BOARDS
from tests.firmware_hooks.slots import FACTORY, booted, image
from tests.firmware_hooks.swupdate_device import (
    BOARD,
    installer,
    make_authority,
    make_device,
    make_update,
    order,
    require_swupdate,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_swupdate()
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_device(tmp_path, BOARD)
    return tmp_path


def restart(home: Path, authority: Path) -> str:
    given = installer(home, authority).awaits_reboot()
    assert given is not None
    return BOARDS[BOARD](home).boot(*given)


def install(home: Path, authority: Path, version: str) -> bytes:
    wanted = order(home, make_update(authority, home, version), version)
    installer(home, authority).stage(wanted)
    installer(home, authority).activate(wanted.digest)
    restart(home, authority)
    installer(home, authority).check_trial(wanted.digest)
    installer(home, authority).commit(wanted.digest)
    return wanted.digest


def test_an_update_is_written_tried_and_committed(home: Path, authority: Path) -> None:
    first = install(home, authority, "1")
    assert installer(home, authority).running() == first
    assert booted(home, BOARD).startswith(image("1"))

    second = install(home, authority, "2")

    assert installer(home, authority).running() == second
    assert [BOARDS[BOARD](home).boot() for _ in range(2)] == ["2"] * 2
    assert booted(home, BOARD).startswith(image("2"))


def test_a_trial_that_nobody_committed_ends_with_the_next_boot(home: Path, authority: Path) -> None:
    old = install(home, authority, "1")
    wanted = order(home, make_update(authority, home, "2"))
    installer(home, authority).stage(wanted)
    installer(home, authority).activate(wanted.digest)
    restart(home, authority)
    BOARDS[BOARD](home).boot()

    with pytest.raises(InstallerError) as refused:
        installer(home, authority).check_trial(wanted.digest)

    assert refused.value.reason == Reason.FELL_BACK
    assert installer(home, authority).roll_back(wanted.digest) == old


def test_progress_is_what_swupdate_says(home: Path, authority: Path) -> None:
    said: list[str] = []
    work = installer(home, authority)
    work.on_progress = said.append

    work.stage(order(home, make_update(authority, home, "2")))

    assert "Installation in progress" in said


def test_an_update_of_another_authority_is_refused_in_swupdates_words(
    home: Path, authority: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = make_authority(tmp_path_factory.mktemp("stranger"))
    wanted = order(home, make_update(stranger, home, "2"))

    with pytest.raises(InstallerError, match="SWUpdate: .*(ignature|verif|invalid)") as refused:
        installer(home, authority).stage(wanted)

    assert refused.value.reason == Reason.INSTALLER_FAILED
    assert (home / "slot_b").read_bytes().startswith(FACTORY)
    assert not installer(home, authority).folder(wanted.digest).exists()


def test_an_update_for_other_hardware_is_refused_in_swupdates_words(
    home: Path, authority: Path
) -> None:
    wanted = order(home, make_update(authority, home, "2"))
    with pytest.raises(InstallerError, match="SWUpdate: "):
        installer(home, authority, hardware="lamp:9.0").stage(wanted)
    assert (home / "slot_b").read_bytes().startswith(FACTORY)


def test_an_update_that_writes_to_the_running_slot_is_found_out(
    home: Path, authority: Path
) -> None:
    install(home, authority, "1")
    wrong = make_update(authority, home, "2", slots=("slot_b", "slot_a"))

    with pytest.raises(InstallerError, match="wrote to slot 3, which runs"):
        installer(home, authority).stage(order(home, wrong))

    assert installer(home, authority).running() is None


def test_a_swupdate_that_an_earlier_agent_left_behind_is_not_joined_by_a_second(
    home: Path, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swupdate, "LOCK_S", 0)
    wanted = order(home, make_update(authority, home, "2"))
    lock = home / "install/lamp/swupdate.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RetryLater, match="still writing"):
            installer(home, authority).stage(wanted)
    assert (home / "slot_b").read_bytes().startswith(FACTORY)

    installer(home, authority).stage(wanted)
    assert (home / "slot_b").read_bytes().startswith(image("2"))


def test_a_swupdate_that_takes_too_long_is_ended(home: Path, authority: Path) -> None:
    wanted = order(home, make_update(authority, home, "2"))
    with pytest.raises(InstallerError, match="not done within") as refused:
        installer(home, authority, install_s=0.001).stage(wanted)
    assert refused.value.reason == Reason.HOOK_TIMED_OUT
    installer(home, authority).stage(wanted)


def test_a_certificate_has_to_be_named(home: Path) -> None:
    with pytest.raises(InstallerError, match="`certificate` is missing"):
        swupdate.SwupdateInstaller(
            "lamp",
            home,
            {"boot": BOARD, "slot_a": "a", "slot_b": "b", **BOARDS[BOARD](home).options},
        )
