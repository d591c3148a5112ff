import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.outcomes.chance import chi_square_tail, clean_bound, greater_p, holm, rank_margin


@pytest.mark.parametrize(
    ("value", "degrees", "tail"),
    [(3.841, 1, 0.05), (5.991, 2, 0.05), (7.815, 3, 0.05), (11.070, 5, 0.05), (18.307, 10, 0.05),
     (6.635, 1, 0.01), (37.566, 20, 0.01), (29.588, 10, 0.001)],
)  # fmt: skip
def test_the_tail_of_chi_square_is_that_of_the_printed_tables(
    value: float, degrees: int, tail: float
) -> None:
    assert chi_square_tail(value, degrees) == pytest.approx(tail, rel=2e-3)
    assert chi_square_tail(0, degrees) == 1


@given(
    canary=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    rest=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
def test_a_p_value_is_the_share_of_all_orders_that_are_as_extreme(
    canary: list[int], rest: list[int]
) -> None:
    wins = sum(one > other for one in canary for other in rest)
    places = range(len(canary) + len(rest))
    orders = list(combinations(places, len(canary)))
    as_much = sum(
        sum(one > other for one in chosen for other in set(places) - set(chosen)) >= wins
        for chosen in orders
    )
    assert greater_p(canary, rest) == pytest.approx(as_much / len(orders))


def test_one_canary_of_ten_can_never_show_anything_at_five_percent() -> None:
    rest = list(range(9))
    assert greater_p([100], rest) == pytest.approx(0.1)
    assert greater_p([100, 101], rest[:8]) == pytest.approx(1 / math.comb(10, 2))
    assert greater_p([100, 101, 102], rest[:7]) == pytest.approx(1 / math.comb(10, 3))


def test_the_approximation_goes_on_where_the_exact_distribution_ends() -> None:
    canary = [n + 0.5 for n in range(60, 100)]
    exact, rough = greater_p(canary, range(160)), greater_p(canary, range(161))
    assert rough == pytest.approx(exact, rel=0.1, abs=0.01)


def test_the_margin_of_an_interval_leaves_out_at_most_alpha() -> None:
    assert rank_margin(1, 9, 0.05) == -1
    assert rank_margin(2, 8, 0.05) == 0  # 1/45 at each end
    assert rank_margin(5, 5, 0.05) == 2  # 23 is the critical number of the printed tables, 25 - 2


def test_holm_stops_at_the_first_that_does_not_hold() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}, 0.05) == {"a"}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.03}, 0.05) == {"a", "b", "c"}
    assert holm({}, 0.05) == set()


def test_ten_clean_devices_still_allow_a_quarter_to_fail() -> None:
    assert clean_bound(10) == pytest.approx(0.26, abs=0.005)
    assert clean_bound(59) == pytest.approx(0.05, abs=0.001)
    assert clean_bound(0) == 1
