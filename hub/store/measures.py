"""The tables of telemetry: series, events and cases as devices have last told them.

Owns their SQL; everything here only reads. What a record means is `sync.sketch` and `sync.records`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from hub.store.database import Connection


class Asked(NamedTuple):
    """Which rows are wanted; empty texts ask for all."""

    metric: str = ""
    """A whole name, or how it begins with `*` at the end."""
    release: str = ""
    """`component@version`, or `component` for all of its versions."""
    variant: str = ""
    """`flag=variant`, or `flag` for all of its variants."""


class Row(NamedTuple):
    """One series of one device."""

    n: int
    device: str
    metric: str
    release: str
    variant: str
    kind: str
    values_count: int
    total: float
    record: bytes


class EventRow(NamedTuple):
    """One event of one device."""

    n: int
    device: str
    wall_ms: int
    code: str
    detail: str
    release: str
    times_count: int


class CaseRow(NamedTuple):
    """One case of one device."""

    n: int
    device: str
    intent: str
    boot: bytes
    boottime_ms: int
    wall_ms: int
    intended: str
    reached: str
    by: str
    release: str
    detail: str


def series(connection: Connection, asked: Asked) -> Iterator[Row]:
    """Give the series that are asked for, by metric, release, variant and device."""
    metric, is_beginning = asked.metric.removesuffix("*"), asked.metric.endswith("*")
    rows = connection.execute(
        "SELECT m.device, d.id, m.metric, m.release, m.variant, m.kind, m.count, m.total, m.record "
        "FROM p_measure AS m JOIN device AS d ON d.n = m.device "
        "WHERE (?1 = '' OR m.metric = ?1 OR (?2 AND substr(m.metric, 1, length(?1)) = ?1)) "
        "AND (?3 = '' OR m.release = ?3 OR substr(m.release, 1, length(?3) + 1) = ?3 || '@') "
        "AND (?4 = '' OR m.variant = ?4 OR substr(m.variant, 1, length(?4) + 1) = ?4 || '=') "
        "ORDER BY m.metric, m.release, m.variant, m.kind, d.id",
        (metric, is_beginning, asked.release, asked.variant),
    )
    for row in rows:
        yield Row(*row)


def count_series(connection: Connection, asked: Asked) -> int:
    """Return how many series of single devices `series` would give."""
    metric, is_beginning = asked.metric.removesuffix("*"), asked.metric.endswith("*")
    ((count,),) = connection.execute(
        "SELECT count(*) FROM p_measure AS m "
        "WHERE (?1 = '' OR m.metric = ?1 OR (?2 AND substr(m.metric, 1, length(?1)) = ?1)) "
        "AND (?3 = '' OR m.release = ?3 OR substr(m.release, 1, length(?3) + 1) = ?3 || '@') "
        "AND (?4 = '' OR m.variant = ?4 OR substr(m.variant, 1, length(?4) + 1) = ?4 || '=')",
        (metric, is_beginning, asked.release, asked.variant),
    )
    return int(count)


def events(connection: Connection, code: str, release: str) -> Iterator[EventRow]:
    """Give the events that devices still hold, by code and device; latest first."""
    rows = connection.execute(
        "SELECT e.device, d.id, e.wall_ms, e.code, e.detail, e.release, e.count "
        "FROM p_event AS e JOIN device AS d ON d.n = e.device "
        "WHERE (?1 = '' OR e.code = ?1) "
        "AND (?2 = '' OR e.release = ?2 OR substr(e.release, 1, length(?2) + 1) = ?2 || '@') "
        "ORDER BY e.code, d.id, e.number DESC",
        (code, release),
    )
    for row in rows:
        yield EventRow(*row)


def cases(connection: Connection, release: str) -> Iterator[CaseRow]:
    """Give the cases that devices still hold, by release and device."""
    rows = connection.execute(
        "SELECT c.device, d.id, c.intent, c.boot, c.boottime_ms, c.wall_ms, c.intended, c.reached, "
        "c.by, c.release, c.detail FROM p_case AS c JOIN device AS d ON d.n = c.device "
        "WHERE ?1 = '' OR c.release = ?1 OR substr(c.release, 1, length(?1) + 1) = ?1 || '@' "
        "ORDER BY c.release, d.id, c.intent",
        (release,),
    )
    for row in rows:
        yield CaseRow(*row)
