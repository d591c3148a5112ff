"""On which filesystem a file lies, and how that is mounted.

Owns reading `/proc/self/mountinfo`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from firmware_hooks.boot.contract import BootError


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mounted filesystem."""

    kind: str
    """As the kernel calls it: `ext4`, `vfat`."""
    options: frozenset[str]
    """Of the filesystem, not of the place where it is mounted."""


def mounted(path: Path) -> Mounted:
    """Return the filesystem that holds `path`.

    Raises:
        BootError: It is not there, or no mounted filesystem has its device.
    """
    try:
        device = path.stat().st_dev
    except OSError as error:
        raise BootError(f"{path}: {error.strerror}") from None
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, filesystem = line.partition(" - ")
        if place.split()[2] == number:
            kind, _, options = filesystem.split(" ", 2)
            return Mounted(kind, frozenset(options.split(",")))
    raise BootError(f"{path} lies on a filesystem that /proc/self/mountinfo does not list")
