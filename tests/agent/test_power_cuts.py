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
    settled,
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
    reboots: bool = False
    """Whether the switch counts only after a reboot, once, until it is committed."""
    armed: bool = False
    """Whether the next start is to try the new release."""
    kept: bool = False
    """Whether every start is one of the new release."""
    is_first: bool = False
    """Whether the switch was not thrown before: `may_put_off`."""


def can_happen(device: Device, event: Event) -> bool:
    """Tell whether an act can end so: what needs a reboot is seen only after it."""
    state, runs_new = device.state, device.runs_new
    if event is Event.PUT_OFF:
        return device.is_first
    if event is Event.REBOOT_NEEDED:
        return device.reboots and runs_new is (state is State.ROLLING_BACK)
    if event is Event.FAILED and state is State.COMMITTING:
        return device.reboots and not runs_new
    if not device.reboots:
        return True
    wanted = {
        Event.ACTIVATED: True,
        Event.PROVEN: True,
        Event.COMMIT_DONE: True,
        Event.REBOOTED: state is State.REBOOTING,
        Event.RETURNED: False,
    }
    return runs_new is wanted.get(event, runs_new)


def happened(device: Device, event: Event) -> Device:
    """Return the device after an act ended with `event`."""
    then = device._replace(state=after(device.state, event), is_first=event is Event.STAGED)
    if event is Event.ACTIVATED:
        then = then._replace(runs_new=True)
    if event is Event.REBOOT_NEEDED:
        then = then._replace(armed=device.state is State.ACTIVATING, kept=False)
    if event is Event.PROVEN:
        then = then._replace(proven=True)
    if event is Event.COMMIT_DONE:
        then = then._replace(kept=True)
    if event is Event.RETURNED:
        then = then._replace(runs_new=False, armed=False, kept=False)
    return then


def cut(device: Device) -> set[Device]:
    """Return how the device may come up after the power was cut in the middle of an act."""
    after_this = taken_up(device, device.attempts)
    if device.state in (State.REBOOTING, State.RETURNING):
        # Was it ordered, then it is no try of its own. How often that may be is counted apart.
        after_this |= taken_up(device, device.attempts - 1)
    return after_this


def taken_up(device: Device, attempts: int) -> set[Device]:
    """Return how a device may come up that has had so many tries."""
    state = exhausted(device.state, attempts, ATTEMPTS_MAX)
    tries = min(attempts + 1, 3 * ATTEMPTS_MAX)
    then = device._replace(state=state, attempts=tries, is_first=False)
    if device.reboots:
        return {
            then._replace(
                runs_new=runs_new, armed=False, kept=kept, state=settled(state, runs=runs_new)
            )
            for runs_new, kept in starts(device)
        }
    switched = {device.runs_new}
    if device.state is State.ACTIVATING:
        switched.add(True)
    if device.state is State.ROLLING_BACK:
        switched.add(False)
    return {then._replace(runs_new=runs_new) for runs_new in switched}


def starts(device: Device) -> set[tuple[bool, bool]]:
    """Return whether the new release may be booted, and whether it is for good."""
    armed, kept = {device.armed}, {device.kept}
    if device.state is State.ACTIVATING:
        armed.add(True)
    if device.state is State.COMMITTING and device.runs_new:
        kept.add(True)
    if device.state is State.ROLLING_BACK:
        armed.add(False)
        kept.add(False)
    return {
        (is_kept or is_tried, is_kept)
        for is_armed in armed
        for is_kept in kept
        for is_tried in ({False, True} if is_armed else {False})
    }


def next_devices(device: Device) -> set[Device]:
    """Return everything that can become of a device next."""
    events = (event for event in TRANSITIONS[device.state] if can_happen(device, event))
    return {happened(device, event) for event in events} | cut(device)


def every_device() -> set[Device]:
    """Return everything that can become of a device at all."""
    ahead = [Device(State.FETCHING), Device(State.FETCHING, reboots=True)]
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
        if device.state is State.COMMITTED and not (device.proven and device.runs_new):
            broken.add("only a release that runs and was proven is kept")
        if device.kept and not device.proven:
            broken.add("nothing is booted for good before it was proven")
        if device.state is State.ROLLED_BACK and (device.armed or device.kept):
            broken.add("what was gone back from is not booted any more")
        ends = (State.FAILED, State.ROLLED_BACK, State.WITHDRAWN)
        if device.state in ends and device.runs_new:
            broken.add("every other end leaves the old release running")
        trying = {State.ACTIVATING, State.REBOOTING, State.TRIAL}
        trying |= {State.ROLLING_BACK, State.RETURNING, State.STUCK}
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
        (State.REBOOTING, State.COMMITTED),
        (State.REBOOTING, State.FAILED),
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
            (device, *_) = taken_up(device, device.attempts)
        assert device.state in DONE, state


def test_every_state_that_is_not_an_end_is_left_when_it_was_tried_too_often() -> None:
    assert GIVEN_UP.keys() | LET_GO.keys() == set(State) - DONE
    assert GIVEN_UP.keys() & LET_GO.keys() == set()


def test_an_installer_that_asks_for_time_after_a_crash_may_have_switched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may = can_happen
    monkeypatch.setattr(
        f"{__name__}.can_happen",
        lambda device, event: event is Event.PUT_OFF or may(device, event),
    )

    assert broken_promises()


def test_an_install_moves_forward_only_but_where_the_installer_asks_for_time() -> None:
    def beyond(state: State) -> set[State]:
        following = {to for event, to in TRANSITIONS[state].items() if event is not Event.PUT_OFF}
        return following.union(*map(beyond, following))

    assert [state for state in State if state in beyond(state)] == []


def test_stored_names_are_the_ones_that_devices_have_on_disk() -> None:
    assert {stored_state(STORED[state]) for state in State} == set(State)
    assert set(STORED.values()) == {
        "fetching",
        "staging",
        "activating",
        "rebooting",
        "trial",
        "committing",
        "rolling-back",
        "returning",
        "committed",
        "rolled-back",
        "failed",
        "stuck",
        "withdrawn",
    }
