"""What the device says about orders and leases: that it holds to them.

Owns which records of `q/` are due. Pure; says only what is so at that moment.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from agent.deciding import Held, has_ended
from agent.kills import DEPLOYMENT, FLAG
from sync.records import Kill, Obeyed
from sync.stages import Stage, is_final
from sync.stamps import Stamp


class How(StrEnum):
    """By what the device came to hold to the safe side. Stored; never reuse one."""

    ORDER = "order"
    LEASE = "lease"
    BACK = "back"
    """The order was taken back, or the hub was heard again."""


STAYS = "committed before the order came: it stays"

Saying = tuple[int, How, str]
"""Clock, how, detail."""

_ENDS: Mapping[Stage, str] = {
    Stage.ACKNOWLEDGED: STAYS,
    Stage.ROLLED_BACK: "rolled back",
    Stage.CANCELLED: "cancelled before it was tried",
}


def due(
    orders: Mapping[str, Kill],
    flags: Mapping[str, Held],
    silent_ms: int,
    *,
    stages: Callable[[str], set[Stage]],
    told: Mapping[str, Obeyed],
    now: Stamp,
) -> dict[str, Obeyed]:
    """Return what is to be told anew, by what it is about.

    Args:
        orders: Every order that counts.
        flags: Every flag that the device holds.
        silent_ms: How long the hub has been silent.
        stages: What is acknowledged of a deployment.
        told: What was told before.
        now: This moment.
    """
    found = _safe_side(orders, flags, silent_ms, stages)
    for what, record in told.items():
        if what not in found and (back := _back(what, record, orders, flags)) is not None:
            found[what] = back
    return {
        what: Obeyed(now.boot, now.boottime_ms, now.wall_ms, int(now.sync), clock, how, detail)
        for what, (clock, how, detail) in found.items()
        if what not in told or (told[what].clock, told[what].how) != (clock, how)
    }


def _safe_side(
    orders: Mapping[str, Kill],
    flags: Mapping[str, Held],
    silent_ms: int,
    stages: Callable[[str], set[Stage]],
) -> dict[str, Saying]:
    """Return what is off now; an order goes before a lease."""
    found: dict[str, Saying] = {}
    for key, flag in flags.items():
        if flag.definition is not None and has_ended(flag.definition, silent_ms):
            found[FLAG + key] = (flag.clock, How.LEASE, "")
    for what, kill in orders.items():
        if not kill.is_killed:
            continue
        detail: str | None = ""
        if what.startswith(DEPLOYMENT):
            detail = _end(stages(what[len(DEPLOYMENT) :]))
        if detail is not None:
            found[what] = (kill.clock, How.ORDER, detail)
    return found


def _back(
    what: str, record: Obeyed, orders: Mapping[str, Kill], flags: Mapping[str, Held]
) -> Saying | None:
    """Return that something is no longer off, None if that was said or cannot be known."""
    order = orders.get(what)
    if record.how == How.ORDER and order is not None and not order.is_killed:
        return (order.clock, How.BACK, "")
    if record.how == How.LEASE:
        flag = flags.get(what.removeprefix(FLAG))
        clock = record.clock if flag is None else flag.clock
        return (clock, How.BACK, "the lease runs again")
    return None


def _end(stages: set[Stage]) -> str | None:
    """Return how a killed deployment has ended here; None if it has not, or is not meant for us."""
    for stage, words in _ENDS.items():
        if stage in stages:
            return words
    ended = next((stage for stage in sorted(stages) if is_final(stage)), None)
    return None if ended is None else f"it had ended already: {ended.value}"
