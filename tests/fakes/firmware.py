"""Firmware that chooses a slot at each boot, from the files that it would have on the device.

Each board reads its bootloader's state in its own way, never through the backend, and behaves as
the real one: what is asked for once is taken back before the slot starts, so whatever the slot does
the boot after it leads back. `boot` also writes what the kernel then tells below `/proc`.
"""

import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from firmware_hooks.boot.contract import Boot
from firmware_hooks.boot.custom import Custom
from firmware_hooks.boot.grub import Grub
from firmware_hooks.boot.tryboot import Tryboot
from firmware_hooks.boot.uboot import UBoot
from tests.fakes.write_log import require, run

Options = dict[str, str | int | float | bool]


class Board(Protocol):
    """A device with two slots, a bootloader and a power switch."""

    slots: tuple[str, str]
    options: Options

    def __init__(self, folder: Path) -> None:
        """Stand before the board in `folder`.

        If there is none, it is set up with the first slot as the primary, and booted.
        """
        ...

    def backend(self) -> Boot:
        """Return the backend as a new start of the agent makes it."""
        ...

    def boot(self, *arguments: str) -> str:
        """Restart, with the reboot's arguments if it was an orderly one; return what is booted."""
        ...


def _tell(proc: Path, slot: str, *, by_cmdline: bool = True) -> None:
    boot_id = proc / "sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True, exist_ok=True)
    boot_id.write_text(f"{uuid4()}\n")
    if by_cmdline:
        (proc / "cmdline").write_text(f"console=ttyS0 root=/dev/x fieldfare.slot={slot} quiet\n")


AUTOBOOT = "# which slot\n[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"


class TrybootBoard:
    """A Raspberry Pi."""

    slots = ("2", "3")

    def __init__(self, folder: Path) -> None:
        self.autoboot, self._proc = folder / "autoboot.txt", folder / "proc"
        self.options: Options = {"autoboot": str(self.autoboot), "proc": str(self._proc)}
        if not self._proc.exists():
            self.autoboot.write_text(AUTOBOOT)
            self.boot()

    def backend(self) -> Boot:
        return Tryboot(self.options)

    def boot(self, *arguments: str) -> str:
        is_try = arguments == ("0 tryboot",)
        slot = chosen_by_autoboot(self.autoboot.read_bytes(), is_try=is_try)
        _tell(self._proc, slot, by_cmdline=False)
        tree = self._proc / "device-tree/chosen/bootloader"
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "partition").write_bytes(struct.pack(">I", int(slot)))
        (tree / "tryboot").write_bytes(struct.pack(">I", is_try))
        return slot


def chosen_by_autoboot(content: bytes, *, is_try: bool) -> str:
    """Read `autoboot.txt` as the firmware does: the last setting counts whose filter applies."""
    assert len(content) <= 512
    applies, chosen, has_slots = True, "", False
    for line in content.decode("ascii").split("\n"):
        match line.strip():
            case "[all]":
                applies = True
            case "[none]":
                applies = False
            case "[tryboot]":
                applies = is_try
            case "tryboot_a_b=1":
                has_slots = has_slots or applies
            case text if text.startswith("boot_partition=") and applies:
                chosen = text.removeprefix("boot_partition=")
    assert has_slots, "the firmware would not look for slots"
    assert chosen in TrybootBoard.slots, f"nothing boots: {content!r}"
    return chosen


ENVIRONMENT_BYTES = 16 * 1024


class UBootBoard:
    """A board with a redundant environment in two files."""

    slots = ("A", "B")

    def __init__(self, folder: Path) -> None:
        require("fw_setenv")
        self.copies = (folder / "env1", folder / "env2")
        self._proc = folder / "proc"
        config = folder / "fw_env.config"
        self.options: Options = {"fw_env_config": str(config), "proc": str(self._proc)}
        if not self._proc.exists():
            fresh = {"boot_slot": "A", "boot_next": "A", "baud": "115200"}
            for copy in self.copies:
                copy.write_bytes(environment(fresh, 1))
            lines = (f"{copy} 0x0 {ENVIRONMENT_BYTES:#x}\n" for copy in self.copies)
            config.write_text("".join(lines))
            self.boot()

    def backend(self) -> Boot:
        return UBoot(self.options)

    def boot(self, *arguments: str) -> str:
        images = [copy.read_bytes() for copy in self.copies]
        slot, number, image = chosen_by_environment(images)
        if image is not None:
            self.copies[number].write_bytes(image)
        _tell(self._proc, slot)
        return slot


def environment(variables: dict[str, str], flag: int) -> bytes:
    """Return a copy of the environment as U-Boot stores it (CRC-32, flag, zero-ended texts)."""
    text = b"".join(f"{name}={value}\0".encode() for name, value in variables.items()) + b"\0"
    # What follows is anything; not zeros, which a tool that makes a filesystem would leave out.
    content = text.ljust(ENVIRONMENT_BYTES - 5, b"\xff")
    return struct.pack("<IB", zlib.crc32(content), flag) + content


def chosen_by_environment(copies: list[bytes]) -> tuple[str, int, bytes | None]:
    """Do what U-Boot and its script do: return the slot, and which copy it writes, with what."""
    valid = [
        number
        for number, copy in enumerate(copies)
        if zlib.crc32(copy[5:]) == struct.unpack_from("<I", copy)[0]
    ]
    assert valid, "U-Boot would fall back to its compiled environment"
    newest = valid[0]
    if len(valid) == 2:
        first, second = copies[0][4], copies[1][4]
        is_second_newer = (second - first) % 256 == 1 or (second > first and first != 0)
        newest = 1 if is_second_newer else 0
    text = copies[newest][5:].split(b"\0\0")[0].decode()
    variables = dict(line.split("=", 1) for line in text.split("\0"))
    assert variables["baud"] == "115200", "a variable of somebody else was lost"
    primary, coming = variables["boot_slot"], variables["boot_next"]
    assert {primary, coming} <= set(UBootBoard.slots), f"nothing boots: {variables}"
    if coming == primary:
        return coming, newest, None
    flag = (copies[newest][4] + 1) % 256
    return coming, 1 - newest, environment({**variables, "boot_next": primary}, flag)


class GrubBoard:
    """A PC whose environment block was made by GRUB's own tool."""

    slots = ("A", "B")

    def __init__(self, folder: Path) -> None:
        self.grubenv, self._proc = folder / "grubenv", folder / "proc"
        self.options: Options = {"grubenv": str(self.grubenv), "proc": str(self._proc)}
        if not self._proc.exists():
            make_grubenv(self.grubenv)
            self.boot()

    def backend(self) -> Boot:
        # The disk of whoever runs the tests is not frozen; tests/crash/test_boot_power.py does it
        # on one of its own.
        return Grub(self.options, settle=lambda path: None)

    def boot(self, *arguments: str) -> str:
        slot, block = chosen_by_grubenv(self.grubenv.read_bytes())
        self.grubenv.write_bytes(block)
        _tell(self._proc, slot)
        return slot


class RealGrubBoard(GrubBoard):
    """The same, booted by GRUB itself, by the configuration that the documentation shows.

    `grub-emu` is GRUB built as a program. Its disk is an image with the block on ext4.
    """

    def boot(self, *arguments: str) -> str:
        require("grub-emu", "mkfs.ext4", "script", "grub-fstest")
        folder = self.grubenv.parent / "grub"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tree").mkdir(parents=True)
        shutil.copy(self.grubenv, folder / "tree")
        image, devices = folder / "image", folder / "device.map"
        image.write_bytes(bytes(8 * 1024 * 1024))
        run("mkfs.ext4", "-q", "-d", folder / "tree", image)
        devices.write_text(f"(hd0) {image}\n")
        lines = ["set prefix=(hd0)", *documented("GRUB"), 'echo "<$boot_now>"', "exit"]
        (folder / "grub.cfg").write_text("\n".join(lines) + "\n")
        command = f"grub-emu -m {devices} -d {folder} -r host"
        said = run("timeout", "60", "script", "-qec", command, "/dev/null").decode(errors="replace")
        slot: str
        (slot,) = re.findall("<([^>]+)>", said)
        self.grubenv.write_bytes(run("grub-fstest", image, "cat", "(loop0)/grubenv"))
        _tell(self._proc, slot)
        return slot


def documented(bootloader: str) -> list[str]:
    """Return what docs/explanation/boot.md tells a bootloader to do, but for starting a kernel."""
    page = (Path(__file__).parents[2] / "docs/explanation/boot.md").read_text()
    block = page.split(f"\n{bootloader}:\n\n```\n")[1].split("\n```")[0]
    return [line for line in block.splitlines() if not line.startswith("linux ")]


def make_grubenv(path: Path) -> None:
    require("grub-editenv")
    run("grub-editenv", path, "create")
    run("grub-editenv", path, "set", "boot_slot=A", "boot_next=A", "menu_show_once=0")


def chosen_by_grubenv(block: bytes) -> tuple[str, bytes]:
    """Do what GRUB's `load_env` and `save_env` do; return slot and block."""
    assert len(block) == 1024
    assert block.startswith(b"# GRUB Environment Block\n")
    variables = dict(
        line.split("=", 1) for line in block.decode().split("\n") if "=" in line and line[0] != "#"
    )
    assert variables["menu_show_once"] == "0", "a variable of somebody else was lost"
    primary, coming = variables["boot_slot"], variables["boot_next"]
    assert {primary, coming} <= set(GrubBoard.slots), f"nothing boots: {variables}"
    changed = block.replace(f"boot_next={coming}\n".encode(), f"boot_next={primary}\n".encode())
    return coming, changed


PROGRAM = """#!/bin/sh
# A bootloader behind RAUC's five calls, its state in files.
set -eu
cd "$(dirname "$0")"
keep() { printf '%s\\n' "$2" > "$1.new"; sync "$1.new"; mv "$1.new" "$1"; sync .; }
case "$1" in
    get-primary) cat primary ;;
    set-primary) keep primary "$2" ;;
    get-state) cat "state.$2" ;;
    set-state) keep "state.$2" "$3" ;;
    get-current) cat current ;;
    *) echo "unknown call $1" >&2; exit 1 ;;
esac
"""


class CustomBoard:
    """A bootloader that tries a bad primary once."""

    slots = ("A", "B")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._proc = folder / "proc"
        program = folder / "bootloader"
        self.options: Options = {"boot_program": str(program), "proc": str(self._proc)}
        if not self._proc.exists():
            program.write_text(PROGRAM)
            program.chmod(0o755)
            for name, content in (("primary", "A"), ("state.A", "good"), ("state.B", "bad")):
                (folder / name).write_text(f"{content}\n")
            self.boot()

    def backend(self) -> Boot:
        return Custom(self.options)

    def boot(self, *arguments: str) -> str:
        slot = self._read("primary")
        assert slot in self.slots, f"nothing boots: {slot!r}"
        if self._read(f"state.{slot}") == "bad":
            back = self.slots[1] if slot == self.slots[0] else self.slots[0]
            assert self._read(f"state.{back}") == "good", "there is no way back"
            (self._folder / "primary").write_text(f"{back}\n")
        (self._folder / "current").write_text(f"{slot}\n")
        _tell(self._proc, slot)
        return slot

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text().strip()


ALSO: dict[str, Callable[[Path], Board]] = {"grub by itself": RealGrubBoard}
"""More boards for backends that have one already."""

BOARDS: dict[str, Callable[[Path], Board]] = {
    "custom": CustomBoard,
    "grub": GrubBoard,
    "tryboot": TrybootBoard,
    "uboot": UBootBoard,
}
"""One for each name that the setting `boot` may have."""
