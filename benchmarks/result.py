"""One figure of a benchmark, and the file they are collected in."""

import json
import os
import platform
import sqlite3
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

LARGE = 1e4

RESULTS = Path(__file__).with_name("results.json")


@cache
def machine() -> str:
    """Return one line that describes what the figures were taken on."""
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} x {cpu}, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, pycrdt {version('pycrdt')}, "
        f"paho-mqtt {version('paho-mqtt')}, SQLite {sqlite3.sqlite_version}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A figure with the aim it is held against and, where there is one, a peer in the same run."""

    name: str
    value: float
    unit: str
    aim: str
    """What the project wants, `< 100`; empty where there is no aim."""
    peer: str = ""
    """What `ratio` compares with, and its figure."""
    ratio: float | None = None
    """`value` divided by the peer's."""
    note: str = ""
    """What exactly was done."""

    def meets_aim(self) -> bool | None:
        """Tell whether the aim is met; None without an aim."""
        if not self.aim:
            return None
        sign, _, limit = self.aim.partition(" ")
        return self.value < float(limit) if sign == "<" else self.value > float(limit)


def save(results: list[Result], path: Path = RESULTS) -> None:
    """Write `results` for other programs to read, replacing the file at once."""
    rows = [asdict(result) | {"machine": machine()} for result in results]
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(rows, indent=1) + "\n")
    scratch.replace(path)


def show(results: list[Result]) -> None:
    """Print `results` as a table."""
    print(f"\n{machine()}\n")
    width = max(len(result.name) for result in results)
    for result in results:
        met = result.meets_aim()
        mark = {None: " ", True: "ok", False: "MISSED"}[met]
        peer = f"  {result.ratio:.3g} x {result.peer}" if result.ratio is not None else ""
        aim = f"(aim {result.aim})" if result.aim else ""
        digits = ",.0f" if result.value >= LARGE else ",.4g"
        value = format(result.value, digits)
        print(f"{result.name:<{width}}  {value:>10} {result.unit:<10} {aim:<14} {mark}{peer}")
        if result.note:
            print(f"{'':<{width}}  {result.note}")
    sys.stdout.flush()
