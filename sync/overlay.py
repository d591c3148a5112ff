"""The effective value of a setting when an application on the device and an operator both decide.

Owns one pure rule: policy first, then the hybrid logical clock, then the writer. Both sides keep
their own record, so nothing is overwritten; where neither knew of the other's, that is a conflict,
and it is reported, whoever prevails.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sync.records import Desired, Local


class Policy(StrEnum):
    """Who prevails when both sides have set a value. Values are stored; never reuse one."""

    LATEST = "latest"
    OPERATOR = "operator"
    LOCAL = "local"


class Winner(StrEnum):
    """Whose value is effective. Values are stored; never reuse one."""

    NOBODY = ""
    LOCAL = "local"
    DESIRED = "desired"


@dataclass(frozen=True, slots=True)
class Effective:
    """What counts for one setting on one device."""

    value: str | None
    """JSON text; None if nobody has set it."""
    winner: Winner
    conflict: bool
    """Both sides set different values and neither had seen the other's."""


def latest(wishes: Iterable[Desired | None]) -> Desired | None:
    """Return the operator's wish that counts among those for the groups and for the device.

    A wish that was taken back counts only where no other stands: taking back the group's must not
    take away the device's.
    """
    known = [wish for wish in wishes if wish is not None]
    return max(
        known, key=lambda wish: (wish.value is not None, wish.clock, wish.writer), default=None
    )


def effective(local: Local | None, desired: Desired | None) -> Effective:
    """Return what counts, given what each side last wrote (None: never wrote)."""
    has_local = local is not None and local.value is not None
    has_desired = desired is not None and desired.value is not None
    if local is None or not has_local:
        value = desired.value if desired is not None else None
        return Effective(value, Winner.DESIRED if has_desired else Winner.NOBODY, conflict=False)
    if desired is None or not has_desired:
        return Effective(local.value, Winner.LOCAL, conflict=False)
    conflict = (
        local.value != desired.value and local.saw != desired.clock and desired.saw != local.clock
    )
    if _operator_prevails(local, desired):
        return Effective(desired.value, Winner.DESIRED, conflict)
    return Effective(local.value, Winner.LOCAL, conflict)


def _operator_prevails(local: Local, desired: Desired) -> bool:
    if desired.policy == Policy.OPERATOR:
        return True
    if desired.policy == Policy.LOCAL:
        return False
    # Who wrote knowing the other's value wrote later, whatever the clocks say.
    if desired.saw == local.clock:
        return True
    if local.saw == desired.clock:
        return False
    return (desired.clock, desired.writer) > (local.clock, local.writer)
