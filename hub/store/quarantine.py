"""The table of documents that could not be read any more, kept as they were found.

Owns its SQL. Never decides what is damaged (`hub.store.documents`) or what comes in its place
(`hub.mending`).
"""

from typing import Final, NamedTuple

from hub.store.database import Connection
from sync.documents import DocumentName

KEPT_MAX: Final = 100
"""Documents kept for whoever wants to know what happened; of more the oldest go."""


class Damaged(NamedTuple):
    """One document that was moved aside."""

    document: str
    found_ms: int
    reason: str


def move_aside(
    connection: Connection, document: DocumentName, *, reason: str, now_ms: int
) -> int | None:
    """Take a document out of those that are used; return its epoch, None if it is not there."""
    rows = connection.execute("SELECT epoch FROM document WHERE name = ?", (str(document),))
    epoch: int | None = next((found for (found,) in rows), None)
    if epoch is None:
        return None
    connection.execute(
        "INSERT INTO quarantine (document, epoch, state, vector, absorbed, stored_ms, found_ms, "
        "reason) SELECT name, epoch, state, vector, absorbed, stored_ms, ?, ? FROM document "
        "WHERE name = ?",
        (now_ms, reason, str(document)),
    )
    connection.execute("DELETE FROM document WHERE name = ?", (str(document),))
    connection.execute(
        "DELETE FROM quarantine WHERE n NOT IN (SELECT n FROM quarantine ORDER BY n DESC LIMIT ?)",
        (KEPT_MAX,),
    )
    return epoch


def latest(connection: Connection, limit: int) -> list[Damaged]:
    """Return what was moved aside, newest first."""
    rows = connection.execute(
        "SELECT document, found_ms, reason FROM quarantine ORDER BY n DESC LIMIT ?", (limit,)
    )
    return [Damaged._make(row) for row in rows]
