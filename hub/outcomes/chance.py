"""Small exact pieces of probability that several judgements use.

Owns the formulas and nothing that is judged by them. In closed form and with whole numbers, so no
library is needed.

Sources: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.4.4 and 26.4.5 (chi
square); Mann and Whitney, Annals of Mathematical Statistics 18 (1947), 50-60; Holm, Scandinavian
Journal of Statistics 6 (1979), 65-70.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

EXACT_MAX: Final = 200
"""Devices up to which the distribution of Mann and Whitney is worked out and not approximated."""


def chi_square_tail(value: float, degrees: int) -> float:
    """Return the probability of at least `value` with so many degrees of freedom, at least 1."""
    if value <= 0:
        return 1.0
    half = value / 2
    if degrees % 2 == 0:
        term = total = math.exp(-half)
        for step in range(1, degrees // 2):
            term *= half / step
            total += term
        return min(1.0, total)
    total = math.erfc(math.sqrt(half))
    term = math.sqrt(2 / math.pi) * math.exp(-half) * math.sqrt(value)
    for step in range(1, (degrees - 1) // 2 + 1):
        total += term
        term *= value / (2 * step + 1)
    return min(1.0, total)


@lru_cache(maxsize=64)
def _rank_counts(first: int, second: int) -> tuple[int, ...]:
    """Return how many orders of so many of each kind have each number of pairs the right way."""
    counts = [1]
    for each in range(1, first + 1):
        # One factor (1 - q^(second + each)) / (1 - q^each) of the Gaussian binomial.
        longer = counts + [0] * second
        for at in range(len(longer) - 1, second + each - 1, -1):
            longer[at] -= longer[at - second - each]
        for at in range(each, len(longer)):
            longer[at] += longer[at - each]
        counts = longer
    return tuple(counts)


def greater_p(canary: Sequence[float], rest: Sequence[float]) -> float:
    """Return the one-sided p-value that the canary's values are no greater than those of the rest.

    Exact up to `EXACT_MAX` values in all; ties count against a difference, which is conservative.
    """
    wins = sum(one > other for one in canary for other in rest)
    first, second = len(canary), len(rest)
    if first + second <= EXACT_MAX:
        counts = _rank_counts(first, second)
        return sum(counts[wins:]) / sum(counts)
    mean = first * second / 2
    spread = math.sqrt(first * second * (first + second + 1) / 12)
    return 0.5 * math.erfc((wins - 0.5 - mean) / (spread * math.sqrt(2)))


def rank_margin(first: int, second: int, alpha: float) -> int:
    """Return how many of all ordered pairs to leave out at each end for an interval of 1 - alpha.

    -1 if even all of them do not make one.
    """
    if first + second <= EXACT_MAX:
        counts = _rank_counts(first, second)
        total, so_far = sum(counts), 0
        for wins, count in enumerate(counts):
            so_far += count
            if so_far > alpha / 2 * total:
                return wins - 1
    mean = first * second / 2
    spread = math.sqrt(first * second * (first + second + 1) / 12)
    return max(-1, math.floor(mean - 1.96 * spread) - 1) if alpha == 0.05 else -1  # noqa: PLR2004 - the quantile of 5 %


def holm(p_values: Mapping[str, float], alpha: float) -> set[str]:
    """Return the names whose p-values hold when all of them are looked at together."""
    kept: set[str] = set()
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda each: each[1])):
        if p > alpha / (len(p_values) - rank):
            break
        kept.add(name)
    return kept


def clean_bound(count: int, alpha: float = 0.05) -> float:
    """Return the failure rate that so many devices without a failure still allow."""
    return 1.0 if count == 0 else 1 - alpha ** (1 / count)
