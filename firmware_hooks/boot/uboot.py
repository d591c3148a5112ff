"""U-Boot: two variables of its environment, through `fw_printenv` and `fw_setenv`.

Owns `boot_slot` (the primary) and `boot_next` (what boots next). U-Boot's own script boots
`boot_next`; where that differs from `boot_slot` it first sets it back and saves:

    setenv boot_now ${boot_next}
    if test "${boot_next}" != "${boot_slot}"; then setenv boot_next ${boot_slot}; saveenv; fi

The environment must be redundant: two copies, each with a checksum, of which the tool overwrites
the older one. With a single copy a power cut while it is written loses all of it. One variable is
set by each call, because the two tools that bear these names disagree on how several are given to
them; the order is such that whatever prefix of the writes is durable boots a slot that is there.
"""

import os
import stat
from pathlib import Path
from typing import Final

from firmware_hooks.boot.cmdline import booted_slot
from firmware_hooks.boot.contract import BootError, known
from firmware_hooks.boot.mounts import mounted
from firmware_hooks.boot.tool import ask, found
from firmware_hooks.contract import Options
from firmware_hooks.options import text

PRIMARY: Final = "boot_slot"
NEXT: Final = "boot_next"
TOOL_S: Final = 60.0
"""Longest a call of the tool may take; a few hundred milliseconds on NOR flash."""

PACKAGE: Final = "libubootenv-tool"

_COPIES: Final = 2
_FIELDS_MIN: Final = 3


class UBoot:
    """U-Boot with an environment that Linux can write."""

    OPTIONS: Final = frozenset({"fw_env_config", "boot_a", "boot_b", "proc"})

    reboot: tuple[str, ...] = ()

    def __init__(self, options: Options) -> None:
        """Read the settings `fw_env_config`, `boot_a`, `boot_b` and `proc`."""
        self._config = Path(text(options, "fw_env_config", "/etc/fw_env.config"))
        self._proc = Path(text(options, "proc", "/proc"))
        self.slots = (text(options, "boot_a", "A"), text(options, "boot_b", "B"))

    def current(self) -> str:
        """Return the slot that the kernel's command line names."""
        return booted_slot(self._proc, self.slots)

    def primary(self) -> str:
        """Return `boot_slot`."""
        return known(self.slots, self._get(PRIMARY))

    def try_once(self, slot: str) -> None:
        """Set `boot_next`."""
        self.primary()  # without it there would be no way back
        self._set(NEXT, known(self.slots, slot))

    def commit(self, slot: str) -> None:
        """Set `boot_next`, which is a try until `boot_slot` follows."""
        known(self.slots, slot)
        self._set(NEXT, slot)
        self._set(PRIMARY, slot)

    def _copies(self) -> list[Path]:
        try:
            lines = self._config.read_text().splitlines()
        except OSError as error:
            raise BootError(f"{self._config}: {error.strerror}") from None
        fields = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        if len(fields) != _COPIES or any(len(each) < _FIELDS_MIN for each in fields):
            raise BootError(
                f"{self._config} must name two copies of the environment, one a line: a power cut"
                " while the only copy is written would lose it"
            )
        copies = [Path(each[0]) for each in fields]
        for copy in copies:
            _refuse_journal(copy)
        return copies

    def _get(self, name: str) -> str:
        self._copies()
        # The two tools of this name differ in how they end when the variable is missing.
        try:
            value = ask([found("fw_printenv", PACKAGE), "-c", self._config, "-n", name], TOOL_S)
            why = "it is not there"
        except BootError as error:
            value, why = "", error.detail
        if not value:
            raise BootError(f"set {PRIMARY} and {NEXT} to a slot once, with fw_setenv: {why}")
        return value

    def _set(self, name: str, value: str) -> None:
        copies = self._copies()
        if self._get(name) != value:
            ask([found("fw_setenv", PACKAGE), "-c", self._config, name, value], TOOL_S)
            # The tool's exit code says that the write was handed on, not that it can be read.
            if (read := self._get(name)) != value:
                raise BootError(f"fw_setenv set {name} to {read!r} instead of {value!r}")
        for copy in copies:
            _sync(copy)


def _refuse_journal(copy: Path) -> None:
    """Make sure that what is written to a file reaches its place on the disk with its sync.

    What is written into a hole gets a place that stands in the filesystem's journal first, which
    U-Boot does not replay: it would read the copy with zeros there.
    """
    try:
        found = copy.stat()
    except OSError as error:
        raise BootError(f"{copy}: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        return
    if found.st_blocks * 512 < found.st_size:
        raise BootError(f"{copy} has holes: write it anew with all its bytes, cp --sparse=never")
    if "data=journal" in mounted(copy).options:
        raise BootError(
            f"{copy} lies on a filesystem that is mounted with data=journal: what is written there"
            " reaches its place, where U-Boot reads it, seconds later"
        )


def _sync(copy: Path) -> None:
    """Make sure of what the tool may have left to the kernel; raw flash has no such cache."""
    try:
        if stat.S_ISCHR(copy.stat().st_mode):
            return
        descriptor = os.open(copy, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BootError(f"{copy} cannot be synced: {error.strerror}") from None
