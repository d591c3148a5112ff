"""Whether canaries fail more often than the rest at the same time, watched continuously.

Owns the safe test of two shares. Never decides who is a canary.

Before each cycle it bets on the rates that were seen so far, and only when the canaries looked
worse; after it, the evidence is multiplied by how much better the bet did than one common rate. The
chance that it ever reaches `1/alpha` while both fail alike is at most `alpha`. Source: Turner, Ly
and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional
stopping", Journal of Statistical Planning and Inference 230 (2024).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log, log1p
from typing import Final

from hub.outcomes import words
from hub.outcomes.chances import bounds, upper_bound
from hub.outcomes.normal_range import HOLD
from hub.outcomes.verdicts import Estimate, Judgement, Ruling

_PRIOR: Final = 0.18
"""Failures, and successes, that each group is taken to have had before the first cycle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """What happened in one cycle: each device counts once in it, failed or not."""

    rest_count: int
    rest_failed: int
    canary_count: int
    canary_failed: int


@dataclass(frozen=True, slots=True)
class Compared:
    """All cycles so far."""

    e_value: float
    """Largest evidence so far that canaries fail more often."""
    crossed_at: int | None
    """After how many cycles it was enough."""


def compare(cycles: Iterable[Cycle], *, alpha: float = HOLD) -> Compared:
    """Follow cycles in their order."""
    held = largest = 0.0
    crossed_at = None
    rest = canary = (0, 0)
    for number, cycle in enumerate(cycles, 1):
        ta, tb = _smoothed(*rest), _smoothed(*canary)
        na, nb = cycle.rest_count, cycle.canary_count
        if tb > ta and na and nb:
            common = (na * ta + nb * tb) / (na + nb)
            held += _gain(cycle.rest_failed, na, ta, common)
            held += _gain(cycle.canary_failed, nb, tb, common)
        rest = rest[0] + na, rest[1] + cycle.rest_failed
        canary = canary[0] + nb, canary[1] + cycle.canary_failed
        largest = max(largest, held)
        if crossed_at is None and held >= log(1 / alpha):
            crossed_at = number
    return Compared(exp(min(largest, 700.0)), crossed_at)


def judge_canary(
    cycles: Iterable[Cycle], *, alpha: float = HOLD, tolerated: float = 0.05
) -> Judgement:
    """Return whether canaries fail more often than the rest.

    Args:
        cycles: In their order.
        alpha: How often it is called a breach while both fail alike, over all looks together.
        tolerated: It is ok only when at most so large a share of the canaries can be failing more
            than of the rest.
    """
    held = list(cycles)
    seen = compare(held, alpha=alpha)
    n_rest, x_rest = sum(c.rest_count for c in held), sum(c.rest_failed for c in held)
    n, x = sum(c.canary_count for c in held), sum(c.canary_failed for c in held)
    counted = f"canaries failed in {x} of {n} cases and the rest in {x_rest} of {n_rest}"
    rest_lo, rest_hi = bounds(x_rest, n_rest)
    lo, hi = bounds(x, n)
    if seen.crossed_at is not None:
        verdict = Ruling.BREACH
        sentence = (
            f"Canaries fail more often than the rest: {counted}; "
            f"that was certain enough after cycle {seen.crossed_at}."
        )
    elif n and n_rest and upper_bound(x, n) - x_rest / n_rest <= tolerated:
        verdict = Ruling.OK
        sentence = f"Canaries fail no more often than the rest: {counted}."
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = f"Too few cases to tell canaries from the rest: {counted}."
    return Judgement(
        name="canary",
        verdict=verdict,
        sentence=sentence,
        evidence=(
            f"canaries between {words.share(lo)} and {words.share(hi)}",
            f"the rest between {words.share(rest_lo)} and {words.share(rest_hi)}",
        ),
        estimate=Estimate(
            value=x / n - x_rest / n_rest if n and n_rest else None,
            lo=lo - rest_hi,
            hi=hi - rest_lo,
            unit="difference of ratios",
            how="from both groups' 95 % exact bounds",
        ),
        e_value=seen.e_value,
        alpha=alpha,
    )


def _smoothed(count: int, failed: int) -> float:
    return (failed + _PRIOR) / (count + 2 * _PRIOR)


def _gain(failed: int, count: int, bet: float, common: float) -> float:
    bad = failed * log(bet / common)
    return bad + (count - failed) * (log1p(-bet) - log1p(-common))
