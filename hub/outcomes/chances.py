"""Exact arithmetic on chances, as far as the judgements need it.

Owns tail probabilities, exact bounds, and the rank test. Never knows what was counted.

Everything here is a finite sum, so no library is needed; the tests hold it against published tables
and against counting every case.
"""

from collections.abc import Iterable, Sequence
from math import comb, erfc, exp, lgamma, log, log1p, sqrt
from statistics import NormalDist
from typing import Final

EXACT_MAX_COUNT: Final = 200
"""Up to so many devices ranks are counted exactly; beyond, the normal approximation is as good."""

_NEGLIGIBLE: Final = 1e-17
_HALVINGS: Final = 60


def chi_square_tail(x: float, freedom: int) -> float:
    """Return the chance of a chi-square value of at least `x` with whole degrees of freedom."""
    if freedom < 1 or x <= 0:
        return 1.0
    half = x / 2
    if freedom % 2 == 0:
        total = sum(exp(i * log(half) - half - lgamma(i + 1)) for i in range(freedom // 2))
        return min(1.0, total)
    total = erfc(sqrt(half))
    for i in range(1, (freedom - 1) // 2 + 1):
        total += exp((i - 0.5) * log(half) - half - lgamma(i + 0.5))
    return min(1.0, total)


def at_least(k: int, n: int, p: float) -> float:
    """Return the chance of `k` or more of `n` where each comes with chance `p`."""
    if k <= 0:
        return 1.0
    if k > n or p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    if k < p * n:
        return 1.0 - at_least(n - k + 1, n, 1 - p)
    term = exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log1p(-p))
    total = term
    for i in range(k, n):
        term *= (n - i) / (i + 1) * p / (1 - p)
        total += term
        if term < total * _NEGLIGIBLE:
            break
    return min(1.0, total)


def bounds(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return exact bounds on a share of which `k` of `n` were seen (Clopper and Pearson, 1934)."""
    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    return _lowest(k, n, tail), 1 - _lowest(n - k, n, tail)


def upper_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """Return the exact one-sided upper bound: with none of `n`, `1 - (1 - confidence)^(1/n)`."""
    return 1.0 if n == 0 else 1 - _lowest(n - k, n, 1 - confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that stay valid though several are looked at (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    held = [1.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        held[i] = largest
    return held


def p_min(first_count: int, second_count: int) -> float:
    """Return the smallest p-value that comparing two groups of so many can reach."""
    return 1 / comb(first_count + second_count, first_count)


def rank_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the chance that the first group ranks so high if nothing tells the groups apart.

    Mann and Whitney (1947), one-sided. Exact over every way to divide the values, ties included, up
    to `EXACT_MAX_COUNT` values; normal approximation with corrections for ties and continuity
    beyond.
    """
    if not first or not second:
        return 1.0
    ranks = _doubled_ranks([*first, *second])
    observed = sum(ranks[: len(first)])
    count = len(ranks)
    if count > EXACT_MAX_COUNT:
        return _normal_tail(ranks, len(first), observed)
    whole = sum(ranks)
    if len(first) <= len(second):
        ways = rank_sums(ranks, len(first))
        hits = sum(ways[observed:])
    else:
        ways = rank_sums(ranks, len(second))
        hits = sum(ways[: whole - observed + 1])
    return hits / comb(count, len(first))


def rank_sums(ranks: Iterable[int], chosen_count: int) -> list[int]:
    """Return in how many ways so many of the ranks add up to each sum.

    Each polynomial is one large number with a field per coefficient: adding all fields at once is
    what makes two hundred devices a matter of milliseconds.
    """
    ranks = sorted(ranks)
    largest = sum(ranks[len(ranks) - chosen_count :])
    width = comb(len(ranks), chosen_count).bit_length() + 1
    ways = [1] + [0] * chosen_count
    for seen, rank in enumerate(ranks, 1):
        for size in range(min(seen, chosen_count), 0, -1):
            ways[size] += ways[size - 1] << (rank * width)
    whole = ways[chosen_count].to_bytes((width * (largest + 1) + 7) // 8, "little")
    mask = (1 << width) - 1
    found = []
    for i in range(largest + 1):
        first_bit = i * width
        chunk = whole[first_bit // 8 : (first_bit + width + 7) // 8]
        found.append(int.from_bytes(chunk, "little") >> (first_bit % 8) & mask)
    return found


def shift(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Return by how much the first group lies above the second, and two-sided bounds.

    Hodges and Lehmann (1963): the median of all differences, and the differences at the ranks that
    the rank test does not refuse. A bound is None where so few values do not give one.
    """
    differences = sorted(a - b for a in first for b in second)
    count = len(differences)
    middle = (differences[count // 2] + differences[(count - 1) // 2]) / 2
    refused = _refused_count(len(first), len(second), (1 - confidence) / 2)
    if refused == 0:
        return middle, None, None
    return middle, differences[refused - 1], differences[count - refused]


def thin(values: Iterable[float], most: int) -> list[float]:
    """Return at most so many values that stand for all: evenly spaced ones in their order."""
    held = sorted(values)
    if len(held) <= most:
        return held
    return [held[(2 * i + 1) * len(held) // (2 * most)] for i in range(most)]


def _lowest(k: int, n: int, tail: float) -> float:
    """Return the smallest share under which `k` or more of `n` have a chance of `tail`."""
    if k == 0:
        return 0.0
    lo, hi = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (lo + hi) / 2
        if at_least(k, n, middle) < tail:
            lo = middle
        else:
            hi = middle
    return lo


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Return twice the rank of each value from zero, the middle one among equals."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = start + end - 1
        start = end
    return ranks


def _normal_tail(ranks: Sequence[int], first_count: int, observed: int) -> float:
    count = len(ranks)
    mean = sum(ranks) / count
    spread = sum((rank - mean) ** 2 for rank in ranks) / (count - 1)
    variance = spread * first_count * (count - first_count) / count
    if variance == 0:
        return 1.0
    z = (observed - 1 - first_count * mean) / sqrt(variance)
    return NormalDist().cdf(-z)


def _refused_count(first_count: int, second_count: int, tail: float) -> int:
    """Return how many of the smallest differences the rank test refuses at this level."""
    count = first_count + second_count
    if count > EXACT_MAX_COUNT:
        mean = first_count * second_count / 2
        deviation = sqrt(first_count * second_count * (count + 1) / 12)
        return max(0, int(mean + NormalDist().inv_cdf(tail) * deviation))
    chosen = min(first_count, second_count)
    ways = rank_sums(range(count), chosen)
    all_ways = comb(count, chosen)
    least = chosen * (chosen - 1) // 2
    total = 0
    for refused, held in enumerate(ways[least:]):
        total += held
        if total > tail * all_ways:
            return refused
    return len(ways) - least
