"""What every boot backend keeps, whatever the bootloader: one try, a commit that stays."""

from pathlib import Path

import pytest

from firmware_hooks.boot.chosen import BACKENDS, boot_from
from firmware_hooks.boot.contract import BootError
from tests.fakes.firmware import ALSO, BOARDS, Board


@pytest.fixture(params=[*BACKENDS, *ALSO])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Board:
    return {**BOARDS, **ALSO}[request.param](tmp_path)


def test_every_backend_is_found_by_its_name_and_reads_only_settings_it_names(
    tmp_path: Path,
) -> None:
    for name in BACKENDS:
        folder = tmp_path / name
        folder.mkdir()
        board = BOARDS[name](folder)
        backend, names = boot_from({"boot": name, **board.options})
        assert type(backend) is type(board.backend())
        assert set(board.options) <= names
        assert backend.slots == board.slots


def test_on_a_fresh_device_the_first_slot_is_booted_and_primary(board: Board) -> None:
    assert board.backend().current() == board.backend().primary() == board.slots[0]


def test_a_try_boots_the_other_slot_once_and_then_the_primary_for_good(board: Board) -> None:
    old, new = board.slots

    board.backend().try_once(new)

    assert board.backend().primary() == old
    assert board.backend().current() == old
    assert board.boot(*board.backend().reboot) == new
    assert board.backend().current() == new
    assert board.backend().primary() == old
    assert [board.boot() for _ in range(3)] == [old] * 3
    assert board.backend().current() == old


def test_what_is_committed_in_its_trial_stays(board: Board) -> None:
    _, new = board.slots
    board.backend().try_once(new)
    board.boot(*board.backend().reboot)

    board.backend().commit(new)

    assert board.backend().primary() == new
    assert [board.boot() for _ in range(3)] == [new] * 3


def test_slots_take_turns(board: Board) -> None:
    for old, new in [board.slots, board.slots[::-1]] * 2:
        board.backend().try_once(new)
        assert board.boot(*board.backend().reboot) == new
        assert board.boot() == old
        board.backend().try_once(new)
        assert board.boot(*board.backend().reboot) == new
        board.backend().commit(new)
        assert board.boot() == new


def test_asking_for_the_primary_takes_a_wish_back(board: Board) -> None:
    old, new = board.slots
    board.backend().try_once(new)

    for _ in range(2):
        board.backend().try_once(old)

    assert board.backend().primary() == old
    assert [board.boot() for _ in range(2)] == [old] * 2


def test_calls_may_be_repeated(board: Board) -> None:
    old, new = board.slots
    for _ in range(3):
        board.backend().try_once(new)
    assert board.boot(*board.backend().reboot) == new
    assert board.boot() == old

    for _ in range(3):
        board.backend().commit(new)
    assert [board.boot() for _ in range(2)] == [new] * 2
    for _ in range(3):
        board.backend().commit(new)
    assert [board.boot() for _ in range(2)] == [new] * 2


def test_what_was_proven_can_be_committed_while_the_other_slot_runs(board: Board) -> None:
    _, new = board.slots

    board.backend().commit(new)

    assert board.backend().current() == board.slots[0]
    assert [board.boot() for _ in range(2)] == [new] * 2


def test_committing_the_primary_takes_back_what_was_asked_for(board: Board) -> None:
    old, new = board.slots
    board.backend().try_once(new)

    board.backend().commit(old)

    assert [board.boot() for _ in range(2)] == [old] * 2


def test_a_slot_that_is_none_is_refused_and_nothing_changes(board: Board) -> None:
    for call in (board.backend().try_once, board.backend().commit):
        with pytest.raises(BootError, match="there is no slot '9'"):
            call("9")

    assert board.backend().primary() == board.slots[0]
    assert [board.boot() for _ in range(2)] == [board.slots[0]] * 2
