"""The journal of every acknowledgement that the hub has ever seen in a device's document.

Owns its SQL. Rows are only added; a record that a device changes afterwards is updated in place,
and keeps the time at which it was first seen. A document never takes anything out of it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from hub.store.database import Connection


class Seen(NamedTuple):
    """One acknowledgement."""

    deployment: str
    device: int
    stage: str
    """The letter."""
    record: bytes
    seen_at_ms: int
    """Hub UTC when it was first held."""


def save(connection: Connection, entries: Iterable[Seen]) -> None:
    """Add acknowledgements to the journal."""
    connection.executemany(
        "INSERT INTO seen VALUES (?, ?, ?, ?, ?) ON CONFLICT (deployment, device, stage) "
        "DO UPDATE SET record = excluded.record WHERE record <> excluded.record",
        entries,
    )


def load(connection: Connection, deployment: str, device: int | None = None) -> list[Seen]:
    """Return the acknowledgements of a deployment, of one device or of all."""
    rows = connection.execute(
        "SELECT * FROM seen WHERE deployment = ?1 AND (?2 IS NULL OR device = ?2)",
        (deployment, device),
    )
    return [Seen._make(row) for row in rows]


def records_of(connection: Connection, device: int) -> list[bytes]:
    """Return the records of the deployments that target a device."""
    rows = connection.execute(
        "SELECT record FROM seen WHERE device = ?1 AND deployment IN "
        "(SELECT deployment FROM targeted WHERE device = ?1)",
        (device,),
    )
    return [record for (record,) in rows]


def deployments(connection: Connection) -> set[str]:
    """Return the ids of every deployment that this hub has made."""
    return {found for (found,) in connection.execute("SELECT id FROM deployment")}
