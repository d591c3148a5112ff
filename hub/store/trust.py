"""Signed metadata as rows: every root, and the latest of the three others.

Owns its SQL. Never reads what it stores.
"""

from dataclasses import dataclass
from typing import Final

from hub.store.database import Connection

KEPT_COUNT: Final = 3
"""Snapshots and lists that are kept: a device that is reading one while the next comes finds it."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Metadata as it is served."""

    version: int
    content: bytes
    stored_ms: int


def latest(connection: Connection, role: str) -> Signed | None:
    """Return the newest of a role; None if there is none."""
    rows = connection.execute(
        "SELECT version, content, stored_ms FROM signed WHERE role = ? "
        "ORDER BY version DESC LIMIT 1",
        (role,),
    )
    return next((Signed(*row) for row in rows), None)


def of_version(connection: Connection, role: str, version: int) -> bytes | None:
    """Return one version; None if it is not here."""
    rows = connection.execute(
        "SELECT content FROM signed WHERE role = ? AND version = ?", (role, version)
    )
    return next((content for (content,) in rows), None)


def every(connection: Connection, role: str) -> list[bytes]:
    """Return all versions, oldest first."""
    rows = connection.execute("SELECT content FROM signed WHERE role = ? ORDER BY version", (role,))
    return [content for (content,) in rows]


def save(connection: Connection, role: str, signed: Signed, *, keeps_all: bool) -> None:
    """Add metadata; unless it `keeps_all`, drop what is older than the last few."""
    connection.execute(
        "INSERT INTO signed VALUES (?, ?, ?, ?)",
        (role, signed.version, signed.content, signed.stored_ms),
    )
    if not keeps_all:
        connection.execute(
            "DELETE FROM signed WHERE role = ? AND version NOT IN "
            "(SELECT version FROM signed WHERE role = ? ORDER BY version DESC LIMIT ?)",
            (role, role, KEPT_COUNT),
        )
