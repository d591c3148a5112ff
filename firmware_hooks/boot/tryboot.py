"""Raspberry Pi: `autoboot.txt` names the partitions, `reboot "0 tryboot"` asks for the other one.

Owns `autoboot.txt` of the first FAT partition. Slots are named by the numbers of their boot
partitions, as the firmware does.

    [all]                     [tryboot]
    tryboot_a_b=1             boot_partition=3
    boot_partition=2

The flag of the reboot lives in the firmware and is gone with the next boot, whatever becomes of it,
so nothing is written for a try as long as the file already names the other slot below `[tryboot]`.
Committing swaps the numbers: a new file is written and synced, renamed over the old one, and synced
again, then the folder is. On FAT it is the second sync of the file, not that of the folder, that
makes the renamed entry point to the new content: Linux keeps the position of a file's first cluster
with the file. Measured by recording every write; see docs/explanation/boot.md.
Source of the format: raspberrypi/documentation, `autoboot.txt`.

What the firmware cannot do: it counts no boots. A committed slot that stops booting later is not
left. The flag does not survive the power being cut before the boot, on some models.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from firmware_hooks.boot.contract import BootError, known, other
from firmware_hooks.contract import Options
from firmware_hooks.options import text

FILE_BYTES_MAX: Final = 512
"""The firmware reads no more, and one sector holds it."""

NEW: Final = "autoboot.new"
"""Name of the file that is written beside; short, so that on FAT it takes one directory entry."""


class Tryboot:
    """The firmware of a Raspberry Pi with `tryboot_a_b`."""

    OPTIONS: Final = frozenset({"autoboot", "boot_a", "boot_b", "proc"})

    reboot: tuple[str, ...] = ("0 tryboot",)

    def __init__(self, options: Options) -> None:
        """Read the settings `autoboot`, `boot_a` and `boot_b` (numbers of partitions), `proc`."""
        self._path = Path(text(options, "autoboot", "/boot/firmware/autoboot.txt"))
        self._tree = Path(text(options, "proc", "/proc")) / "device-tree/chosen/bootloader"
        self.slots = (text(options, "boot_a", "2"), text(options, "boot_b", "3"))

    def current(self) -> str:
        """Return the partition that the firmware says it booted."""
        return known(self.slots, str(self._told("partition")))

    def primary(self) -> str:
        """Return the partition below `[all]`."""
        primary, _ = self._partitions(self._read())
        return primary

    def try_once(self, slot: str) -> None:
        """Name `slot` below `[tryboot]`; the reboot itself carries the wish."""
        known(self.slots, slot)
        text_now = self._read()
        primary, tried = self._partitions(text_now)
        if slot == primary:
            return
        # Firmware that knows no tryboot does not have the property and ignores the flag.
        self._told("tryboot")
        if tried != slot:
            self._write(rewritten(text_now, primary, slot))

    def commit(self, slot: str) -> None:
        """Name `slot` below `[all]` and the other one below `[tryboot]`."""
        known(self.slots, slot)
        text_now = self._read()
        wanted = (slot, other(self.slots, slot))
        if self._partitions(text_now) != wanted:
            self._write(rewritten(text_now, *wanted))
        else:
            # A crash may have come between the rename and the moment it was durable.
            self._sync(self._path)
            self._sync(self._path.parent)

    def _told(self, name: str) -> int:
        path = self._tree / name
        try:
            told = path.read_bytes()
        except OSError as error:
            raise BootError(
                f"{error.strerror}: {path}; no Raspberry Pi, or rpi-eeprom-update has to bring"
                " a current bootloader"
            ) from None
        return int.from_bytes(told, "big")

    def _read(self) -> str:
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise BootError(f"{self._path}: {error.strerror}") from None
        return content.decode("latin-1")

    def _partitions(self, content: str) -> tuple[str, str]:
        """Return the slots below `[all]` and `[tryboot]`."""
        settings = sections(content)
        try:
            found = (settings["all"]["boot_partition"], settings["tryboot"]["boot_partition"])
        except KeyError:
            found = ("", "")
        if settings.get("all", {}).get("tryboot_a_b") != "1" or set(found) != set(self.slots):
            a, b = self.slots
            raise BootError(
                f"{self._path} must have tryboot_a_b=1 and boot_partition={a} below [all],"
                f" and boot_partition={b} below [tryboot], or the two numbers the other way round"
            )
        return found

    def _write(self, content: str) -> None:
        encoded = content.encode("latin-1")
        if len(encoded) > FILE_BYTES_MAX:
            raise BootError(
                f"{self._path} would have {len(encoded)} bytes, the firmware reads"
                f" {FILE_BYTES_MAX}: shorten its comments"
            )
        new = self._path.with_name(NEW)
        try:
            # The old file stays open until the new one is durable: only then does Linux free its
            # clusters, which would otherwise be free on disk while the entry still points to them.
            with self._path.open("rb"), new.open("wb") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
                new.replace(self._path)
                os.fsync(file.fileno())
                self._sync(self._path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise BootError(f"{self._path} cannot be replaced: {error.strerror}") from None

    def _sync(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BootError(f"{path} cannot be synced: {error.strerror}") from None


def sections(content: str) -> dict[str, dict[str, str]]:
    """Return the settings of an `autoboot.txt` by filter; what comes before any is for `all`."""
    found: dict[str, dict[str, str]] = {}
    section = "all"
    for line in content.splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped[1:-1].lower()
        elif "=" in stripped and not stripped.startswith("#"):
            name, value = stripped.split("=", 1)
            found.setdefault(section, {})[name.strip()] = value.strip()
    return found


def rewritten(content: str, primary: str, tried: str) -> str:
    """Return `content` with other partitions below `[all]` and `[tryboot]`, all else as it was."""
    wanted = {"all": primary, "tryboot": tried}
    section = "all"
    lines = []
    for line in content.splitlines(keepends=True):
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped[1:-1].lower()
        name, is_setting, _ = stripped.partition("=")
        if is_setting and name.strip() == "boot_partition" and section in wanted:
            lines.append(f"boot_partition={wanted[section]}{line[len(line.rstrip()) :]}")
        else:
            lines.append(line)
    return "".join(lines)
