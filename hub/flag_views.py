"""What an operator is shown of flags: how they stand, what devices made of them, who reads them.

Owns the shape of those answers, and when a flag counts as read no more. Only reads.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

from hub import cohorts
from hub.anchors import contacts_in
from hub.errors import NotFound
from hub.flags import Standing, read
from hub.shown import shown
from hub.store import devices, queries
from hub.store import flags as store
from hub.store.database import Connection
from hub.store.flags import Read, Step
from sync.contacts import Contacts
from sync.hlc import COUNTER_BITS

SETTLED_MS: Final = 600_000
"""A device that has been up for so long without reading a flag reads it no more. Applications read
theirs when they start; the device says so when it does."""

TAIL_SHOWN: Final = 50
STEPS_SHOWN: Final = 20


def list_view(connection: Connection, now_ms: int) -> list[dict[str, Any]]:
    """Return every flag that is defined in a group."""
    found = []
    for flag, group, value in store.defined(connection):
        held = read(flag, value)
        if held is not None:
            found.append(standing_view(connection, flag, group, held, now_ms))
    return found


def standing_view(
    connection: Connection, flag: str, group: str, held: Standing, now_ms: int
) -> dict[str, Any]:
    """Return one flag as it stands in a group."""
    definition = held.definition
    dealt = cohorts.weight_in(definition.targeting)
    latest = next(iter(store.steps(connection, flag, group, 1)), None)
    return {
        "flag": flag,
        "group": group,
        "definition": held.raw(),
        "clock": held.clock,
        "defined_at_ms": held.clock >> COUNTER_BITS,
        "who": held.who,
        "owner": definition.owner,
        "cleanup": definition.cleanup,
        "expires": definition.expires.isoformat(),
        "is_expired": is_over(definition.expires, now_ms),
        "dealt_variant": dealt[0] if dealt else None,
        "dealt_ratio": dealt[1] / cohorts.TOTAL if dealt else None,
        "share": latest.share if latest else None,
        "dealt_count": store.count_cohort(connection, flag, group),
        "eligible_count": latest.eligible_count if latest else 0,
    }


def flag_view(connection: Connection, flag: str, now_ms: int) -> dict[str, Any]:
    """Return everything that is known of one flag.

    Raises:
        NotFound: It is not defined anywhere, and no device has read it.
    """
    groups = []
    for _, group, value in store.defined(connection, flag):
        held = read(flag, value)
        if held is not None:
            groups.append(
                standing_view(connection, flag, group, held, now_ms)
                | {
                    "cohort": [
                        {"device": device, "variant": variant, "since_at_ms": since_ms}
                        for device, variant, since_ms in store.cohort(connection, flag, group)
                    ],
                    "steps": [
                        step_view(step)
                        for step in store.steps(connection, flag, group, STEPS_SHOWN)
                    ],
                }
            )
    tail = still_reading(connection, flag)
    exposures = store.exposed(connection, flag)
    if not groups and not exposures:
        raise NotFound(f"no flag {flag[:64]!r} is defined, and no device has read one")
    return {
        "flag": flag,
        "groups": groups,
        "exposures": [
            {
                "variant": shown(variant),
                "reason": shown(reason),
                "reader": shown(reader),
                "devices_count": count,
            }
            for variant, reason, reader, count, _ in exposures
        ],
        "several_variants_count": sum(mixed for *_, mixed in exposures),
        "reading_count": len(tail),
        "reading": [reading_view(each) for each in tail[:TAIL_SHOWN]],
        "is_safe_to_delete": not tail,
    }


def step_view(step: Step) -> dict[str, Any]:
    """Return one change of a flag."""
    return {
        "flag": step.flag,
        "group": step.group,
        "action": step.action,
        "variant": step.variant or None,
        "share": step.share,
        "weight": step.weight,
        "dealt_count": step.dealt_count,
        "eligible_count": step.eligible_count,
        "at_ms": step.at_ms,
        "who": step.who,
        "why": step.why,
    }


def reading_view(each: Read) -> dict[str, Any]:
    """Return one device that reads a flag."""
    return {
        "device": each.device,
        "reader": shown(each.reader),
        "variant": shown(each.variant),
        "last_uplink_at_ms": each.heard_ms,
    }


def still_reading(connection: Connection, flag: str) -> list[Read]:
    """Return the last reading of each device that cannot be said to have stopped, in order."""
    found = store.reads(connection, flag)
    contacts = devices.load_contacts(connection, [each.n for each in found])
    running: dict[str, Mapping[int, queries.Running]] = {}
    for component in {_component(each.reader) for each in found}:
        running[component] = queries.versions_of_component(connection, component)
    return [
        each
        for each in found
        if not has_stopped(
            each, contacts_in(contacts.get(each.n)), running[_component(each.reader)].get(each.n)
        )
    ]


def has_stopped(each: Read, contacts: Contacts, running: queries.Running | None) -> bool:
    """Tell whether a device reads a flag no more.

    It does not if the application that read it has given way to another version, which would have
    told of its own reading; or if the device has been up for long enough since without reading it.
    """
    version = each.reader.partition("@")[2]
    # Of two that were heard in one millisecond the later one stands further back.
    latest = max(reversed(contacts.boots), key=lambda boot: boot.heard_ms, default=None)
    if latest is None:
        return False
    if running is not None and version and running.healthy and running.version != version:
        return latest.last_known_ms - running.boottime_ms >= SETTLED_MS
    return latest.boot != each.boot and latest.last_known_ms >= SETTLED_MS


def is_over(expires: date, now_ms: int) -> bool:
    """Tell whether the last day of a flag is past."""
    return expires < datetime.fromtimestamp(now_ms / 1000, UTC).date()


def tail_words(tail: Iterable[Read]) -> str:
    """Return a few names of devices that still read a flag, for one line."""
    names = [each.device for each in tail]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""  # noqa: PLR2004 - a few
    return ", ".join(names[:3]) + more


def _component(reader: str) -> str:
    return reader.partition("@")[0]
