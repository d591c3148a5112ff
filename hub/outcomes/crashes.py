"""Whether devices crash that should not: hours in which nothing crashed, of all hours.

Owns what is judged of them. An hour counts when the agent ran through it; it is free of crashes
when nothing that the device watches crashed in it and it did not start unexpectedly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hub.outcomes import words
from hub.outcomes.normal_range import judge_normal
from hub.outcomes.verdicts import Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptime:
    """Full hours of one device since a moment."""

    device: str
    hours: float
    crash_free_hours: float


def judge_crashes(uptimes: Sequence[Uptime], *, normal: float) -> Judgement | None:
    """Return whether more devices had an hour with a crash than is normal; None without hours.

    The unit is the device: one that crashes every hour counts once. Made for one look, because a
    device that has not crashed yet may do so later.

    Args:
        uptimes: Of devices that run the release.
        normal: Share of devices that is normal.
    """
    held = [each for each in uptimes if each.hours > 0]
    if not held:
        return None
    crashed = [each.device for each in held if each.crash_free_hours < each.hours]
    judged = judge_normal(
        "crash_free",
        [each.crash_free_hours < each.hours for each in held],
        normal=normal,
        what="devices had an hour with a crash or an unexpected boot",
    )
    hours = sum(each.hours for each in held)
    free = sum(each.crash_free_hours for each in held)
    counted = f"{free:.0f} of {hours:.0f} hours of {words.devices(len(held))} without a crash"
    return replace(
        judged,
        evidence=(counted, *judged.evidence),
        devices=tuple(crashed),
        looked_at_count=len(held),
    )
