"""What applications intended and what it came to: who ended it, and whether canaries fail more.

Owns which cases count. Each device counts once where a share is judged, because the cases of one
device are alike; and once a day where canaries are compared with the rest.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hub.outcomes.canary import Cycle
from hub.outcomes.fallback import NORMAL_RATIO
from hub.outcomes.normal_range import judge_normal
from hub.outcomes.verdicts import Judgement

DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A case that is known to have ended."""

    device: str
    at_ms: int
    """Hub UTC; of the interval that the clocks leave, the middle."""
    is_canary: bool
    """Whether it ran the new release; else it was not meant for it."""
    by_human: bool
    """A person ended it."""
    is_astray: bool
    """It came to another state than was intended."""

    @property
    def is_bad(self) -> bool:
        """Whether it failed or needed a person."""
        return self.by_human or self.is_astray


def judge_cases(ended: Iterable[Ended], *, normal: float = NORMAL_RATIO) -> Judgement | None:
    """Return whether applications under a release fall back on people more often than is normal.

    Args:
        ended: Of canaries; who ended them is known. Each device counts by its first.
        normal: Share of devices that is normal.

    Returns:
        None if there are no cases.
    """
    held = sorted(
        (each for each in ended if each.is_canary), key=lambda each: (each.at_ms, each.device)
    )
    first: dict[str, Ended] = {}
    for each in held:
        first.setdefault(each.device, each)
    if not first:
        return None
    judged = judge_normal(
        "case_fallback",
        [each.by_human for each in first.values()],
        normal=normal,
        what="devices needed a person in their first case",
    )
    by_hand = sum(each.by_human for each in held)
    return replace(
        judged,
        evidence=(*judged.evidence, f"{by_hand} of {len(held)} cases in all"),
        devices=tuple(name for name, each in first.items() if each.by_human),
    )


def days_of(ended: Sequence[Ended], *, since_ms: int, now_ms: int) -> list[Cycle]:
    """Return the whole days since a moment, in order: in each a device failed or did not.

    A day that is not over may still change, so it is left out; so is one with nothing in it.
    """
    failed: dict[int, dict[tuple[str, bool], bool]] = defaultdict(dict)
    for each in ended:
        day = (each.at_ms - since_ms) // DAY_MS
        who = (each.device, each.is_canary)
        failed[day][who] = failed[day].get(who, False) or each.is_bad
    found = []
    for day in sorted(failed):
        if not 0 <= day < (now_ms - since_ms) // DAY_MS:
            continue
        canaries = [bad for (_, is_canary), bad in failed[day].items() if is_canary]
        rest = [bad for (_, is_canary), bad in failed[day].items() if not is_canary]
        found.append(
            Cycle(
                rest_count=len(rest),
                rest_failed=sum(rest),
                canary_count=len(canaries),
                canary_failed=sum(canaries),
            )
        )
    return found
