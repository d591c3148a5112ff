"""The stage funnel of one deployment: how many devices got how far, and how the others left.

Owns the counting. Never judges a device (`silence`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hub.outcomes.observations import DeviceCourse, end_and_reason, reached
from sync.stages import LADDER, Stage, order


@dataclass(frozen=True, slots=True)
class Exit:
    """Devices that left at the same end for the same reason."""

    end: Stage
    reason: str
    """Reason code, empty if none was given."""
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Funnel:
    """Counts over the devices that were targeted."""

    targeted_count: int
    reached_count: Mapping[Stage, int]
    """For each rung, the devices proven to have come at least so far. A later rung proves the
    earlier ones, `BROKER_ACKED` apart: it counts where the broker said so, and proves nothing."""
    exits: tuple[Exit, ...]
    """What devices themselves reported as their end, largest group first."""


def funnel(courses: Iterable[DeviceCourse]) -> Funnel:
    """Return the funnel of the targeted devices among `courses`."""
    targeted = [course for course in courses if course.targeted]
    counts: Counter[Stage] = Counter()
    exits: dict[tuple[Stage, str], list[str]] = {}
    for course in targeted:
        rung = reached(course)
        for stage in LADDER:
            if stage is Stage.BROKER_ACKED:
                counts[stage] += stage in course.hub_stages
            elif rung is not None and order(stage) <= order(rung):
                counts[stage] += 1
        ended = end_and_reason(course)
        if ended is not None:
            exits.setdefault(ended, []).append(course.device)
    return Funnel(
        targeted_count=len(targeted),
        reached_count={stage: counts[stage] for stage in LADDER},
        exits=tuple(
            Exit(end, reason, tuple(sorted(devices)))
            for (end, reason), devices in sorted(
                exits.items(), key=lambda group: (-len(group[1]), order(group[0][0]), group[0][1])
            )
        ),
    )
