"""Exact arithmetic on chances, held against tables and against counting every case."""

from itertools import combinations
from math import comb
from random import Random

import pytest

from hub.outcomes.chances import (
    at_least,
    bounds,
    chi_square_tail,
    holm,
    p_min,
    rank_sums,
    rank_test,
    shift,
    thin,
    upper_bound,
)


@pytest.mark.parametrize(
    ("x", "freedom"),
    [(3.841, 1), (5.991, 2), (7.815, 3), (9.488, 4), (18.307, 10), (24.996, 15)],
)
def test_chi_square_tails_are_those_of_the_published_table(x: float, freedom: int) -> None:
    assert chi_square_tail(x, freedom) == pytest.approx(0.05, abs=2e-5)


@pytest.mark.parametrize(("n", "p"), [(10, 0.3), (50, 0.02), (200, 0.9)])
def test_a_binomial_tail_is_the_sum_of_its_terms(n: int, p: float) -> None:
    for k in range(n + 2):
        whole = sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
        assert at_least(k, n, p) == pytest.approx(whole, abs=1e-12)


def test_bounds_are_those_of_the_published_table() -> None:
    assert bounds(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert bounds(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert bounds(0, 0) == (0.0, 1.0)


def test_ten_clean_devices_still_allow_a_quarter_and_fifty_nine_a_twentieth() -> None:
    assert upper_bound(0, 10) == pytest.approx(0.2589, abs=1e-4)
    assert upper_bound(0, 59) < 0.05 < upper_bound(0, 58)


def test_the_floor_of_small_comparisons() -> None:
    assert p_min(1, 9) == pytest.approx(0.1)
    assert p_min(2, 8) == pytest.approx(0.0222, abs=1e-4)
    assert p_min(3, 7) == pytest.approx(0.0083, abs=1e-4)


def test_holm_corrects_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_rank_test_counts_every_way_to_divide(*, is_tied: bool) -> None:
    random = Random(3)
    for _ in range(20):
        values = [float(random.randrange(4)) if is_tied else random.random() for _ in range(8)]
        ranks = [
            sum(other < value for other in values) + sum(other == value for other in values) / 2
            for value in values
        ]
        observed = sum(ranks[:3])
        ways = list(combinations(ranks, 3))
        share = sum(sum(way) >= observed - 1e-9 for way in ways) / len(ways)
        assert rank_test(values[:3], values[3:]) == pytest.approx(share)


def test_the_rank_test_is_the_same_from_both_sides() -> None:
    few, many = [5.0, 9.0], [1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0]
    turned = rank_test([-value for value in many], [-value for value in few])
    assert rank_test(few, many) == pytest.approx(turned)


def test_many_devices_are_judged_nearly_as_counting_would() -> None:
    random = Random(4)
    first = [random.gauss(0.4, 1) for _ in range(30)]
    second = [random.gauss(0, 1) for _ in range(170)]
    exact = rank_test(first, second)
    assert rank_test(first, [*second, -99.0]) == pytest.approx(exact, rel=0.1)


def test_values_that_are_all_alike_tell_nothing() -> None:
    assert rank_test([1.0] * 3, [1.0] * 7) == 1.0
    assert rank_test([1.0] * 30, [1.0] * 270) == 1.0
    assert rank_test([], [1.0]) == 1.0


def test_rank_sums_count_every_choice() -> None:
    counted = rank_sums(range(6), 2)
    assert sum(counted) == comb(6, 2)
    assert counted[1] == 1
    assert counted[5] == 3


def test_a_shift_is_found_within_its_bounds() -> None:
    random = Random(5)
    inside = 0
    for _ in range(200):
        first = [random.gauss(1, 1) for _ in range(5)]
        second = [random.gauss(0, 1) for _ in range(15)]
        middle, lo, hi = shift(first, second)
        assert lo is not None
        assert hi is not None
        assert lo <= middle <= hi
        inside += lo <= 1 <= hi
    assert inside >= 180


def test_one_against_nine_gives_no_bounds() -> None:
    assert shift([1.0], [0.0] * 9)[1:] == (None, None)


def test_thinned_values_keep_their_middle() -> None:
    kept = thin(range(10_001), 100)
    assert len(kept) == 100
    assert abs(sum(kept) / 100 - 5_000) < 100
    assert thin([3, 1], 5) == [1, 3]
