"""Presence: when the hub knows that a device had a session with the broker.

Owns the sum over a presence log. Never decides what an absence means (`silence`).

Rule: what is not known counts as absent, so that doubt never makes a device look silent. Whoever
keeps the log ends a presence at the last moment the hub itself was there to see it.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class PresenceChange:
    """One entry of the log: from `at_ms` (hub UTC) on, the device was or was not connected."""

    at_ms: int
    online: bool


def reachable_ms(changes: Iterable[PresenceChange], *, from_ms: int, to_ms: int) -> int:
    """Return for how much of a span of hub time a device is known to have been connected."""
    total_ms = 0
    online_from_ms: int | None = None
    for change in sorted(changes, key=lambda change: change.at_ms):
        if change.online and online_from_ms is None:
            online_from_ms = change.at_ms
        elif not change.online and online_from_ms is not None:
            total_ms += _overlap_ms(online_from_ms, change.at_ms, from_ms, to_ms)
            online_from_ms = None
    if online_from_ms is not None:
        total_ms += _overlap_ms(online_from_ms, to_ms, from_ms, to_ms)
    return total_ms


def online_at(changes: Iterable[PresenceChange], at_ms: int) -> bool:
    """Tell whether a device is known to have been connected at a moment of hub time."""
    latest: PresenceChange | None = None
    for change in changes:
        if change.at_ms <= at_ms and (latest is None or latest.at_ms <= change.at_ms):
            latest = change
    return latest is not None and latest.online


def _overlap_ms(a_ms: int, b_ms: int, from_ms: int, to_ms: int) -> int:
    return max(0, min(b_ms, to_ms) - max(a_ms, from_ms))
