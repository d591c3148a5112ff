"""Whether something bad happens more often than is normal, watched as often as one likes.

Owns the one-sample mixture e-process. Never knows what is counted.

`E = mean over j of (p_j/p0)^s ((1-p_j)/(1-p0))^f`, after `s` cases that were bad and `f` that were
not, with alternatives `p_j` spread over everything above `p0`. While the true rate is at most `p0`,
the chance that `E` ever reaches `1/alpha` is at most `alpha` (Ville's inequality), however often it
is looked at and whenever one stops. Source: Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic
statistics and safe anytime-valid inference", Statistical Science 38 (2023), 576-601.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log, log1p
from typing import Final

from hub.outcomes import words
from hub.outcomes.chances import bounds, upper_bound
from hub.outcomes.verdicts import Estimate, Judgement, Ruling

HOLD: Final = 0.05
"""Alpha at which a breach holds what is under way."""
KILL: Final = 0.01
"""Alpha at which a breach takes it back."""

_ALTERNATIVES: Final = 24


@dataclass(frozen=True, slots=True)
class Watched:
    """A sequence of cases, all of them looked at."""

    count: int
    bad_count: int
    e_value: float
    """Largest evidence against the normal range so far."""
    crossed_at: int | None
    """After how many cases the evidence was enough; None if it never was."""


def watch(cases: Iterable[bool], *, normal: float, alpha: float = HOLD) -> Watched:
    """Follow cases in the order in which they happened; True is a bad one.

    Args:
        cases: One per device and occasion. Cases of which one causes another count as one.
        normal: The largest share that is normal, `p0`.
        alpha: How often all may be well and a breach be called, over all looks together.
    """
    if not 0 < normal < 1:
        raise ValueError(f"the normal share must lie between 0 and 1, not {normal}")
    rates = [normal + (1 - normal) * (j - 0.5) / _ALTERNATIVES for j in range(1, _ALTERNATIVES + 1)]
    on_bad = [log(rate / normal) for rate in rates]
    on_good = [log1p(-rate) - log1p(-normal) for rate in rates]
    weights = [0.0] * _ALTERNATIVES
    limit = log(1 / alpha)
    count = bad_count = 0
    largest, crossed_at = 0.0, None
    for is_bad in cases:
        count += 1
        bad_count += is_bad
        gains = on_bad if is_bad else on_good
        weights = [weight + gain for weight, gain in zip(weights, gains, strict=True)]
        top = max(weights)
        held = top + log(sum(exp(weight - top) for weight in weights) / _ALTERNATIVES)
        largest = max(largest, held)
        if crossed_at is None and held >= limit:
            crossed_at = count
    return Watched(count, bad_count, exp(min(largest, 700.0)), crossed_at)


def judge_normal(
    name: str,
    cases: Iterable[bool],
    *,
    normal: float,
    what: str,
    alpha: float = HOLD,
    enough: int = 10,
) -> Judgement:
    """Return whether bad cases lie in their normal range.

    It is a breach when the evidence ever was enough, and ok when the exact upper bound of the share
    is inside the range, or nothing speaks against it after `enough` cases.

    Args:
        name: The question.
        cases: As for `watch`.
        normal: As for `watch`.
        what: What a bad case is, for the sentence: `updates needed a person`.
        alpha: As for `watch`.
        enough: With fewer cases nothing is said to be ok unless the bound says so.
    """
    seen = watch(cases, normal=normal, alpha=alpha)
    lo, hi = bounds(seen.bad_count, seen.count)
    ratio = seen.bad_count / seen.count if seen.count else None
    counted = f"{seen.bad_count} of {seen.count} {what}"
    limit = words.share(normal)
    if seen.crossed_at is not None:
        verdict = Ruling.BREACH
        sentence = f"{counted}, more than the {limit} that is normal."
    elif seen.count and upper_bound(seen.bad_count, seen.count) <= normal:
        verdict = Ruling.OK
        sentence = f"{counted}, which is certainly within the {limit} that is normal."
    elif seen.count >= enough and ratio is not None and ratio <= normal:
        verdict = Ruling.OK
        sentence = f"{counted}, within the {limit} that is normal; up to {words.share(hi)} fits."
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = (
            f"{counted}: too few to tell whether that is more than the {limit} that is normal."
        )
    return Judgement(
        name=name,
        verdict=verdict,
        sentence=sentence,
        evidence=(f"between {words.share(lo)} and {words.share(hi)} fits what was seen",),
        estimate=Estimate(value=ratio, lo=lo, hi=hi, unit="ratio", how="95 % exact"),
        e_value=seen.e_value,
        alpha=alpha,
    )
