"""Power cuts at any time: every order of events and power cuts is walked through."""

from typing import NamedTuple

import pytest

from agent import install
from agent.install import (
    DONE,
    GIVEN_UP,
    LET_GO,
    RESUME,
    STORED,
    TRANSITIONS,
    Event,
    State,
    after,
    exhausted,
    stored_state,
)

ATTEMPTS_MAX = 3


class Device(NamedTuple):
    """What is stored, and what is so."""

    state: State
    attempts: int = 1
    runs_new: bool = False
    """Where the switch really stands."""
    proven: bool = False
    """Whether the new release has ever passed its trial."""


def happened(device: Device, event: Event) -> Device:
    """Return the device after an act ended with `event`."""
    runs_new, proven = device.runs_new, device.proven
    if event is Event.ACTIVATED:
        runs_new = True
    if event is Event.PROVEN:
        proven = True
    if event is Event.RETURNED:
        runs_new = False
    return Device(after(device.state, event), device.attempts, runs_new, proven)


def cut(device: Device) -> set[Device]:
    """Return how the device may come up after the power was cut in the middle of an act."""
    switched = {device.runs_new}
    if device.state is State.ACTIVATING:
        switched.add(True)
    if device.state is State.ROLLING_BACK:
        switched.add(False)
    state = exhausted(device.state, device.attempts, ATTEMPTS_MAX)
    attempts = min(device.attempts + 1, 3 * ATTEMPTS_MAX)
    return {Device(state, attempts, runs_new, device.proven) for runs_new in switched}


def next_devices(device: Device) -> set[Device]:
    """Return everything that can become of a device next."""
    return {happened(device, event) for event in TRANSITIONS[device.state]} | cut(device)


def every_device() -> set[Device]:
    """Return everything that can become of a device at all."""
    ahead = [Device(State.FETCHING)]
    found = set(ahead)
    while ahead:
        new = next_devices(ahead.pop()) - found
        found |= new
        ahead += new
    return found


def broken_promises() -> set[str]:
    """Return what the tables promise and do not keep."""
    broken = set()
    for device in every_device():
        if device.state in (State.COMMITTING, State.COMMITTED) and not (
            device.proven and device.runs_new
        ):
            broken.add("only a release that runs and was proven is kept")
        ends = (State.FAILED, State.ROLLED_BACK, State.WITHDRAWN)
        if device.state in ends and device.runs_new:
            broken.add("every other end leaves the old release running")
        trying = {State.ACTIVATING, State.TRIAL, State.ROLLING_BACK, State.STUCK}
        if device.runs_new and not device.proven and device.state not in trying:
            broken.add("nothing runs unproven without being on trial")
    return broken


def test_whatever_happens_in_whatever_order_every_promise_is_kept() -> None:
    assert {device.state for device in every_device()} == set(State)
    assert broken_promises() == set()


@pytest.mark.parametrize(
    ("state", "wrongly"),
    [
        (State.ACTIVATING, State.COMMITTED),
        (State.ACTIVATING, State.FAILED),
        (State.ACTIVATING, State.STAGING),
        (State.TRIAL, State.COMMITTING),
        (State.TRIAL, State.FETCHING),
        (State.COMMITTING, State.FAILED),
        (State.ROLLING_BACK, State.ROLLED_BACK),
        (State.ROLLING_BACK, State.COMMITTED),
    ],
)
def test_one_wrong_answer_to_a_power_cut_breaks_a_promise(
    state: State, wrongly: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "RESUME", {**RESUME, state: wrongly})

    assert broken_promises()


def test_an_install_that_takes_the_device_down_for_ever_comes_to_an_end() -> None:
    for state in set(State) - DONE:
        device = Device(state)
        for _ in range(3 * ATTEMPTS_MAX):
            (device, *_) = cut(device)
        assert device.state in DONE, state


def test_every_state_that_is_not_an_end_is_left_when_it_was_tried_too_often() -> None:
    assert GIVEN_UP.keys() | LET_GO.keys() == set(State) - DONE
    assert GIVEN_UP.keys() & LET_GO.keys() == set()


def test_an_install_moves_forward_only() -> None:
    def beyond(state: State) -> set[State]:
        following = set(TRANSITIONS[state].values())
        return following.union(*map(beyond, following))

    assert [state for state in State if state in beyond(state)] == []


def test_stored_names_are_the_ones_that_devices_have_on_disk() -> None:
    assert {stored_state(STORED[state]) for state in State} == set(State)
    assert set(STORED.values()) == {
        "fetching",
        "staging",
        "activating",
        "trial",
        "committing",
        "rolling-back",
        "committed",
        "rolled-back",
        "failed",
        "stuck",
        "withdrawn",
    }
