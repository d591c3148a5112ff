"""The tables of flags: what was done with them, whom they were dealt to, and what devices read.

Owns their SQL. Never decides who is dealt what (`hub.cohorts`).
"""

from collections.abc import Iterable
from typing import NamedTuple

from hub.store.database import Connection
from sync.documents import FLAG, Kind


class Step(NamedTuple):
    """One change of a flag in a group."""

    flag: str
    group: str
    clock: int
    """Of the definition that was written."""
    action: str
    variant: str
    share: float | None
    weight: int | None
    dealt_count: int
    eligible_count: int
    at_ms: int
    who: str
    why: str


_STEP = (
    "SELECT flag, fleet_group, clock, action, variant, share, weight, dealt_count, eligible_count, "
    "at_ms, who, why FROM flag_step"
)


class Read(NamedTuple):
    """What a flag came to on one device, when it was read there last."""

    n: int
    device: str
    heard_ms: int
    boot: bytes
    boottime_ms: int
    variant: str
    reason: str
    clock: int
    reader: str
    variants_count: int


def defined(connection: Connection, flag: str | None = None) -> list[tuple[str, str, bytes]]:
    """Return (flag, group, record) of every flag in a group's document, or of one, in order."""
    rows = connection.execute(
        "SELECT substr(key, 3), substr(document, 5), value FROM authored "
        "WHERE key >= ?1 AND key < ?2 AND document >= ?3 AND document < ?4 ORDER BY 1, 2",
        (
            FLAG if flag is None else FLAG + flag,
            f"{FLAG[0]}0" if flag is None else f"{FLAG}{flag}\0",
            f"{Kind.GROUP.value}/",
            f"{Kind.GROUP.value}0",
        ),
    )
    return [(key, group, value) for key, group, value in rows]


def save_step(connection: Connection, step: Step) -> None:
    """Add a change."""
    connection.execute(
        "INSERT INTO flag_step (flag, fleet_group, clock, action, variant, share, weight, "
        "dealt_count, eligible_count, at_ms, who, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        step,
    )


def steps(connection: Connection, flag: str, group: str, limit: int) -> list[Step]:
    """Return the latest changes of a flag in a group, latest first."""
    rows = connection.execute(
        f"{_STEP} WHERE flag = ? AND fleet_group = ? ORDER BY n DESC LIMIT ?", (flag, group, limit)
    )
    return [Step._make(row) for row in rows]


def deal(
    connection: Connection, flag: str, group: str, variant: str, devices: Iterable[int], at_ms: int
) -> None:
    """Fix these devices as those that a flag is dealt to; who was among them before stays since."""
    rows = connection.execute(
        "SELECT device, since_ms FROM cohort WHERE flag = ? AND fleet_group = ? AND variant = ?",
        (flag, group, variant),
    )
    before: dict[int, int] = {n: since_ms for n, since_ms in rows}  # noqa: C416 - untyped
    clear(connection, flag, group)
    connection.executemany(
        "INSERT INTO cohort VALUES (?, ?, ?, ?, ?)",
        [(flag, group, n, variant, before.get(n, at_ms)) for n in devices],
    )


def clear(connection: Connection, flag: str, group: str) -> None:
    """Forget whom a flag was dealt to."""
    connection.execute("DELETE FROM cohort WHERE flag = ? AND fleet_group = ?", (flag, group))


def cohort(connection: Connection, flag: str, group: str) -> list[tuple[str, str, int]]:
    """Return (device, variant, since) of those that a flag was dealt to, in order of their names.

    The list is that of the moment it was dealt out; who is registered later is not on it.
    """
    rows = connection.execute(
        "SELECT d.id, c.variant, c.since_ms FROM cohort AS c JOIN device AS d ON d.n = c.device "
        "WHERE c.flag = ? AND c.fleet_group = ? ORDER BY d.id",
        (flag, group),
    )
    return [(device, variant, since_ms) for device, variant, since_ms in rows]


def count_cohort(connection: Connection, flag: str, group: str) -> int:
    """Return how many devices a flag was dealt to."""
    rows = connection.execute(
        "SELECT count(*) FROM cohort WHERE flag = ? AND fleet_group = ?", (flag, group)
    )
    return sum(int(count) for (count,) in rows)


def exposed(connection: Connection, flag: str) -> list[tuple[str, str, str, int, int]]:
    """Return (variant, reason, reader, devices, of them shown several variants) of a flag."""
    rows = connection.execute(
        "SELECT variant, reason, reader, count(*), sum(variants_count > 1) FROM p_exposure "
        "WHERE flag = ? GROUP BY variant, reason, reader ORDER BY 4 DESC, 1, 2, 3",
        (flag,),
    )
    return [tuple(row) for row in rows]


def known_at(connection: Connection, at_ms: int) -> set[str]:
    """Return the devices that were registered at a moment."""
    rows = connection.execute("SELECT id FROM device WHERE first_seen_ms <= ?", (at_ms,))
    return {device for (device,) in rows}


def reads(connection: Connection, flag: str) -> list[Read]:
    """Return the last reading of a flag on every device, in order of their names."""
    rows = connection.execute(
        "SELECT e.device, d.id, max(d.heard_ms, coalesce(c.stored_ms, 0)), e.boot, e.boottime_ms, "
        "e.variant, e.reason, e.clock, e.reader, e.variants_count FROM p_exposure AS e "
        "JOIN device AS d ON d.n = e.device LEFT JOIN document AS c ON c.name = 'dev/' || d.id "
        "WHERE e.flag = ? ORDER BY d.id",
        (flag,),
    )
    return [Read._make(row) for row in rows]


def read_flags(connection: Connection) -> list[str]:
    """Return every flag that some device has read."""
    rows = connection.execute("SELECT DISTINCT flag FROM p_exposure ORDER BY 1")
    return [flag for (flag,) in rows]
