import os
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_hooks.boot.chosen import boot_from
from firmware_hooks.boot.contract import BootError
from firmware_hooks.boot.grub import Grub
from firmware_hooks.boot.mounts import mounted
from firmware_hooks.boot.tryboot import Tryboot, rewritten
from firmware_hooks.contract import InstallerError
from firmware_hooks.durable import fsync
from tests.fakes.firmware import AUTOBOOT, CustomBoard, GrubBoard, TrybootBoard, UBootBoard
from tests.fakes.write_log import run


def test_a_backend_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(InstallerError, match="`boot` must be one of custom, grub, tryboot, uboot"):
        boot_from({"boot": "lilo"})
    with pytest.raises(InstallerError, match="`boot` is missing"):
        boot_from({})


# tryboot


def test_autoboot_keeps_all_that_is_not_a_slot() -> None:
    text = "# mine\r\n[all]\r\ntryboot_a_b=1\r\nboot_partition=2\r\n[none]\r\nboot_partition=9\r\n"
    text += "[tryboot]\r\nboot_partition=3"
    assert rewritten(text, "3", "2") == text.replace("=2\r", "=X\r").replace("=3", "=2").replace(
        "=X", "=3"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        AUTOBOOT.replace("tryboot_a_b=1\n", ""),
        AUTOBOOT.replace("boot_partition=3", "boot_partition=2"),
        AUTOBOOT.replace("boot_partition=3", "boot_partition=4"),
        AUTOBOOT.replace("[tryboot]", "[none]"),
    ],
)
def test_an_autoboot_without_two_slots_is_refused_and_stays(text: str, tmp_path: Path) -> None:
    board = TrybootBoard(tmp_path)
    board.autoboot.write_text(text)

    for call in (board.backend().try_once, board.backend().commit):
        with pytest.raises(BootError, match="must have tryboot_a_b=1"):
            call("3")

    assert board.autoboot.read_text() == text


def test_firmware_that_knows_no_tryboot_is_not_asked_for_one(tmp_path: Path) -> None:
    board = TrybootBoard(tmp_path)
    (tmp_path / "proc/device-tree/chosen/bootloader/tryboot").unlink()

    with pytest.raises(BootError, match="rpi-eeprom-update"):
        board.backend().try_once("3")


def test_an_autoboot_longer_than_the_firmware_reads_is_not_written(tmp_path: Path) -> None:
    board = TrybootBoard(tmp_path)
    board.autoboot.write_text(AUTOBOOT + "#" * 500)

    with pytest.raises(BootError, match="the firmware reads 512"):
        board.backend().commit("3")

    assert [path.name for path in tmp_path.glob("autoboot*")] == ["autoboot.txt"]
    assert Tryboot(board.options).primary() == "2"


# U-Boot


def test_a_single_copy_of_the_environment_is_refused(tmp_path: Path) -> None:
    board = UBootBoard(tmp_path)
    config = tmp_path / "fw_env.config"
    config.write_text(f"{board.copies[0]} 0x0 0x4000\n")

    with pytest.raises(BootError, match="must name two copies"):
        board.backend().try_once("B")


def test_a_copy_with_holes_is_refused(tmp_path: Path) -> None:
    board = UBootBoard(tmp_path)
    with board.copies[1].open("r+b") as copy:
        copy.truncate(100)
        copy.truncate(16 * 1024)

    with pytest.raises(BootError, match="has holes"):
        board.backend().commit("B")


def test_a_copy_whose_contents_go_through_a_journal_is_refused(tmp_path: Path) -> None:
    board = UBootBoard(tmp_path)
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    image, point = tmp_path / "image", tmp_path / "point"
    image.write_bytes(bytes(8 * 1024 * 1024))
    point.mkdir()
    run("mkfs.ext4", "-q", image)
    run("mount", "-o", "loop,data=journal", image, point)
    try:
        copy = point / "env2"
        copy.write_bytes(board.copies[1].read_bytes())
        fsync(copy)  # it has no blocks before
        config = tmp_path / "fw_env.config"
        config.write_text(config.read_text().replace(str(board.copies[1]), str(copy)))
        with pytest.raises(BootError, match="mounted with data=journal"):
            board.backend().try_once("B")
    finally:
        run("umount", point)


def test_an_environment_without_the_variables_is_not_guessed_at(tmp_path: Path) -> None:
    board = UBootBoard(tmp_path)
    run("fw_setenv", "-c", tmp_path / "fw_env.config", "boot_slot")

    with pytest.raises(BootError, match="set boot_slot and boot_next to a slot once"):
        board.backend().try_once("B")


def test_a_command_line_without_a_slot_leaves_the_booted_one_unknown(tmp_path: Path) -> None:
    board = UBootBoard(tmp_path)
    (tmp_path / "proc/cmdline").write_text("console=ttyS0 quiet\n")

    with pytest.raises(BootError, match="must pass fieldfare.slot="):
        board.backend().current()


def test_the_command_line_that_rauc_reads_is_understood(tmp_path: Path) -> None:
    board = UBootBoard(tmp_path)
    (tmp_path / "proc/cmdline").write_text("quiet rauc.slot=B\n")
    assert board.backend().current() == "B"


# GRUB


def shortened(block: bytes) -> bytes:
    return block[:-1]


def unset(block: bytes) -> bytes:
    return block.replace(b"boot_next=A\n", b"") + b"#" * 12


def elsewhere(block: bytes) -> bytes:
    return block.replace(b"boot_slot", b"x" * 600 + b"\nboot_slot")[:1024]


@pytest.mark.parametrize("spoil", [shortened, unset, elsewhere])
def test_a_block_that_cannot_be_changed_within_a_sector_is_refused(
    spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    board = GrubBoard(tmp_path)
    block = spoil(board.grubenv.read_bytes())
    board.grubenv.write_bytes(block)

    with pytest.raises(BootError, match=r"grubenv (must begin with|is not an environment block)"):
        board.backend().commit("B")

    assert board.grubenv.read_bytes() == block


def test_grubs_own_tool_reads_what_was_written(tmp_path: Path) -> None:
    board = GrubBoard(tmp_path)
    board.backend().try_once("B")
    listed = run("grub-editenv", board.grubenv, "list").decode().split()
    assert listed == ["boot_slot=A", "boot_next=B", "menu_show_once=0"]


def test_slots_of_grub_have_names_of_one_length() -> None:
    with pytest.raises(BootError, match="names of one length"):
        Grub({"boot_a": "main", "boot_b": "spare"})


def test_where_grub_cannot_be_relied_upon_nothing_is_promised() -> None:
    shared = Path("/dev/shm")  # noqa: S108 - it is asked for because it is in memory
    if mounted(shared).kind != "tmpfs":
        pytest.skip(f"{shared} is no tmpfs here")
    path = shared / f"fieldfare-{id(shared)}"
    try:
        path.write_bytes(b"# GRUB Environment Block\nboot_slot=A\nboot_next=A\n".ljust(1024, b"#"))
        with pytest.raises(BootError, match="lies on tmpfs"):
            Grub({"grubenv": str(path)}).commit("B")
    finally:
        path.unlink()


# custom


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    board = CustomBoard(tmp_path)
    (tmp_path / "bootloader").write_text("#!/bin/sh\necho 'no such chip' >&2\nexit 3\n")

    with pytest.raises(BootError, match="ended with 3: no such chip"):
        board.backend().try_once("B")


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    board = CustomBoard(tmp_path)
    (tmp_path / "bootloader").write_text("#!/bin/sh\nsleep 600\n")
    board.options["boot_program_s"] = 0.2

    with pytest.raises(BootError, match=r"was not done within 0\.2 s"):
        board.backend().primary()


def test_a_program_that_speaks_in_riddles_is_not_believed(tmp_path: Path) -> None:
    board = CustomBoard(tmp_path)
    (tmp_path / "state.A").write_text("fine\n")

    with pytest.raises(BootError, match="says 'fine', not good or bad"):
        board.backend().primary()


def test_a_program_that_is_missing_is_named() -> None:
    boot, _ = boot_from({"boot": "custom", "boot_program": "/nowhere/bootloader"})
    with pytest.raises(BootError, match="/nowhere/bootloader"):
        boot.current()
