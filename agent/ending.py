"""How an install ends: what went wrong on the way, the worst of it.

Owns the second small machine of an install. The first (`agent.install`) says what is done next;
this one says what has become of it, and only ever gets worse. Pure: no files, no clock.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from agent.install import State


class Ending(StrEnum):
    """What has become of an install. Values are stored on devices; never reuse one."""

    NO_FAILURE = ""
    """Nothing has gone wrong."""
    FAILED = "failed"
    """It was given up before the switch was thrown; what ran was not touched."""
    ROLLED_BACK = "rolled-back"
    """The switch was thrown and thrown back; what ran before runs again."""
    ROLLBACK_FAILED = "rollback-failed"
    """The way back failed; what was switched to, or nothing, runs."""
    INCONSISTENT = "inconsistent"
    """Parts of both are there."""


class Mishap(StrEnum):
    """What can go wrong."""

    GIVEN_UP = "given up before the switch"
    WENT_BACK = "went back"
    NO_WAY_BACK = "could not go back"
    MIXED = "parts of two releases"


ENDINGS: Mapping[Ending, Mapping[Mishap, Ending]] = MappingProxyType(
    {
        Ending.NO_FAILURE: {
            Mishap.GIVEN_UP: Ending.FAILED,
            Mishap.WENT_BACK: Ending.ROLLED_BACK,
            Mishap.NO_WAY_BACK: Ending.ROLLBACK_FAILED,
            Mishap.MIXED: Ending.INCONSISTENT,
        },
        Ending.FAILED: {Mishap.MIXED: Ending.INCONSISTENT},
        Ending.ROLLED_BACK: {
            Mishap.NO_WAY_BACK: Ending.ROLLBACK_FAILED,
            Mishap.MIXED: Ending.INCONSISTENT,
        },
        Ending.ROLLBACK_FAILED: {Mishap.MIXED: Ending.INCONSISTENT},
        Ending.INCONSISTENT: {},
    }
)
"""What each mishap makes of an ending. One that is not named makes nothing worse."""

MISHAPS: Mapping[State, Mishap] = MappingProxyType(
    {
        State.FAILED: Mishap.GIVEN_UP,
        State.ROLLED_BACK: Mishap.WENT_BACK,
        State.STUCK: Mishap.NO_WAY_BACK,
    }
)
"""The states of an install that are a mishap."""


def worsened(ending: Ending, mishap: Mishap) -> Ending:
    """Return what has become of an install after one mishap more."""
    return ENDINGS[ending].get(mishap, ending)


def reached(ending: Ending, state: State) -> Ending:
    """Return what has become of an install that has come to `state`."""
    mishap = MISHAPS.get(state)
    return ending if mishap is None else worsened(ending, mishap)


def stored_ending(name: str) -> Ending:
    """Return the ending stored as `name`; a name that only a newer program knows is the worst."""
    try:
        return Ending(name)
    except ValueError:
        return Ending.INCONSISTENT
