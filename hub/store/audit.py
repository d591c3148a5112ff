"""The table of what was changed, by whom.

Owns its SQL. Rows are only ever added; the schema refuses everything else, except that the oldest
go after a row that says so.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from hub.store.database import Connection

_COLUMNS: Final = "n, at_ms, token, name, source, action, object, asked, outcome"


class Row(NamedTuple):
    """One change."""

    n: int
    """Counts up; never reused."""
    at_ms: int
    token: str
    """Id of the token; empty if it was the hub itself, or somebody on its machine."""
    name: str
    source: str
    """Address that the request came from; empty if it came from none."""
    action: str
    object: str
    asked: str
    """JSON."""
    outcome: str


def add(connection: Connection, row: Row, pruned_until: int | None = None) -> None:
    """Add a row; its number is given by the table."""
    connection.execute(
        "INSERT INTO audit "
        "(at_ms, token, name, source, action, object, asked, outcome, pruned_until) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*row[1:], pruned_until),
    )


def span(connection: Connection) -> tuple[int, int]:
    """Return the numbers of the oldest row and of the newest, (1, 0) if there is none."""
    oldest, newest = next(
        connection.execute("SELECT (SELECT min(n) FROM audit), (SELECT max(n) FROM audit)")
    )
    return (1, 0) if oldest is None else (oldest, newest)


def drop_until(connection: Connection, last_n: int) -> None:
    """Remove the rows up to `last_n`; there must be a row that says so."""
    connection.execute("DELETE FROM audit WHERE n <= ?", (last_n,))


def page(connection: Connection, before_n: int, since_ms: int, limit: int) -> list[Row]:
    """Return rows before a number that are not older than `since_ms`, newest first."""
    query = (
        f"SELECT {_COLUMNS} FROM audit WHERE n < ? AND at_ms >= ? "  # noqa: S608 - own names
        "ORDER BY n DESC LIMIT ?"
    )
    found: Iterator[Any] = connection.execute(query, (before_n, since_ms, limit))
    return [Row(*row) for row in found]


def following(connection: Connection, after_n: int, limit: int) -> list[Row]:
    """Return the rows after a number, oldest first."""
    query = f"SELECT {_COLUMNS} FROM audit WHERE n > ? ORDER BY n LIMIT ?"  # noqa: S608 - own names
    found: Iterator[Any] = connection.execute(query, (after_n, limit))
    return [Row(*row) for row in found]
