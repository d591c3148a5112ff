"""The tables of kill orders: what was ordered, of whom, and who holds to it.

Owns their SQL. Never decides whom an order concerns (`hub.kills`).
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from hub.store.database import Connection
from sync.documents import KILL, Kind


class Order(NamedTuple):
    """One order, or that one was taken back."""

    clock: int
    what: str
    """`flag:<key>` or `deployment:<id>`."""
    is_killed: bool
    groups: tuple[str, ...]
    lease_s: int | None
    """After so long without the hub every device has fallen back; None if one never does."""
    requested_ms: int
    published_ms: int | None
    who: str
    why: str


class Target(NamedTuple):
    """One device that an order concerns, and what is known of it."""

    n: int
    device: str
    is_online: bool | None
    """None if nothing was heard of its presence since the hub has been connected itself."""
    presence_ms: int | None
    """When that was heard last."""
    seen_ms: int | None
    """When its word came that it holds to the order; None if none did. So those below."""
    how: str | None
    boot: bytes | None
    boottime_ms: int | None
    wall_ms: int | None
    sync: int | None
    detail: str | None
    is_stale: bool
    """Whether it said that it fell back because its lease was over."""


_ORDER = (
    "SELECT clock, what, is_killed, fleet_groups, lease_s, requested_ms, published_ms, who, why "
    "FROM kill_order"
)

_TARGETS = (
    "SELECT d.n, d.id, CASE WHEN p.heard_ms >= (SELECT max(from_ms) FROM listening WHERE is_open) "
    "THEN p.is_online END, p.heard_ms, s.seen_ms, s.how, s.boot, s.boottime_ms, s.wall_ms, s.sync, "
    "s.detail, coalesce(o.how = 'lease', 0) FROM kill_target AS t "
    "JOIN device AS d ON d.n = t.device "
    "LEFT JOIN presence AS p ON p.device = d.n "
    "LEFT JOIN kill_seen AS s ON s.clock = t.clock AND s.device = t.device "
    "LEFT JOIN p_obeyed AS o ON o.device = t.device AND o.what = ? "
    "WHERE t.clock = ? ORDER BY d.id"
)


def save(connection: Connection, order: Order, targets: Iterable[int]) -> None:
    """Add an order with the devices that it concerns."""
    row = order._replace(groups=json.dumps(order.groups))  # type: ignore[arg-type]
    connection.execute("INSERT INTO kill_order VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.executemany(
        "INSERT OR IGNORE INTO kill_target VALUES (?, ?)", [(order.clock, n) for n in targets]
    )


def latest(connection: Connection, what: str) -> Order | None:
    """Return the order about something that counts, None if there never was one."""
    rows = connection.execute(f"{_ORDER} WHERE what = ? ORDER BY clock DESC LIMIT 1", (what,))
    return next((_order(row) for row in rows), None)


def every(connection: Connection) -> list[tuple[Order, int, int]]:
    """Return (order, devices, of them those that said they hold to it) of all that count."""
    rows = connection.execute(
        f"{_ORDER} WHERE clock IN (SELECT max(clock) FROM kill_order GROUP BY what) "  # noqa: S608 - no value is in it
        "ORDER BY clock DESC"
    )
    return [
        (order, _count(connection, "kill_target", order), _count(connection, "kill_seen", order))
        for order in [_order(row) for row in rows]
    ]


def targets(connection: Connection, order: Order) -> list[Target]:
    """Return the devices that an order concerns, in order of their names."""
    rows = connection.execute(_TARGETS, (order.what, order.clock))
    return [
        Target._make(
            (*row[:2], None if row[2] is None else bool(row[2]), *row[3:11], bool(row[11]))
        )
        for row in rows
    ]


def note_published(connection: Connection, clocks: Iterable[int], at_ms: int) -> None:
    """Note that orders were handed to the broker, if none of their groups was before."""
    connection.executemany(
        "UPDATE kill_order SET published_ms = ? WHERE clock = ? AND published_ms IS NULL",
        [(at_ms, clock) for clock in clocks],
    )


def save_seen(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Keep the first word of each device on orders of this hub; of others nothing is kept.

    Each row: device, what, boot, boottime, wall clock, sync, clock, how, detail, seen.
    """
    connection.executemany(
        "INSERT OR IGNORE INTO kill_seen SELECT ?7, ?1, ?8, ?3, ?4, ?5, ?6, ?9, ?10 "
        "WHERE EXISTS (SELECT 1 FROM kill_order WHERE clock = ?7 AND what = ?2)",
        rows,
    )


def groups(connection: Connection) -> list[str]:
    """Return the groups whose documents hold an order."""
    rows = connection.execute(
        "SELECT DISTINCT substr(document, 5) FROM authored WHERE key >= ? AND key < ? "
        "AND document >= ? AND document < ? ORDER BY 1",
        (KILL, f"{KILL[0]}0", f"{Kind.GROUP.value}/", f"{Kind.GROUP.value}0"),
    )
    return [group for (group,) in rows]


def _order(row: tuple[Any, ...]) -> Order:
    clock, what, is_killed, names, *rest = row
    return Order(clock, what, bool(is_killed), tuple(json.loads(names)), *rest)


def _count(connection: Connection, table: str, order: Order) -> int:
    rows = connection.execute(
        f"SELECT count(*) FROM {table} WHERE clock = ?",  # noqa: S608 - names are ours
        (order.clock,),
    )
    return sum(int(count) for (count,) in rows)
