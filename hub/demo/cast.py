"""Who plays in the demo: six devices, what is done to each, and what should be reported of it.

Owns the expectations, written down before anything runs. Never does anything.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hub.outcomes.silence import Verdict

OLD: Final = "1.0.0"
NEW: Final = "1.1.0"
COMPONENT: Final = "greenhouse"

CLOCK_OFFSET_S: Final = -10 * 86_400
"""How far one device's clock is off: it was without power for ten days, and has no battery."""


class Fault(StrEnum):
    """What can be wrong with a device. Values stand in the demo's JSON; never reuse one."""

    NONE = "none"
    OFFLINE = "offline"
    NO_SENSOR = "no_sensor"
    DEAF = "deaf"
    KILLED = "killed"
    WRONG_CLOCK = "wrong_clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What should be reported of a device at one look, and what it should run."""

    verdict: Verdict
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One device."""

    device: str
    fault: Fault
    done: str
    """What is done to it, for people."""
    first: Expected
    """While links are broken."""
    final: Expected
    """After they were repaired."""


_RUNS = Expected(verdict=Verdict.ACKNOWLEDGED, version=NEW)

CAST: Final[tuple[Part, ...]] = (
    Part(
        device="house-1",
        fault=Fault.NONE,
        done="nothing",
        first=_RUNS,
        final=_RUNS,
    ),
    Part(
        device="house-2",
        fault=Fault.OFFLINE,
        done="its link is cut before the release and repaired at the end",
        first=Expected(verdict=Verdict.UNREACHABLE, version=OLD),
        final=_RUNS,
    ),
    Part(
        device="house-3",
        fault=Fault.NO_SENSOR,
        done="it has no soil sensor, which the release needs",
        first=Expected(verdict=Verdict.ROLLED_BACK, version=OLD),
        final=Expected(verdict=Verdict.ROLLED_BACK, version=OLD),
    ),
    Part(
        device="house-4",
        fault=Fault.DEAF,
        done="its link swallows what the broker sends and acknowledges it; repaired at the end",
        first=Expected(verdict=Verdict.SILENT, version=OLD),
        final=_RUNS,
    ),
    Part(
        device="house-5",
        fault=Fault.KILLED,
        done="its agent gets SIGKILL in the middle of the install and is started again",
        first=_RUNS,
        final=_RUNS,
    ),
    Part(
        device="house-6",
        fault=Fault.WRONG_CLOCK,
        done="its clock is ten days in the past",
        first=_RUNS,
        final=_RUNS,
    ),
)
"""All devices, in the order in which they are shown."""

LINKED: Final = frozenset({Fault.OFFLINE, Fault.DEAF})
"""Faults of the link: these devices reach the broker through a proxy that can be spoiled."""
