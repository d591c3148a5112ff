from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.overlay import Effective, Policy, Winner, effective, latest
from sync.records import Desired, Local

clocks = st.integers(0, 5)
values = st.none() | st.sampled_from(["1", "2"])
locals_ = st.none() | st.builds(Local, clocks, values, clocks, st.sampled_from(["", "app"]))
policies = st.sampled_from([*Policy, "unknown"])
desires = st.none() | st.builds(
    Desired, clocks, values, clocks, policies, st.sampled_from(["", "ada"])
)


def test_nobody_has_set_anything() -> None:
    assert effective(None, None) == Effective(None, Winner.NOBODY, conflict=False)


def test_a_value_that_only_one_side_set_counts() -> None:
    assert effective(Local(1, "1"), None).winner is Winner.LOCAL
    assert effective(None, Desired(1, "1")).winner is Winner.DESIRED


def test_a_value_taken_back_leaves_the_field_to_the_other_side() -> None:
    assert effective(Local(9, None), Desired(1, "1")).value == "1"
    assert effective(Local(1, "1"), Desired(9, None)).value == "1"
    assert effective(Local(1, None), Desired(2, None)) == Effective(None, Winner.NOBODY, False)


@pytest.mark.parametrize(
    ("policy", "winner"),
    [
        (Policy.OPERATOR, Winner.DESIRED),
        (Policy.LOCAL, Winner.LOCAL),
        (Policy.LATEST, Winner.LOCAL),
    ],
)
def test_the_policy_comes_first_and_then_the_clock(policy: Policy, winner: Winner) -> None:
    assert effective(Local(7, "1"), Desired(5, "2", policy=policy)).winner is winner


def test_with_equal_clocks_the_writer_decides() -> None:
    assert (
        effective(Local(5, "1", writer="a"), Desired(5, "2", writer="b")).winner is Winner.DESIRED
    )
    assert effective(Local(5, "1", writer="b"), Desired(5, "2", writer="a")).winner is Winner.LOCAL


def test_two_values_set_apart_are_a_conflict_whoever_prevails() -> None:
    for policy in Policy:
        assert effective(Local(7, "1"), Desired(5, "2", policy=policy)).conflict


def test_it_is_no_conflict_if_one_side_knew_of_the_others_or_both_agree() -> None:
    assert not effective(Local(7, "1", saw=5), Desired(5, "2")).conflict
    assert not effective(Local(5, "1"), Desired(7, "2", saw=5)).conflict
    assert not effective(Local(7, "1"), Desired(5, "1")).conflict


@given(locals_, desires)
def test_the_effective_value_is_always_one_that_somebody_set(
    local: Local | None, desired: Desired | None
) -> None:
    result = effective(local, desired)
    match result.winner:
        case Winner.NOBODY:
            assert result.value is None
        case Winner.LOCAL:
            assert local is not None
            assert result.value == local.value is not None
        case Winner.DESIRED:
            assert desired is not None
            assert result.value == desired.value is not None


@given(st.lists(desires, max_size=4))
def test_the_wish_that_counts_does_not_depend_on_the_order_of_the_documents(
    wishes: list[Desired | None],
) -> None:
    found = [latest(each) for each in permutations(wishes)]
    assert len({(wish.clock, wish.writer) if wish is not None else None for wish in found}) == 1


def test_taking_back_the_wish_for_a_group_leaves_an_older_one_for_the_device_standing() -> None:
    for_device, for_group = Desired(5, "1"), Desired(9, None)
    assert latest([for_group, for_device]) == for_device
    assert latest([for_group, Desired(3, None)]) == for_group
