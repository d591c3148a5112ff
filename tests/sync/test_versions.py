from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.manifest import VERSION_PATTERN
from sync.versions import is_older

RISING = [
    "0.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc9",
    "1.0.0-rc10",
    "1.0.0",
    "1.0.1",
    "1.2",
    "1.10",
    "2~rc1",
    "2",
    "2.0.1",
    "2026.11.23",
]

versions = st.from_regex(VERSION_PATTERN, fullmatch=True)


@pytest.mark.parametrize(("older", "newer"), list(pairwise(RISING)))
def test_versions_rise_as_people_count_them(older: str, newer: str) -> None:
    assert is_older(older, newer)
    assert not is_older(newer, older)


@pytest.mark.parametrize(("one", "other"), [("1.0", "1"), ("1.0.0+a", "1.0.0+b"), ("1", "1")])
def test_versions_that_differ_in_nothing_that_counts_are_as_old(one: str, other: str) -> None:
    assert not is_older(one, other)
    assert not is_older(other, one)


@given(versions, versions, versions)
def test_it_is_an_order(one: str, two: str, three: str) -> None:
    assert not is_older(one, one)
    assert not (is_older(one, two) and is_older(two, one))
    if is_older(one, two) and is_older(two, three):
        assert is_older(one, three)
