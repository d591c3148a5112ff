"""What an operator is shown of kill orders: whom they reached, and how long that took.

Owns the shape of those answers, and when a device counts as safe. Only reads.

A device is safe if it said that it holds to the order; or if it said that its lease was over; or if
it has been away for longer than the lease, since it cannot have had a word meanwhile: it has fallen
back, or has had no power. Of everything else nothing is known.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from hub.anchors import contacts_in
from hub.errors import NotFound
from hub.outcomes import words
from hub.outcomes.durations import Span, State
from hub.outcomes.survival import summary
from hub.shown import shown
from hub.store import devices, kills
from hub.store.database import Connection
from hub.store.kills import Order, Target
from sync.contacts import DRIFT_PPM, Contacts, interval_of
from sync.stamps import ClockSync, Interval, Stamp, point

SHOWN_MAX: Final = 50


class Held(StrEnum):
    """How a device came to hold to an order."""

    REACHED = "reached"
    BY_LEASE = "by_lease"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fate:
    """What an order came to on one device."""

    held: Held
    took: Span
    """From the operator's request."""
    lease_ends_ms: int | None = None
    """When it will have fallen back at the latest, if it stays away."""


def fate_of(order: Order, target: Target, contacts: Contacts, now_ms: int) -> Fate:
    """Return what an order came to on one device.

    Args:
        order: The order.
        target: The device.
        contacts: What is known of its clock.
        now_ms: Hub UTC of the look.
    """
    if target.seen_ms is not None:
        return Fate(Held.REACHED, Span(State.ENDED, _took(order, target, contacts)))
    ends_ms = _lease_ends_ms(order, target)
    if order.is_killed and (target.is_stale or (ends_ms is not None and ends_ms <= now_ms)):
        until_ms = now_ms if ends_ms is None else min(ends_ms, now_ms)
        took = Interval(0, max(0, until_ms - order.requested_ms))
        return Fate(Held.BY_LEASE, Span(State.ENDED, took), ends_ms)
    lasted = Interval(max(0, now_ms - order.requested_ms), None)
    return Fate(Held.UNKNOWN, Span(State.OPEN, lasted), ends_ms)


def list_view(connection: Connection) -> list[dict[str, Any]]:
    """Return the order that counts of everything that ever was killed, latest first."""
    return [
        order_view(order) | {"targeted_count": targeted, "reached_count": reached}
        for order, targeted, reached in kills.every(connection)
    ]


def kill_view(connection: Connection, what: str, now_ms: int) -> dict[str, Any]:
    """Return what the order about something came to.

    Raises:
        NotFound: There never was one.
    """
    order = kills.latest(connection, what)
    if order is None:
        raise NotFound(f"{what[:80]} was never killed")
    targets = kills.targets(connection, order)
    known = devices.load_contacts(connection, [each.n for each in targets if each.seen_ms])
    fates = [
        (each, fate_of(order, each, contacts_in(known.get(each.n)), now_ms)) for each in targets
    ]
    counts = Counter(fate.held for _, fate in fates)
    unknown = [(each, fate) for each, fate in fates if fate.held is Held.UNKNOWN]
    details = Counter(shown(each.detail) for each in targets if each.detail)
    return order_view(order) | {
        "at_ms": now_ms,
        "sentence": sentence(order, [fate for _, fate in fates]),
        "targeted_count": len(targets),
        **{f"{held.value}_count": counts[held] for held in Held},
        "time_to_kill": _plain(summary([fate.took for _, fate in fates])),
        "details": [
            {"detail": detail, "devices_count": count} for detail, count in details.most_common()
        ],
        "unknown": [
            {
                "device": each.device,
                "online": each.is_online,
                "lease_ends_at_ms": fate.lease_ends_ms,
            }
            for each, fate in unknown[:SHOWN_MAX]
        ],
    }


def order_view(order: Order) -> dict[str, Any]:
    """Return an order."""
    return {
        "what": order.what,
        "is_killed": order.is_killed,
        "clock": order.clock,
        "groups": list(order.groups),
        "lease_s": order.lease_s,
        "requested_at_ms": order.requested_ms,
        "published_at_ms": order.published_ms,
        "who": order.who,
        "why": order.why,
    }


def sentence(order: Order, fates: Sequence[Fate]) -> str:
    """Return one sentence that says how far an order has come."""
    counts = Counter(fate.held for fate in fates)
    verb = "is off on" if order.is_killed else "is no longer killed on"
    known_count = len(fates) - counts[Held.UNKNOWN]
    text = f"{order.what} {verb} {known_count} of {words.devices(len(fates))}"
    if counts[Held.BY_LEASE]:
        text += f", {counts[Held.BY_LEASE]} of them by lease"
    if not counts[Held.UNKNOWN]:
        return text
    text += f"; {counts[Held.UNKNOWN]} unknown"
    ends = [fate.lease_ends_ms for fate in fates if fate.held is Held.UNKNOWN]
    if order.is_killed and all(ends):
        text += f", by lease until {words.moment(max(each for each in ends if each))}"
    return text


def _lease_ends_ms(order: Order, target: Target) -> int | None:
    """Return when the lease of a device that is away is over at the latest.

    What it heard last it heard while it was connected, so its lease runs since then at the latest.
    """
    if order.lease_s is None or target.is_online is not False or target.presence_ms is None:
        return None
    return target.presence_ms + order.lease_s * (1_000_000 + DRIFT_PPM) // 1000


def _took(order: Order, target: Target, contacts: Contacts) -> Interval:
    seen = point(target.seen_ms or 0)
    stamp = Stamp(
        target.boot or b"",
        target.boottime_ms or 0,
        target.wall_ms or 0,
        ClockSync(target.sync or 0),
    )
    held = interval_of(stamp, contacts, seen_at_ms=target.seen_ms)
    # Nobody obeys before the order was given.
    held = held.intersect(Interval(order.requested_ms, None)) or seen
    return held.minus(point(order.requested_ms)).clamp(lo_ms=0)


def _plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))
