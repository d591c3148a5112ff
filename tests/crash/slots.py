"""An installer with two slots and a one-shot flag, and the firmware that reads the flag: on files.

Stands for what `ab-slots` does over a boot backend, as small as it can be, so that the engine's way
through reboots can be walked step by step.
"""

import json
import os
from pathlib import Path

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.directory import DirectoryInstaller
from sync.stages import Reason

FLAGS = "boot.json"
READ_ONLY = "read-only"
"""While there is a file of this name nothing is kept for later starts."""

COMING_UP = "coming-up"
"""In the file of this name stands how often the release is still to be said to be coming up."""

STARTS_LEFT = "starts-left"
"""In the file of this name stands how many starts it takes to go back, if that is more than one."""


def read(home: Path) -> dict[str, str]:
    """Return `kept`, `try` and `booted`: digests in hexadecimal."""
    try:
        found: dict[str, str] = json.loads((home / FLAGS).read_text())
    except FileNotFoundError:
        return {"kept": "", "try": "", "booted": ""}
    return found


def write(home: Path, **changed: str) -> None:
    """Change flags at once and durably."""
    home.mkdir(parents=True, exist_ok=True)
    part = home / f"{FLAGS}.part"
    with part.open("w") as file:
        json.dump({**read(home), **changed}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(home / FLAGS)


def start(home: Path, *, comes_up: bool) -> None:
    """Do what firmware does: try once what is to be tried, else boot what is kept."""
    flags = read(home)
    left = _starts_left(home)
    if left and not flags["try"]:
        (home / STARTS_LEFT).write_text(str(left - 1))
    tried = flags["try"] if comes_up else ""
    write(home, booted=tried or flags["kept"], **{"try": ""})


def _starts_left(home: Path) -> int:
    try:
        return int((home / STARTS_LEFT).read_text())
    except FileNotFoundError:
        return 0


class TwoSlots:
    """Trees of which the one counts that was booted."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        self._home = install_dir / component
        self._trees = DirectoryInstaller(component, install_dir, options)

    def stage(self, order: Order) -> None:
        self._trees.stage(order)

    def activate(self, digest: bytes) -> None:
        if not self.folder(digest).is_dir():
            raise InstallerError(Reason.INSTALLER_FAILED, "the release is not staged")
        if self.running() != digest:
            write(self._home, **{"try": digest.hex()})

    def awaits_reboot(self) -> tuple[str, ...] | None:
        flags = read(self._home)
        if _starts_left(self._home) and not flags["try"]:
            return ()
        return None if (flags["try"] or flags["kept"]) == flags["booted"] else ("0 tryboot",)

    def check_trial(self, digest: bytes) -> None:
        if self.running() != digest:
            raise InstallerError(Reason.FELL_BACK, "another slot was booted")
        coming_up = self._home / COMING_UP
        if coming_up.exists() and (left := int(coming_up.read_text())):
            coming_up.write_text(str(left - 1))
            raise InstallerError(Reason.INSTALLER_FAILED, "the service does not answer yet")

    def commit(self, digest: bytes) -> None:
        if (self._home / READ_ONLY).exists():
            raise InstallerError(Reason.INSTALLER_FAILED, "boot.json: Read-only file system")
        write(self._home, kept=digest.hex())

    def roll_back(self, digest: bytes) -> bytes | None:
        flags = read(self._home)
        if flags["kept"] != digest.hex():
            write(self._home, **{"try": ""})
        return bytes.fromhex(read(self._home)["kept"]) or None

    def running(self) -> bytes | None:
        if _starts_left(self._home) and not read(self._home)["try"]:
            return None  # it is not said yet what the device has gone back to
        return bytes.fromhex(read(self._home)["booted"]) or None

    def folder(self, digest: bytes) -> Path:
        return self._trees.folder(digest)

    def clean_up(self) -> None:
        """Nothing: both slots stay."""
