"""The tables of what other systems are still to be told.

Owns their SQL. Decides nothing.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hub.store.database import Connection


class Kept(NamedTuple):
    """An event that waits."""

    n: int
    type: str
    subject: str
    at_ms: int
    content: str
    """JSON."""


class Place(NamedTuple):
    """How far one receiver was told."""

    url: str
    told_n: int
    attempts: int
    """Made to tell the next event."""
    first_ms: int
    """When that was tried first; 0 for not yet."""
    due_ms: int
    """Not to be tried again before."""


def add(connection: Connection, type_: str, subject: str, at_ms: int, content: str) -> None:
    """Let an event wait."""
    connection.execute(
        "INSERT INTO outbox (type, subject, at_ms, content) VALUES (?, ?, ?, ?)",
        (type_, subject, at_ms, content),
    )


def after(connection: Connection, n: int) -> Kept | None:
    """Return the oldest event after number `n`."""
    rows = connection.execute(
        "SELECT n, type, subject, at_ms, content FROM outbox WHERE n > ? ORDER BY n LIMIT 1", (n,)
    )
    return next((Kept._make(row) for row in rows), None)


def newest(connection: Connection) -> int:
    """Return the number of the event that was added last, 0 if there never was one."""
    rows = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")
    return next((int(n) for (n,) in rows), 0)


def drop(connection: Connection, *, told_n: int, kept_max_count: int) -> int:
    """Remove events that everybody was told, and the oldest beyond a number.

    Returns:
        How many went that somebody was not told.
    """
    connection.execute("DELETE FROM outbox WHERE n <= ?", (told_n,))
    connection.execute(
        "DELETE FROM outbox WHERE n <= (SELECT max(n) FROM outbox) - ?", (kept_max_count,)
    )
    return connection.changes()


def places(connection: Connection) -> dict[str, Place]:
    """Return all receivers by address."""
    rows = connection.execute("SELECT url, told_n, attempts, first_ms, due_ms FROM outbox_place")
    return {row[0]: Place._make(row) for row in rows}


def put_place(connection: Connection, place: Place) -> None:
    """Remember how far a receiver was told."""
    connection.execute("INSERT OR REPLACE INTO outbox_place VALUES (?, ?, ?, ?, ?)", place)


def forget_places(connection: Connection, kept: Iterable[str]) -> None:
    """Remove the receivers that are not among `kept`."""
    for url in places(connection).keys() - set(kept):
        connection.execute("DELETE FROM outbox_place WHERE url = ?", (url,))


def audit_looked(connection: Connection) -> int | None:
    """Return the number of the last row of the audit that was looked at; None before the first."""
    rows = connection.execute("SELECT audit_n FROM outbox_look")
    return next((int(n) for (n,) in rows), None)


def look_audit(connection: Connection, n: int) -> None:
    """Remember up to which row the audit was looked at."""
    connection.execute("INSERT OR REPLACE INTO outbox_look VALUES (1, ?)", (n,))


def verdicts(connection: Connection, deployment: str) -> dict[str, str]:
    """Return what a deployment came to at the last look, by device."""
    rows = connection.execute(
        "SELECT device, verdict FROM outbox_verdict WHERE deployment = ?", (deployment,)
    )
    return {str(device): str(verdict) for device, verdict in rows}


def put_verdicts(connection: Connection, deployment: str, found: Mapping[str, str]) -> None:
    """Remember what a deployment came to on some devices."""
    connection.executemany(
        "INSERT OR REPLACE INTO outbox_verdict VALUES (?, ?, ?)",
        [(deployment, device, verdict) for device, verdict in found.items()],
    )


def forget_deployments(connection: Connection, kept: Iterable[str]) -> None:
    """Remove what deployments came to that are not among `kept`."""
    rows = connection.execute("SELECT DISTINCT deployment FROM outbox_verdict")
    for deployment in {str(found) for (found,) in rows} - set(kept):
        connection.execute("DELETE FROM outbox_verdict WHERE deployment = ?", (deployment,))
