from itertools import product

import pytest

from agent.install import (
    DONE,
    RESUME,
    TRANSITIONS,
    UNTOUCHED,
    Event,
    IllegalEvent,
    State,
    after,
    exhausted,
)
from agent.journal import Journal, decode, encode
from agent.why import DOING

ATTEMPTS_MAX = 3
ALL = list(State)


@pytest.mark.parametrize("state", ALL)
def test_every_state_says_what_may_follow_and_where_a_power_cut_leads(state: State) -> None:
    assert state in TRANSITIONS
    assert state in RESUME


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_an_event_leads_where_the_table_says_or_is_refused(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert after(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalEvent, match=event.value):
            after(state, event)


@pytest.mark.parametrize("state", [state for state in State if state not in DONE])
def test_every_install_can_come_to_an_end(state: State) -> None:
    reached, ahead = {state}, [state]
    while ahead:
        for following in TRANSITIONS[ahead.pop()].values():
            if following not in reached:
                reached.add(following)
                ahead.append(following)
    assert reached & DONE


@pytest.mark.parametrize("state", sorted(UNTOUCHED))
def test_before_the_switch_a_failure_or_withdrawal_ends_the_install_at_once(state: State) -> None:
    assert after(state, Event.FAILED) is State.FAILED
    assert after(state, Event.WITHDRAWN) is State.WITHDRAWN


@pytest.mark.parametrize("state", [State.ACTIVATING, State.TRIAL])
def test_once_the_switch_may_have_been_thrown_every_failure_leads_back(state: State) -> None:
    assert after(state, Event.FAILED) is State.ROLLING_BACK
    with pytest.raises(IllegalEvent):
        after(state, Event.WITHDRAWN)


def test_a_power_cut_in_the_trial_throws_the_switch_and_tries_again() -> None:
    assert RESUME[State.TRIAL] is State.ACTIVATING


@pytest.mark.parametrize("state", sorted(DONE))
def test_what_has_ended_stays_ended_however_often_the_device_starts(state: State) -> None:
    for attempts in (0, ATTEMPTS_MAX, 10 * ATTEMPTS_MAX):
        assert exhausted(state, attempts, ATTEMPTS_MAX) is state


@pytest.mark.parametrize("state", [state for state in State if state not in DONE])
def test_with_attempts_left_an_install_goes_on_where_a_power_cut_leads(state: State) -> None:
    assert exhausted(state, ATTEMPTS_MAX - 1, ATTEMPTS_MAX) is RESUME[state]


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (State.FETCHING, State.FAILED),
        (State.STAGING, State.FAILED),
        (State.ACTIVATING, State.ROLLING_BACK),
        (State.TRIAL, State.ROLLING_BACK),
        (State.COMMITTING, State.COMMITTING),
        (State.ROLLING_BACK, State.ROLLING_BACK),
    ],
)
def test_without_attempts_left_an_install_is_given_up_in_the_way_its_state_allows(
    state: State, end: State
) -> None:
    assert exhausted(state, ATTEMPTS_MAX, ATTEMPTS_MAX) is end


def test_a_journal_comes_back_as_it_was_stored() -> None:
    journal = Journal("done", "lamp", "1.0", bytes(32), b"{}", "trial", 2, "reason", "detail")

    assert decode(encode(journal)) == journal
    assert journal.at is State.TRIAL


def test_a_journal_in_a_state_that_this_program_does_not_know_means_go_back() -> None:
    journal = Journal("done", "lamp", "1.0", bytes(32), b"{}", "from-the-future")

    assert journal.at is State.ROLLING_BACK


@pytest.mark.parametrize("stored", [b"", b"\xc1", b"\x93\x01\x02\x03", b"x" * 100])
def test_a_journal_that_cannot_be_read_is_none(stored: bytes) -> None:
    assert decode(stored) is None


def test_every_state_that_is_not_an_end_can_be_told_in_words() -> None:
    assert set(DOING) == set(State) - DONE
