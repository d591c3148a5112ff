"""What the API asks of the tables. Owns its SQL; everything here only reads."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from hub.store.database import Connection


class Listed(NamedTuple):
    """One registered device in a list."""

    n: int
    device: str
    first_seen_ms: int
    heard_ms: int
    """Last frame or birth, to within a few minutes; to the millisecond if it brought news."""
    is_online: bool | None
    """None if nothing was heard of its presence since the hub has been connected itself."""


_LISTED = (
    "SELECT d.n, d.id, d.first_seen_ms, max(d.heard_ms, coalesce(c.stored_ms, 0)), "
    "CASE WHEN p.heard_ms >= (SELECT max(from_ms) FROM listening WHERE is_open) "
    "THEN p.is_online END FROM device AS d LEFT JOIN document AS c ON c.name = 'dev/' || d.id "
    "LEFT JOIN presence AS p ON p.device = d.n"
)


def _listed(row: tuple[Any, ...]) -> Listed:
    n, device, first_seen_ms, heard_ms, is_online = row
    return Listed(
        n, device, first_seen_ms, heard_ms, None if is_online is None else bool(is_online)
    )


def page(connection: Connection, after: str, limit: int) -> list[Listed]:
    """Return registered devices with names after `after`, in order."""
    rows = connection.execute(f"{_LISTED} WHERE d.id > ? ORDER BY d.id LIMIT ?", (after, limit))
    return [_listed(row) for row in rows]


def every(connection: Connection) -> list[Listed]:
    """Return all registered devices, in order of their names."""
    return [_listed(row) for row in connection.execute(f"{_LISTED} ORDER BY d.id")]


def device(connection: Connection, name: str) -> Listed | None:
    """Return one registered device."""
    rows = connection.execute(f"{_LISTED} WHERE d.id = ?", (name,))
    return next((_listed(row) for row in rows), None)


def facts_of(connection: Connection, n: int) -> dict[str, str]:
    """Return the facts of a device, JSON by name."""
    rows = connection.execute("SELECT name, value FROM p_fact WHERE device = ?", (n,))
    return {name: value for name, value in rows}  # noqa: C416 - rows are untyped


def facts_of_all(connection: Connection) -> Iterator[tuple[str, int, Mapping[str, str]]]:
    """Give (device, number, facts) of every registered device, in order of their names."""
    rows = connection.execute(
        "SELECT d.id, d.n, f.name, f.value FROM device AS d "
        "LEFT JOIN p_fact AS f ON f.device = d.n ORDER BY d.id"
    )
    for (name, n), group in groupby(rows, key=lambda row: (row[0], row[1])):
        yield name, n, {fact: value for _, _, fact, value in group if fact is not None}


class Untargeted(NamedTuple):
    """What a device acknowledged of a deployment whose list it is not on."""

    deployment: str
    component: str
    version: str
    requested_ms: int
    stage: str
    """The letter."""
    record: bytes
    seen_ms: int


def untargeted_of(connection: Connection, n: int, limit: int) -> list[Untargeted]:
    """Return what a device acknowledged of deployments that were listed without it.

    It joined a group after the list was made. Newest deployments first, stages in no order.
    """
    rows = connection.execute(
        "SELECT d.id, d.component, d.version, d.requested_ms, s.stage, s.record, s.seen_at_ms "
        "FROM seen AS s JOIN deployment AS d ON d.id = s.deployment "
        "LEFT JOIN targeted AS t ON t.deployment = s.deployment AND t.device = s.device "
        "WHERE s.device = ? AND t.device IS NULL ORDER BY d.n DESC LIMIT ?",
        (n, limit),
    )
    return [Untargeted._make(row) for row in rows]


class Running(NamedTuple):
    """What a device says it runs of one component."""

    n: int
    component: str
    version: str
    release: bytes
    healthy: bool
    boot: bytes
    boottime_ms: int
    deployment: str
    reason: str


_RUNNING = (
    "SELECT device, component, version, release, healthy, boot, boottime_ms, deployment, reason "
    "FROM p_version"
)


def _running(row: tuple[Any, ...]) -> Running:
    return Running._make((*row[:4], bool(row[4]), *row[5:]))


def versions_of(connection: Connection, n: int) -> list[Running]:
    """Return what a device runs."""
    rows = connection.execute(f"{_RUNNING} WHERE device = ? ORDER BY component", (n,))
    return [_running(row) for row in rows]


def versions_of_component(connection: Connection, component: str) -> dict[int, Running]:
    """Return what every device runs of a component."""
    rows = connection.execute(f"{_RUNNING} WHERE component = ?", (component,))
    return {row[0]: _running(row) for row in rows}


def count_running(connection: Connection, release: bytes) -> int:
    """Return how many devices say that they run this release."""
    rows = connection.execute("SELECT count(*) FROM p_version WHERE release = ?", (release,))
    return sum(int(count) for (count,) in rows)


def components(connection: Connection) -> list[str]:
    """Return every component that was released or is run."""
    rows = connection.execute(
        "SELECT component FROM release UNION SELECT component FROM p_version ORDER BY 1"
    )
    return [component for (component,) in rows]


def latest_version(connection: Connection, component: str) -> tuple[str, str | None] | None:
    """Return the version that counts as the latest, and the deployment that brought it out first.

    It is the newest release that was deployed and not cancelled; without one, the newest release.
    """
    rows = connection.execute(
        "SELECT r.version, (SELECT min(p.n) FROM deployment AS p WHERE p.release = r.digest "
        "AND p.cancelled_ms IS NULL) AS first FROM release AS r WHERE r.component = ? "
        "ORDER BY first IS NULL, r.n DESC LIMIT 1",  # not the time: clocks are turned back
        (component,),
    )
    return next((tuple(row) for row in rows), None)


def targeted_with(connection: Connection, component: str, version: str) -> set[int]:
    """Return the devices that are on the list of a deployment of this version."""
    rows = connection.execute(
        "SELECT DISTINCT t.device FROM targeted AS t JOIN deployment AS p ON p.id = t.deployment "
        "WHERE p.component = ? AND p.version = ? AND p.cancelled_ms IS NULL",
        (component, version),
    )
    return {n for (n,) in rows}


def local_clock(connection: Connection, n: int, key: str) -> int:
    """Return the clock of the value that the device itself set, 0 if it never did."""
    rows = connection.execute("SELECT clock FROM p_setting WHERE device = ? AND key = ?", (n, key))
    return next((clock for (clock,) in rows), 0)


def locals_of(connection: Connection, n: int) -> dict[str, tuple[int, str | None, int, str]]:
    """Return (clock, value, saw, writer) of what the device itself set, by key."""
    rows = connection.execute(
        "SELECT key, clock, value, saw, writer FROM p_setting WHERE device = ?", (n,)
    )
    return {row[0]: row[1:] for row in rows}


class Waits(NamedTuple):
    """What a device last said of its wait with a deployment."""

    n: int
    boot: bytes
    boottime_ms: int
    wall_ms: int
    reason: str
    """Empty once the wait is over."""
    detail: str
    until_ms: int
    left_s: int
    overdue: str


def waits(connection: Connection, deployment: str, n: int | None = None) -> dict[int, Waits]:
    """Return what those on a deployment's list said of their waits with it."""
    rows = connection.execute(
        "SELECT w.device, w.boot, w.boottime_ms, w.wall_ms, w.reason, w.detail, w.until_ms, "
        "w.left_s, w.overdue FROM targeted AS t JOIN p_waiting AS w "
        "ON w.device = t.device AND w.deployment = t.deployment "
        "WHERE t.deployment = ?1 AND (?2 IS NULL OR t.device = ?2)",
        (deployment, n),
    )
    return {row[0]: Waits._make(row) for row in rows}


class Conflicted(NamedTuple):
    """A conflict that a device has recorded."""

    key: str
    clock: int
    local: str | None
    desired: str | None
    effective: str | None
    winner: str
    """Empty once it was settled."""
    local_clock: int
    desired_clock: int


def conflicts_of(connection: Connection, n: int) -> dict[str, Conflicted]:
    """Return the conflicts that a device has recorded, by key."""
    rows = connection.execute(
        "SELECT key, clock, local, desired, effective, winner, local_clock, desired_clock "
        "FROM p_conflict WHERE device = ?",
        (n,),
    )
    return {row[0]: Conflicted._make(row) for row in rows}


def count_conflicts(connection: Connection) -> int:
    """Return how many conflicts wait to be settled."""
    (found,) = next(connection.execute("SELECT count(*) FROM p_conflict WHERE winner <> ''"))
    open_count: int = found
    return open_count


def open_conflicts(connection: Connection) -> list[tuple[str, str, str]]:
    """Return (device, key, who prevails) of each conflict that waits to be settled."""
    rows = connection.execute(
        "SELECT d.id, c.key, c.winner FROM p_conflict AS c JOIN device AS d ON d.n = c.device "
        "WHERE c.winner <> '' ORDER BY d.id, c.key"
    )
    return [(device, key, winner) for device, key, winner in rows]


class Offended(NamedTuple):
    """What a device did wrong, and how often."""

    device: str
    code: str
    times: int
    first_ms: int
    last_ms: int
    detail: str


def offences_of(connection: Connection, device: str) -> list[Offended]:
    """Return what a device did wrong."""
    rows = connection.execute(
        "SELECT * FROM offence WHERE device = ? ORDER BY count DESC, code", (device,)
    )
    return [Offended._make(row) for row in rows]


def worst_offenders(connection: Connection, limit: int) -> list[Offended]:
    """Return what was done wrong most often."""
    rows = connection.execute(
        "SELECT * FROM offence ORDER BY count DESC, device, code LIMIT ?", (limit,)
    )
    return [Offended._make(row) for row in rows]


def receipts_of(connection: Connection, n: int) -> list[tuple[str, int, bytes, int]]:
    """Return (document, epoch, vector, received) of what a device last said it holds."""
    rows = connection.execute(
        "SELECT document, epoch, vector, received_ms FROM receipt WHERE device = ? ORDER BY 1", (n,)
    )
    return [tuple(row) for row in rows]


def presence_log(
    connection: Connection, deployment: str, n: int | None = None
) -> list[tuple[int, int, bool]]:
    """Return (device, hub UTC, online) from the log of those on a deployment's list, in order."""
    rows = connection.execute(
        "SELECT l.device, l.at_ms, l.is_online FROM presence_log AS l JOIN targeted AS t "
        "ON t.device = l.device WHERE t.deployment = ?1 AND (?2 IS NULL OR l.device = ?2) "
        "ORDER BY l.device, l.n",
        (deployment, n),
    )
    return [(device_n, at_ms, bool(is_online)) for device_n, at_ms, is_online in rows]


def last_heard(
    connection: Connection, deployment: str, n: int | None = None
) -> dict[int, tuple[int, int]]:
    """Return (last heard, grace) in milliseconds of those on a deployment's list."""
    rows = connection.execute(
        "SELECT d.n, max(d.heard_ms, p.heard_ms, coalesce(c.stored_ms, 0)), p.grace_ms "
        "FROM targeted AS t JOIN device AS d ON d.n = t.device "
        "JOIN presence AS p ON p.device = d.n "
        "LEFT JOIN document AS c ON c.name = 'dev/' || d.id "
        "WHERE t.deployment = ?1 AND (?2 IS NULL OR t.device = ?2)",
        (deployment, n),
    )
    return {device_n: (heard_ms, grace_ms) for device_n, heard_ms, grace_ms in rows}


def log_of(connection: Connection, n: int, limit: int) -> list[tuple[int, bool, int]]:
    """Return (hub UTC, online, birth) of a device's last changes of presence, newest first."""
    rows = connection.execute(
        "SELECT at_ms, is_online, birth FROM presence_log WHERE device = ? ORDER BY n DESC LIMIT ?",
        (n, limit),
    )
    return [(at_ms, bool(is_online), birth) for at_ms, is_online, birth in rows]


def contacts_of(connection: Connection, deployment: str, n: int | None = None) -> dict[int, bytes]:
    """Return the contacts of those on a deployment's list."""
    rows = connection.execute(
        "SELECT c.device, c.contacts FROM contact AS c JOIN targeted AS t ON t.device = c.device "
        "WHERE t.deployment = ?1 AND (?2 IS NULL OR c.device = ?2)",
        (deployment, n),
    )
    return {device_n: contacts for device_n, contacts in rows}  # noqa: C416 - rows are untyped
