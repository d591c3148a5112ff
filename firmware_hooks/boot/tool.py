"""Asking a program of the bootloader something.

Owns what its exit code and its silence mean: nothing is believed but a zero.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from firmware_hooks.boot.contract import BootError
from firmware_hooks.hook import run_hook

_FOLDERS: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def found(name: str, package: str) -> str:
    """Return the path of a program of the system.

    Raises:
        BootError: It is not installed; says in which of Debian's packages it is.
    """
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_FOLDERS}")
    if program is None:
        raise BootError(f"{name} is not installed; on Debian it is in {package}")
    return program


def ask(argv: Sequence[str | Path], timeout_s: float) -> str:
    """Run a program and return what it printed, without the spaces around it.

    Raises:
        BootError: It cannot be started, took too long, or did not end with 0.
    """
    ended = run_hook(argv, folder=Path("/"), environment={}, timeout_s=timeout_s)
    asked = " ".join(map(str, argv))
    if ended.is_late:
        raise BootError(f"{asked} was not done within {timeout_s:g} s")
    if ended.code != 0:
        raise BootError(f"{asked} ended with {ended.code}: {ended.last_line or 'no word'}")
    return ended.stdout.decode(errors="replace").strip()
