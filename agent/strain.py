"""How strained this device is: battery, load and room on the disk.

Owns reading them, from files below a root that a test can make. Decides nothing.
Sources: the kernel's Documentation/ABI/testing/sysfs-class-power, and proc_loadavg(5).
"""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

POWER_SUPPLIES: Final = "sys/class/power_supply"
LOAD: Final = "proc/loadavg"

_FED: Final = frozenset({"Charging", "Full", "Not charging"})
"""States of a battery that is not drawn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strain:
    """What was read. None: the device has no such thing, or does not say."""

    battery_ratio: float | None = None
    """Charge of the emptiest battery that feeds the device, 0 to 1."""
    is_fed: bool = False
    """Whether it is fed from outside now."""
    load_ratio: float | None = None
    """Load average of the last minute for each processor."""
    free_bytes: int | None = None
    """Room for the agent where releases are kept."""


def read_strain(root: Path, disk: Path) -> Strain:
    """Return the strain of the device whose files lie below `root`, and of the disk of `disk`.

    What cannot be read is left out: a sensor that fails must not hold updates back for ever.
    """
    batteries: list[float] = []
    is_fed = False
    with contextlib.suppress(OSError):
        for supply in sorted((root / POWER_SUPPLIES).iterdir()):
            if _word(supply / "scope") == "Device":
                continue  # a mouse's or a headset's
            if _word(supply / "type") != "Battery":
                is_fed = is_fed or _word(supply / "online") == "1"
            elif _word(supply / "present") != "0":
                is_fed = is_fed or _word(supply / "status") in _FED
                with contextlib.suppress(ValueError):
                    batteries.append(min(1.0, max(0.0, float(_word(supply / "capacity")) / 100)))
    return Strain(
        battery_ratio=min(batteries, default=None),
        is_fed=is_fed,
        load_ratio=_load_ratio(root),
        free_bytes=_free_bytes(disk),
    )


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _load_ratio(root: Path) -> float | None:
    try:
        return float(_word(root / LOAD).split()[0]) / (os.cpu_count() or 1)
    except (ValueError, IndexError):
        return None


def _free_bytes(disk: Path) -> int | None:
    for folder in (disk, *disk.parents):  # it may not have been made yet
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None
