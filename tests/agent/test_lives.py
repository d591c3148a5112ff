from typing import NamedTuple

import pytest

from agent.lives import Tally, is_too_much, may_take_packs, spared, taken_up

DEATHS_MAX = 5


class Life(NamedTuple):
    """How one life of the agent began, and how it ended."""

    here_bytes: int
    is_spared: bool = False
    """It ended in order, or waited for a hub out of reach."""


def given_up_at(lives: list[Life]) -> int | None:
    """Return in which life the fetching is given up, None if in none of them."""
    tally = Tally()
    for number, life in enumerate(lives):
        tally = taken_up(tally, life.here_bytes)
        if is_too_much(tally, DEATHS_MAX):
            return number
        if life.is_spared:
            tally = spared(tally)
    return None


IN_ORDER = Life(0, is_spared=True)


@pytest.mark.parametrize(
    ("lives", "end"),
    [
        ([Life(0)] * DEATHS_MAX, None),
        ([Life(0)] * 50, DEATHS_MAX),
        ([Life(700)] * 50, DEATHS_MAX),
        ([IN_ORDER] * 500, None),
        ([Life(n) for n in range(500)], None),
        ([Life(n // DEATHS_MAX) for n in range(500)], None),
        ([Life(n // (DEATHS_MAX + 1)) for n in range(500)], DEATHS_MAX),
        ([Life(0), IN_ORDER] * 50, 2 * DEATHS_MAX - 1),
        ([Life(0)] * 4 + [Life(1)] * 50, 4 + DEATHS_MAX),
        ([Life(900), Life(0), Life(500), Life(900), Life(100)] * 9, DEATHS_MAX),
        ([Life(0), Life(900)] + [Life(0), Life(901), Life(1000)] * 20, 4 + DEATHS_MAX),
    ],
    ids=[
        "as many deaths as may be",
        "one death more",
        "what was here before it began is no progress",
        "switched off in order, or with the hub out of reach, every evening",
        "the plug pulled every evening, with some progress each day",
        "progress just often enough",
        "progress too seldom",
        "deaths between orderly ends are added up",
        "progress takes back what was counted",
        "to come back to what was here before is no progress",
        "nor is it in a circle that once led higher",
    ],
)
def test_fetching_is_given_up_when_the_agent_died_too_often_and_nothing_more_came(
    lives: list[Life], end: int | None
) -> None:
    assert given_up_at(lives) == end


def test_a_release_comes_whole_after_a_few_deaths_and_by_packs_again_after_progress() -> None:
    tally = Tally()
    packs = []
    for here_bytes in (0, 0, 0, 0, 8):
        tally = taken_up(tally, here_bytes)
        packs.append(may_take_packs(tally))
    assert packs == [True, True, True, False, True]


def test_no_more_is_spared_than_was_counted() -> None:
    assert spared(Tally(0, 7)) == Tally(0, 7)
