"""What a flag comes to on this device: the one decision behind every road on which it is asked for.

Owns the order in which is asked what speaks against a flag. Pure, and also used in the processes of
applications (`agent.openfeature`), so that they come to what the agent comes to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sync.flags import BadFlag, FlagDefinition, Why, evaluate, parse_flag, safely

NO_VARIANT: Final = ""
"""Stands where a flag comes to none: the application's own default counts."""


@dataclass(frozen=True, slots=True)
class Held:
    """A flag as the device holds it."""

    definition: FlagDefinition | None
    """None if it cannot be read: a newer hub's, or a fault."""
    clock: int
    """Of the definition."""
    error: str = ""
    """Why it cannot be read."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a flag came to, and why."""

    value: Any
    """None if there is none to give: the application takes its own default."""
    variant: str
    reason: Why
    clock: int = 0
    """Of the definition; 0 if there is none."""
    detail: str = ""


def held(text: str, clock: int) -> Held:
    """Return a flag from its definition; one that cannot be read is held too, as that."""
    try:
        return Held(parse_flag(text), clock)
    except BadFlag as error:
        return Held(None, clock, str(error)[:200])


def decide(
    key: str,
    flag: Held | None,
    *,
    is_killed: bool,
    silent_ms: int,
    context: Mapping[str, Any],
    now_s: int | None = None,
) -> Decision:
    """Return what a flag comes to now.

    Args:
        key: Its name.
        flag: As the device holds it; None if there is none of this name.
        is_killed: Whether an order says that it is off. Nothing is asked before this.
        silent_ms: How long the hub has been silent.
        context: What its targeting may ask for.
        now_s: Seconds UTC, None if no time is believed.
    """
    clock = 0 if flag is None else flag.clock
    definition = None if flag is None else flag.definition
    if is_killed:
        if definition is None:
            return Decision(None, NO_VARIANT, Why.DISABLED, clock, "it is killed")
        return _as(definition, Why.DISABLED, clock, "it is killed")
    if flag is None:
        return Decision(None, NO_VARIANT, Why.DEFAULT, detail="there is no such flag")
    if definition is None:
        return Decision(None, NO_VARIANT, Why.ERROR, clock, flag.error)
    if definition.is_enabled and has_ended(definition, silent_ms):
        return _as(definition, Why.STALE, clock, "no word from the hub for as long as its lease")
    found = evaluate(key, definition, context, now_s)
    return Decision(found.value, found.variant, found.reason, clock)


def has_ended(definition: FlagDefinition, silent_ms: int) -> bool:
    """Tell whether the lease of a flag is over."""
    return 0 < 1000 * definition.lease_s <= silent_ms


def _as(definition: FlagDefinition, reason: Why, clock: int, detail: str) -> Decision:
    found = safely(definition, reason)
    return Decision(found.value, found.variant, found.reason, clock, detail)
