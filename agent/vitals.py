"""What a device measures of itself: processor, memory, disk, wear, heat, services and databases.

Owns reading the kernel's files, below a root that tests can name, and what they mean.
Never keeps a measurement: `sample` tells `agent.measures`. Sources: proc(5), the kernel's
Documentation/admin-guide/{cgroup-v2,iostats}, and Raspberry Pi's `vcgencmd get_throttled`.
What a device does not have is not measured; nothing here raises for it.
"""

import os
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.measures import Measures
from sync.series import Series

SECTOR_BYTES: Final = 512
"""Of /sys/block/*/stat, whatever the disk has."""

LOCK_WAIT_S: Final = 1.0
"""Longest wait for the lock of a database; longer ones are counted apart."""

CARDRESET: Final = 0x20
"""WDIOF_CARDRESET of watchdog(4): the watchdog caused the last start."""

_THROTTLED_NOW: Final = 0b1111
"""get_throttled: too little voltage, frequency capped, throttled, soft limit of temperature."""

_IDLE: Final = 3
_IOWAIT: Final = 4
_WRITTEN: Final = 6
"""Columns of /proc/stat after its name, and of /sys/block/*/stat: sectors written."""

_DISKS: Final = ("mmcblk", "sd", "nvme", "vd", "xvd")


@dataclass(slots=True)
class Service:
    """What was last seen of a unit."""

    cpu_us: int
    began: int
    """Start of its oldest process, in ticks since the boot: another one is another run."""


@dataclass(slots=True)
class Vitals:
    """Readings of one device. Rates need two samples, so the first one gives none."""

    root: Path = Path("/")
    disk: Path = Path("/")
    """A file on the file system whose room is measured."""
    services: tuple[str, ...] = ()
    _busy: tuple[int, int] | None = None
    _written: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, Service] = field(default_factory=dict)
    _sampled_mono: float | None = None

    def sample(self, measures: Measures, now_mono: float) -> int:
        """Measure everything once; return how many services have started anew since the last time.

        Args:
            measures: Told of everything.
            now_mono: Monotonic seconds.
        """
        elapsed_s = None if self._sampled_mono is None else now_mono - self._sampled_mono
        self._sampled_mono = now_mono
        self._processor(measures)
        self._memory(measures)
        self._room(measures)
        self._wear(measures)
        self._heat(measures, elapsed_s)
        return sum(self._service(measures, unit, elapsed_s) for unit in self.services)

    # One reading each.

    def _processor(self, measures: Measures) -> None:
        first, _, _ = self._text("proc/stat").partition("\n")
        ticks = _numbers(first.split()[1:9])
        if len(ticks) <= _IOWAIT:
            return
        total, idle = sum(ticks), ticks[_IDLE] + ticks[_IOWAIT]
        if self._busy is not None and total > self._busy[1]:
            busy = 1.0 - (idle - self._busy[0]) / (total - self._busy[1])
            measures.observe(Series("device.cpu_ratio"), min(1.0, max(0.0, busy)))
        self._busy = (idle, total)

    def _memory(self, measures: Measures) -> None:
        kib = {
            name: _numbers(rest.split()[:1])
            for name, _, rest in (
                line.partition(":") for line in self._text("proc/meminfo").splitlines()
            )
        }
        total, available = kib.get("MemTotal"), kib.get("MemAvailable")
        if total and available and total[0]:
            measures.observe(Series("device.memory_used_ratio"), 1.0 - available[0] / total[0])

    def _room(self, measures: Measures) -> None:
        try:
            found = os.statvfs(self.disk)
        except OSError:
            return
        if found.f_blocks:
            used = 1.0 - found.f_bavail / found.f_blocks
            measures.gauge(Series("device.disk_used_ratio"), max(0.0, used))

    def _wear(self, measures: Measures) -> None:
        for block in self._entries("sys/block"):
            if not block.name.startswith(_DISKS):
                continue
            columns = _numbers(self._text(f"sys/block/{block.name}/stat").split())
            if len(columns) <= _WRITTEN:
                continue
            sectors, before = columns[_WRITTEN], self._written.get(block.name)
            if before is not None and sectors >= before:
                written = (sectors - before) * SECTOR_BYTES
                measures.count(Series("device.disk_written_bytes"), written)
            self._written[block.name] = sectors

    def _heat(self, measures: Measures, elapsed_s: float | None) -> None:
        milli_c = [
            found[0]
            for zone in self._entries("sys/class/thermal")
            if zone.name.startswith("thermal_zone")
            and (found := _numbers([self._text(f"sys/class/thermal/{zone.name}/temp").strip()]))
        ]
        if milli_c:
            measures.observe(Series("device.temperature_c"), max(milli_c) / 1000)
        throttled = self._text("sys/devices/platform/soc/soc:firmware/get_throttled").strip()
        if throttled and elapsed_s is not None:
            try:
                is_throttled = int(throttled, 16) & _THROTTLED_NOW
            except ValueError:
                return
            measures.count(Series("device.throttled_s"), elapsed_s if is_throttled else 0.0)

    def _service(self, measures: Measures, unit: str, elapsed_s: float | None) -> int:
        folder = f"sys/fs/cgroup/system.slice/{unit if '.' in unit else unit + '.service'}"
        name = metric_of(unit)
        usage = [
            line.split()[1]
            for line in self._text(f"{folder}/cpu.stat").splitlines()
            if line.startswith("usage_usec ")
        ]
        memory = _numbers([self._text(f"{folder}/memory.current").strip()])
        if memory:
            measures.observe(Series(f"service.{name}.memory_bytes"), memory[0])
        cpu_us = _numbers(usage)
        began = self._began(folder)
        if not cpu_us or began is None:
            return 0
        before, self._seen[unit] = self._seen.get(unit), Service(cpu_us[0], began)
        if before is None:
            return 0
        has_restarted = began != before.began
        measures.count(Series(f"service.{name}.restarts"), float(has_restarted))
        if elapsed_s and not has_restarted and cpu_us[0] >= before.cpu_us:
            ratio = (cpu_us[0] - before.cpu_us) / 1e6 / elapsed_s
            measures.observe(Series(f"service.{name}.cpu_ratio"), ratio)
        return int(has_restarted)

    def _began(self, folder: str) -> int | None:
        """Return when the oldest process of a control group began, in ticks since the boot."""
        found = []
        for pid in filter(str.isdigit, self._text(f"{folder}/cgroup.procs").split()):
            # The name in the second field may hold anything, also blanks and brackets.
            _, _, rest = self._text(f"proc/{pid}/stat").rpartition(") ")
            found += _numbers(rest.split()[19:20])
        return min(found, default=None)

    # Files.

    def _text(self, path: str) -> str:
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""

    def _entries(self, path: str) -> list[Path]:
        try:
            return sorted((self.root / path).iterdir())
        except OSError:
            return []


def boot_reason(root: Path = Path("/"), *, was_stopped: bool) -> str:
    """Return why the device started anew: watchdog, panic, ordered, or lost (power, most often).

    `was_stopped`: the agent of the boot before was stopped in good order.
    """
    for watchdog in _sorted(root / "sys/class/watchdog"):
        status = _numbers([_read(watchdog / "bootstatus").strip()])
        if status and status[0] & CARDRESET:
            return "watchdog"
    if _sorted(root / "sys/fs/pstore"):
        return "panic"
    return "ordered" if was_stopped else "lost"


def lock_waits_s(databases: Mapping[str, Path]) -> dict[str, float | None]:
    """Return how long each database kept us waiting for its write lock; None for too long.

    Blocks. Writes nothing, and makes no database that is not there.
    """
    found: dict[str, float | None] = {}
    for name, path in databases.items():
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=LOCK_WAIT_S,
                isolation_level=None,
            )
        except sqlite3.Error:
            continue
        began = time.monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
            found[name] = time.monotonic() - began
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                found[name] = None
        except sqlite3.Error:
            pass
        finally:
            connection.close()
    return found


def metric_of(unit: str) -> str:
    """Return the part of a metric's name that stands for a unit."""
    plain = unit.removesuffix(".service").lower()
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in plain)[
        :40
    ]


def _numbers(words: list[str]) -> list[int]:
    try:
        return [int(word, 0) for word in words]
    except ValueError:
        return []


def _sorted(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
