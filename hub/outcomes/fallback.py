"""How often people have to help: Human Fallback Rate and operator touchpoints.

Owns both definitions. An update is finished when it was acknowledged, undone or given up; it fell
back on a person if an operator acted on that device for it. The unit is the device: two actions on
one device are one fallback and two touchpoints.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from hub.outcomes.normal_range import HOLD, judge_normal
from hub.outcomes.verdicts import Judgement

NORMAL_RATIO: Final = 0.30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An update that came to an end on one device."""

    device: str
    ended_at_ms: int
    """Hub UTC; the order of ends is what counts."""
    actions: tuple[str, ...] = ()
    """What operators did for it: `deployment.terms`."""


def judge_fallback(
    finished: Iterable[Finished], *, normal: float = NORMAL_RATIO, alpha: float = HOLD
) -> Judgement:
    """Return whether people have to help more often than is normal."""
    held = sorted(finished, key=lambda each: (each.ended_at_ms, each.device))
    judged = judge_normal(
        "human_fallback",
        [bool(each.actions) for each in held],
        normal=normal,
        what="finished updates needed a person",
        alpha=alpha,
    )
    kinds = Counter(action for each in held for action in each.actions)
    told = tuple(f"{count} x {kind}" for kind, count in kinds.most_common())
    per_thousand = touchpoints(held)
    if per_thousand is not None:
        told += (f"{per_thousand:.0f} touchpoints per 1,000 updates of a device",)
    return replace(
        judged,
        evidence=judged.evidence + told,
        devices=tuple(each.device for each in held if each.actions),
    )


def touchpoints(finished: Iterable[Finished]) -> float | None:
    """Return operator actions per thousand updates of a device; None without any."""
    counts = [len(each.actions) for each in finished]
    return 1000 * sum(counts) / len(counts) if counts else None
