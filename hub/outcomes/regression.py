"""Whether the slowest twentieth became slower: P95, canary against the rest, device by device.

Owns the comparison. Each device is compared with itself before the change, and those changes with
the changes of the rest; so devices that were always slow are no finding, nor is a slow day. Tests
over all events of all devices called 26 to 49 % of fleets without a difference a regression,
because events of one device are not independent; they are not used here.

Source: difference in differences on the logarithm; the shift of Hodges and Lehmann, Annals of
Mathematical Statistics 34 (1963), 598-611; the test is `hub.outcomes.chance.greater_p`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hub.outcomes.chance import greater_p, rank_margin
from hub.outcomes.verdicts import Call, Judgement

ALPHA: Final = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """P95 of one device before and after, in the same unit, both above zero."""

    device: str
    is_canary: bool
    before: float
    after: float


def judge_p95(about: str, changes: Sequence[Change], *, allowed_ratio: float = 1.0) -> Judgement:
    """Return the judgement on a regression.

    Args:
        about: Name of the measure.
        changes: Every device with enough values on both sides; one of which a side is missing or
            zero is left out by the caller.
        allowed_ratio: How many times as long it may take after the change.
    """
    allowed = math.log(allowed_ratio)
    canary = [math.log(each.after / each.before) for each in changes if each.is_canary]
    rest = [math.log(each.after / each.before) for each in changes if not each.is_canary]
    counts = (f"{len(canary)} canary devices", f"{len(rest)} others")
    if not canary or not rest:
        return Judgement(
            about=about,
            call=Call.TOO_LITTLE_EVIDENCE,
            sentence=f"{about}: nothing to compare, with {counts[0]} and {counts[1]}.",
            evidence=counts,
            uncertainty="any change is possible",
        )
    p_min = 1 / math.comb(len(changes), len(canary))
    p = greater_p([each - allowed for each in canary], rest)
    shifts = sorted(one - other for one in canary for other in rest)
    middle = _median(shifts)
    margin = rank_margin(len(canary), len(rest), ALPHA)
    times = f"{math.exp(middle):.2f} times"
    if margin >= 0:
        low, high = math.exp(shifts[margin]), math.exp(shifts[-1 - margin])
        how_sure = f"between {low:.2f} and {high:.2f} times, with 95 % confidence"
    else:
        how_sure = "so few devices give no interval"
    how_sure += f"; p {p:.3g}, and a test of this size can go down to {p_min:.3g}"
    evidence = (*counts, f"P95 changed to {times} as long as without the change", how_sure)
    limit = f" (allowed: {allowed_ratio:g} times)" if allowed_ratio != 1 else ""
    if p <= ALPHA:
        call, said = Call.BREACH, f"got slower by the change, to {times} the P95{limit}"
    elif p_min > ALPHA or (margin >= 0 and shifts[-1 - margin] > max(allowed, math.log(1.3))):
        call, said = Call.TOO_LITTLE_EVIDENCE, "cannot be judged with so few devices"
    else:
        call, said = Call.OK, f"shows no regression: {times} the P95{limit}"
    return Judgement(
        about=about,
        call=call,
        sentence=f"{about} {said}.",
        evidence=evidence,
        uncertainty=how_sure,
        p_min=p_min,
    )


def _median(values: Sequence[float]) -> float:
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
