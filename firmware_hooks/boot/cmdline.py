"""Which slot was booted, as the kernel's command line tells it.

Owns the argument's name. The bootloader has to pass it: it alone knows what it booted.
"""

from pathlib import Path
from typing import Final

from firmware_hooks.boot.contract import BootError, known

ARGUMENTS: Final = ("fieldfare.slot", "rauc.slot")
"""Tried in this order."""


def booted_slot(proc: Path, slots: tuple[str, str]) -> str:
    """Return the slot that the command line below `proc` names.

    Raises:
        BootError: It names none, or one that is not in `slots`.
    """
    path = proc / "cmdline"
    try:
        words = path.read_text(errors="replace").split()
    except OSError as error:
        raise BootError(f"the booted slot is unknown: {path}: {error.strerror}") from None
    given = dict(word.split("=", 1) for word in words if "=" in word)
    for argument in ARGUMENTS:
        if argument in given:
            return known(slots, given[argument])
    raise BootError(
        f"the booted slot is unknown: the bootloader must pass {ARGUMENTS[0]}=<slot> to the kernel"
    )
