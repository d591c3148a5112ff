"""The journal of every acknowledgement that the hub has ever seen in a device's document.

Owns its SQL. Rows are only added; a record that a device changes afterwards is updated in place,
and keeps the time at which it was first seen. A document never takes anything out of it.
"""

from collections.abc import Iterable
from typing import Final

from hub.store.database import Connection

STRAYS_MAX: Final = 1000
"""Acknowledgements of one device kept about deployments that this hub does not know (it was
restored from a backup, or the device makes them up)."""


def save(connection: Connection, entries: Iterable[tuple[int, str, bytes, int]]) -> None:
    """Add (device, key, record, seen at) to the journal."""
    connection.executemany(
        "INSERT INTO seen VALUES (?, ?, ?, ?) ON CONFLICT (device, key) "
        "DO UPDATE SET record = excluded.record WHERE record <> excluded.record",
        entries,
    )


def has(connection: Connection, device: int, key: str) -> bool:
    """Tell whether the journal has an entry."""
    rows = connection.execute("SELECT 1 FROM seen WHERE device = ? AND key = ?", (device, key))
    return any(True for _ in rows)


def deployments(connection: Connection) -> set[str]:
    """Return the ids of every deployment that this hub has made."""
    return {found for (found,) in connection.execute("SELECT id FROM deployment")}
