"""The install state machine: what may follow what, and what a power cut means.

This module decides and does nothing else: no files, no clock, no processes.
`agent.installer` performs each act and makes the new state durable *before* it, so after any crash
the stored state names the act that may be half done, and `RESUME` says where to go from there.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where an install stands. Values are stored on devices; never reuse one."""

    FETCHING = "fetching"
    """Manifest and artifacts are being brought here."""
    STAGING = "staging"
    """The release is being laid down beside the one that runs."""
    ACTIVATING = "activating"
    """The switch is being thrown."""
    TRIAL = "trial"
    """The release runs and must prove itself."""
    COMMITTING = "committing"
    """It proved itself; the old one is being let go."""
    ROLLING_BACK = "rolling-back"
    """The switch is being thrown back."""
    COMMITTED = "committed"
    """Done: the release runs."""
    ROLLED_BACK = "rolled-back"
    """Done: the old release runs again."""
    FAILED = "failed"
    """Done: given up before the switch was thrown; the old release was never touched."""
    STUCK = "stuck"
    """Done: the way back failed too; a person has to look."""
    WITHDRAWN = "withdrawn"
    """Done: superseded, cancelled or expired before the switch was thrown."""


class Event(StrEnum):
    """What can happen to an install."""

    FETCHED = "fetched"
    STAGED = "staged"
    ACTIVATED = "activated"
    PROVEN = "proven"
    COMMIT_DONE = "commit done"
    FAILED = "failed"
    RETURNED = "returned"
    WITHDRAWN = "withdrawn"


TRANSITIONS: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.FETCHING: {
            Event.FETCHED: State.STAGING,
            Event.FAILED: State.FAILED,
            Event.WITHDRAWN: State.WITHDRAWN,
        },
        State.STAGING: {
            Event.STAGED: State.ACTIVATING,
            Event.FAILED: State.FAILED,
            Event.WITHDRAWN: State.WITHDRAWN,
        },
        # From here on the switch may have been thrown, so every failure leads back.
        State.ACTIVATING: {Event.ACTIVATED: State.TRIAL, Event.FAILED: State.ROLLING_BACK},
        State.TRIAL: {Event.PROVEN: State.COMMITTING, Event.FAILED: State.ROLLING_BACK},
        # A commit only clears away; the release has proven itself, so it can not fail any more.
        State.COMMITTING: {Event.COMMIT_DONE: State.COMMITTED},
        State.ROLLING_BACK: {Event.RETURNED: State.ROLLED_BACK, Event.FAILED: State.STUCK},
        State.COMMITTED: {},
        State.ROLLED_BACK: {},
        State.FAILED: {},
        State.STUCK: {},
        State.WITHDRAWN: {},
    }
)

# Read after a restart. Up to STAGING nothing that runs was touched, so doing it again is safe.
# From ACTIVATING and TRIAL on the switch is thrown (again, which is harmless) and the application
# restarted, because the power cut stopped it; whether the release is good is decided by a new
# trial alone. What makes the device itself fall over
# again and again is stopped by the count of attempts (`exhausted`).
RESUME: Mapping[State, State] = MappingProxyType(
    {state: state for state in State} | {State.TRIAL: State.ACTIVATING}
)

DONE = frozenset(state for state, events in TRANSITIONS.items() if not events)

UNTOUCHED = frozenset({State.FETCHING, State.STAGING})
"""States in which what runs has not been touched: an install can still be withdrawn."""


class IllegalEvent(ValueError):
    """The event cannot happen in this state: a fault of the program. The state is unchanged."""


def after(state: State, event: Event) -> State:
    """Return the state that follows.

    Raises:
        IllegalEvent: `event` has no place in `state`.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalEvent(f"{event.value!r} cannot follow in state {state.value!r}") from None


def exhausted(state: State, attempts: int, attempts_max: int) -> State:
    """Return where an install goes on after a restart, given how often it was begun or resumed.

    The count is stored before each try, so that an install which takes the device down every time
    ends, by going back if it got as far as the switch.
    """
    resumed = RESUME[state]
    if resumed in DONE or attempts < attempts_max:
        return resumed
    if resumed in UNTOUCHED:
        return State.FAILED
    return resumed if resumed in (State.COMMITTING, State.ROLLING_BACK) else State.ROLLING_BACK
