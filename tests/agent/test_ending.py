from itertools import product

import pytest

from agent.ending import ENDINGS, Ending, Mishap, reached, stored_ending, worsened
from agent.install import State

WORSE = list(Ending)
"""From the best to the worst."""


@pytest.mark.parametrize(("ending", "mishap"), list(product(Ending, Mishap)))
def test_an_ending_only_gets_worse(ending: Ending, mishap: Mishap) -> None:
    assert WORSE.index(worsened(ending, mishap)) >= WORSE.index(ending)


def test_every_ending_says_what_makes_it_worse_and_can_come_about() -> None:
    assert set(ENDINGS) == set(Ending)
    assert {after for table in ENDINGS.values() for after in table.values()} == set(Ending) - {
        Ending.NO_FAILURE
    }


@pytest.mark.parametrize(
    ("state", "ending"),
    [
        (State.COMMITTED, Ending.NO_FAILURE),
        (State.TRIAL, Ending.NO_FAILURE),
        (State.FAILED, Ending.FAILED),
        (State.ROLLED_BACK, Ending.ROLLED_BACK),
        (State.STUCK, Ending.ROLLBACK_FAILED),
    ],
)
def test_a_state_that_is_a_mishap_is_an_ending(state: State, ending: Ending) -> None:
    assert reached(Ending.NO_FAILURE, state) is ending


def test_parts_of_two_releases_are_the_worst_whatever_comes_after() -> None:
    for state in State:
        assert reached(Ending.INCONSISTENT, state) is Ending.INCONSISTENT


def test_an_ending_that_only_a_newer_program_knows_is_taken_for_the_worst() -> None:
    assert stored_ending("exploded") is Ending.INCONSISTENT
    assert [stored_ending(each.value) for each in Ending] == list(Ending)


def test_stored_names_are_the_ones_that_devices_have_on_disk() -> None:
    assert [each.value for each in Ending] == [
        "",
        "failed",
        "rolled-back",
        "rollback-failed",
        "inconsistent",
    ]
