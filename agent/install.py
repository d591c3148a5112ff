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
    REBOOTING = "rebooting"
    """The switch is thrown, and the device has to start anew for it to count."""
    TRIAL = "trial"
    """The release runs and must prove itself."""
    COMMITTING = "committing"
    """It proved itself; the old one is being let go."""
    ROLLING_BACK = "rolling-back"
    """The switch is being thrown back."""
    RETURNING = "returning"
    """The switch is thrown back, and the device has to start anew for it to count."""
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
    PUT_OFF = "put off"
    """The installer asks for time before it has switched anything."""
    ACTIVATED = "activated"
    REBOOT_NEEDED = "reboot needed"
    REBOOTED = "rebooted"
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
        # From here on the switch may have been thrown, so every failure leads back. `PUT_OFF` is
        # said only where it certainly was not: see `may_put_off`.
        State.ACTIVATING: {
            Event.PUT_OFF: State.STAGING,
            Event.ACTIVATED: State.TRIAL,
            Event.REBOOT_NEEDED: State.REBOOTING,
            Event.FAILED: State.ROLLING_BACK,
        },
        State.REBOOTING: {Event.REBOOTED: State.TRIAL, Event.FAILED: State.ROLLING_BACK},
        State.TRIAL: {Event.PROVEN: State.COMMITTING, Event.FAILED: State.ROLLING_BACK},
        # A commit only clears away, and the release has proven itself. It fails in one case alone:
        # the device has started what ran before, because the power went before the commit.
        State.COMMITTING: {Event.COMMIT_DONE: State.COMMITTED, Event.FAILED: State.ROLLING_BACK},
        State.ROLLING_BACK: {
            Event.RETURNED: State.ROLLED_BACK,
            Event.REBOOT_NEEDED: State.RETURNING,
            Event.FAILED: State.STUCK,
        },
        State.RETURNING: {Event.REBOOTED: State.ROLLED_BACK, Event.FAILED: State.STUCK},
        State.COMMITTED: {},
        State.ROLLED_BACK: {},
        State.FAILED: {},
        State.STUCK: {},
        State.WITHDRAWN: {},
    }
)

# Read after a restart. Up to STAGING nothing that runs was touched, so doing it again is safe.
# ACTIVATING throws the switch again, which is harmless. TRIAL begins with it too, because the power
# cut stopped the application as well; whether the release is good is decided by a new trial alone.
# REBOOTING and RETURNING look whether this is another boot before they reboot. What takes the
# device itself down again and again is stopped by counts (`exhausted`, `loops`).
RESUME: Mapping[State, State] = MappingProxyType(
    {
        State.FETCHING: State.FETCHING,
        State.STAGING: State.STAGING,
        State.ACTIVATING: State.ACTIVATING,
        State.REBOOTING: State.REBOOTING,
        State.TRIAL: State.ACTIVATING,
        State.COMMITTING: State.COMMITTING,
        State.ROLLING_BACK: State.ROLLING_BACK,
        State.RETURNING: State.RETURNING,
        State.COMMITTED: State.COMMITTED,
        State.ROLLED_BACK: State.ROLLED_BACK,
        State.FAILED: State.FAILED,
        State.STUCK: State.STUCK,
        State.WITHDRAWN: State.WITHDRAWN,
    }
)

GIVEN_UP: Mapping[State, State] = MappingProxyType(
    {
        State.FETCHING: State.FAILED,
        State.STAGING: State.FAILED,
        State.ACTIVATING: State.ROLLING_BACK,
        State.REBOOTING: State.ROLLING_BACK,
        State.TRIAL: State.ROLLING_BACK,
    }
)
"""Where an install goes that was begun or taken up too often."""

LET_GO: Mapping[State, State] = MappingProxyType(
    {
        State.COMMITTING: State.COMMITTED,
        State.ROLLING_BACK: State.STUCK,
        State.RETURNING: State.STUCK,
    }
)
"""The same of the states that are not given up so soon: they are the way out."""

TRIED: frozenset[State] = frozenset({State.REBOOTING, State.TRIAL})
"""States in which a start of the device is one of the release's own."""

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
    ends: by going back if it got as far as the switch, and as it is if going back does so too.
    """
    resumed = RESUME[state]
    if attempts >= 2 * attempts_max:
        resumed = LET_GO.get(resumed, resumed)
    if attempts >= attempts_max:
        resumed = GIVEN_UP.get(resumed, resumed)
    return resumed


def settled(state: State, *, runs: bool) -> State:
    """Return how an install that was let go has ended, given whether its release runs."""
    return State.STUCK if state is State.COMMITTED and not runs else state


def may_put_off(state: State, writes: int) -> bool:
    """Tell whether an installer that asks for time has certainly switched nothing.

    Args:
        state: Of the install.
        writes: How often its journal was written since the switch may have been thrown: once if
            this is the first try, without a restart in between.
    """
    return state is State.ACTIVATING and writes <= 1


def loops(state: State, boots: int, boots_max: int) -> bool:
    """Tell whether the device has started too often while the release was tried.

    Args:
        state: As it was stored.
        boots: How many starts of the device there have been since the switch was thrown.
        boots_max: How many there may be.
    """
    return state in TRIED and boots > boots_max


# How states are called on disk, apart from how the code calls them: a stored name is for ever.
STORED: Mapping[State, str] = MappingProxyType({state: state.value for state in State})
RETIRED: Mapping[str, State] = MappingProxyType({})
"""Names that earlier programs stored, and what they mean today."""

_BY_NAME = {name: state for state, name in STORED.items()} | dict(RETIRED)


def stored_state(name: str) -> State:
    """Return the state stored as `name`.

    A name that only a newer program can know means: go back. That changes nothing where the switch
    was not thrown.
    """
    return _BY_NAME.get(name, State.ROLLING_BACK)
