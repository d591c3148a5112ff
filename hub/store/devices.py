"""The tables about devices: who is registered, their contacts, and what they did wrong.

Owns their SQL. Never decides whom to register or what to count.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from hub.store.database import Connection
from hub.store.projection import TABLES
from sync.documents import Kind

_BULK: Final = (
    # CROSS JOIN keeps the order, so that each name costs two look-ups and no scan.
    "SELECT d.id, d.n, d.heard_ms, d.stray_count, c.n, c.epoch, c.state, c.vector, c.absorbed "
    "FROM json_each(?) AS j CROSS JOIN device AS d ON d.id = j.value "
    "LEFT JOIN document AS c ON c.name = 'dev/' || d.id"
)


_OF_A_DEVICE: Final = (
    "seen",
    "contact",
    "receipt",
    "presence",
    "presence_log",
    "targeted",
    "hub_stage",
    "cohort",
    "kill_target",
    "kill_seen",
    "baseline",
)

Stored = tuple[str, int, int, int, int | None, int, bytes, bytes, bytes]
"""A registered device: name, number, when it was heard, count of strays; then of its document, if
there is one: number, epoch, state, vector, absorbed. A bare tuple, because a thousand of them are
made for each batch, and giving them names took a fifteenth of its time."""


def load_many(connection: Connection, devices: Iterable[str]) -> dict[str, Stored]:
    """Return the registered ones of `devices` with their documents, in one query."""
    rows: Iterable[Any] = connection.execute(_BULK, (json.dumps(list(devices)),))
    return {row[0]: row for row in rows}


def number_of(connection: Connection, device: str) -> int | None:
    """Return the number of a device, None if it is not registered."""
    for (n,) in connection.execute("SELECT n FROM device WHERE id = ?", (device,)):
        found: int = n
        return found
    return None


def registered_of(connection: Connection, devices: Iterable[str]) -> set[str]:
    """Return those of `devices` that are registered."""
    rows = connection.execute(
        "SELECT d.id FROM json_each(?) AS j CROSS JOIN device AS d ON d.id = j.value",
        (json.dumps(list(devices)),),
    )
    return {device for (device,) in rows}


def count(connection: Connection) -> int:
    """Return how many devices are registered."""
    (found,) = next(connection.execute("SELECT count(*) FROM device"))
    registered: int = found
    return registered


def count_new(connection: Connection, since_ms: int) -> int:
    """Return how many devices were registered after this hub UTC."""
    rows = connection.execute("SELECT count(*) FROM device WHERE first_seen_ms > ?", (since_ms,))
    (found,) = next(rows)
    new: int = found
    return new


def register(connection: Connection, device: str, now_ms: int) -> int:
    """Register a device and return its number."""
    connection.execute(
        "INSERT INTO device (id, first_seen_ms, heard_ms, stray_count) VALUES (?, ?, ?, 0)",
        (device, now_ms, now_ms),
    )
    return connection.last_insert_rowid()


def remove(connection: Connection, device: str, n: int) -> None:
    """Remove a device and every row about it, its documents and the hub's for it included."""
    for table in (*TABLES, *_OF_A_DEVICE):
        connection.execute(f"DELETE FROM {table} WHERE device = ?", (n,))  # noqa: S608 - names are ours
    for table, column in (("document", "name"), ("authored", "document"), ("written", "document")):
        connection.execute(
            f"DELETE FROM {table} WHERE {column} IN (?, ?, ?)",  # noqa: S608 - names are ours
            [f"{kind.value}/{device}" for kind in (Kind.DEVICE, Kind.TELEMETRY, Kind.DESIRED)],
        )
    connection.execute("DELETE FROM offence WHERE device = ?", (device,))
    connection.execute("DELETE FROM device WHERE n = ?", (n,))


def save_heard(connection: Connection, heard: Iterable[tuple[int, int]]) -> None:
    """Note (hub UTC, device) of devices that were heard from."""
    connection.executemany("UPDATE device SET heard_ms = ? WHERE n = ?", heard)


def save_stray_counts(connection: Connection, counts: Iterable[tuple[int, int]]) -> None:
    """Note (count, device): acknowledgements of deployments that this hub does not know."""
    connection.executemany("UPDATE device SET stray_count = ? WHERE n = ?", counts)


def load_contacts(connection: Connection, devices: Iterable[int]) -> dict[int, bytes]:
    """Return the contacts of those of `devices` that have any."""
    rows = connection.execute(
        "SELECT c.device, c.contacts FROM json_each(?) AS j "
        "CROSS JOIN contact AS c ON c.device = j.value",
        (json.dumps(list(devices)),),
    )
    return {device: contacts for device, contacts in rows}  # noqa: C416 - rows are untyped


def save_contacts(connection: Connection, contacts: Mapping[int, bytes]) -> None:
    """Keep the contacts of devices."""
    connection.executemany("INSERT OR REPLACE INTO contact VALUES (?, ?)", contacts.items())


def save_offences(
    connection: Connection, offences: Iterable[tuple[str, str, int, int, str]]
) -> None:
    """Add (device, code, count, hub UTC, detail) to what devices did wrong."""
    connection.executemany(
        "INSERT INTO offence VALUES (?1, ?2, ?3, ?4, ?4, ?5) ON CONFLICT (device, code) "
        "DO UPDATE SET count = count + excluded.count, last_ms = excluded.last_ms, "
        "detail = excluded.detail",
        offences,
    )


def count_offenders(connection: Connection) -> int:
    """Return how many rows there are about what devices did wrong."""
    (found,) = next(connection.execute("SELECT count(*) FROM offence"))
    rows: int = found
    return rows
