"""Tells a bootloader what to boot, and says when that is promised. Killed by the tests."""

import json
import os
import signal
import sys
from types import FrameType

from firmware_hooks.boot.chosen import boot_from
from firmware_hooks.boot.contract import Boot
from firmware_hooks.boot.grub import Grub

CHANGING = {"fork_exec", "fsync", "pwrite", "rename", "replace", "unlink", "write"}
"""Functions of C that change what others see: each is a moment to die before."""


def die_before(number: int) -> None:
    """Let this process end, by SIGKILL, before it makes such a call for the `number`th time."""
    left = number

    def look(frame: FrameType, event: str, called: object) -> None:
        nonlocal left
        if event == "c_call" and getattr(called, "__name__", "") in CHANGING:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if number:
        sys.setprofile(look)


def main(options: str, *acts: str) -> None:
    """Do each act, such as `commit:B`, and print it when it is done."""
    given = json.loads(options)
    die_before(given.pop("die_before", 0))
    backend: Boot
    if given["boot"] == "grub" and given.pop("unsettled", False):
        backend = Grub(given, settle=lambda path: None)
    else:
        backend, _ = boot_from(given)
    for act in acts:
        name, _, slot = act.partition(":")
        if name == "commit":
            backend.commit(slot)
        else:
            backend.try_once(slot)
        sys.stdout.write(f"{act}\n")
        sys.stdout.flush()
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
