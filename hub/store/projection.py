"""The tables that queries read: what devices' documents say, one row a key.

Owns the projection's SQL, its version, and its rebuild. Never decides what a key means
(`hub.projection`).

Rule: the rows are a pure function of the documents, so dropping and rebuilding them gives the same
rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from hub.projection import Row, row_of, row_of_telemetry
from hub.store import documents
from hub.store.database import Connection, load_number, save_number, schema_text
from sync.documents import ACK, Kind, parse_document
from sync.replica import values_of

PROJECTION_VERSION: Final = 3
"""Goes up with every change to `schema/projection.sql` or to what a key means."""

OF_DEVICE: Final = (
    "p_fact",
    "p_version",
    "p_setting",
    "p_waiting",
    "p_conflict",
    "p_exposure",
    "p_obeyed",
)
OF_TELEMETRY: Final = ("p_measure", "p_event", "p_case")
TABLES: Final = (*OF_DEVICE, *OF_TELEMETRY)
"""By the document that they are made from."""

_PUT: Final = {
    "p_fact": "INSERT OR REPLACE INTO p_fact VALUES (?, ?, ?)",
    "p_version": "INSERT OR REPLACE INTO p_version VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "p_setting": "INSERT OR REPLACE INTO p_setting VALUES (?, ?, ?, ?, ?, ?)",
    "p_waiting": "INSERT OR REPLACE INTO p_waiting VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "p_conflict": "INSERT OR REPLACE INTO p_conflict VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "p_exposure": "INSERT OR REPLACE INTO p_exposure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "p_obeyed": "INSERT OR REPLACE INTO p_obeyed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "p_measure": "INSERT OR REPLACE INTO p_measure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "p_event": "INSERT OR REPLACE INTO p_event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "p_case": "INSERT OR REPLACE INTO p_case VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
}

_DROP: Final = {
    "p_fact": "DELETE FROM p_fact WHERE device = ? AND name = ?",
    "p_version": "DELETE FROM p_version WHERE device = ? AND component = ?",
    "p_setting": "DELETE FROM p_setting WHERE device = ? AND key = ?",
    "p_waiting": "DELETE FROM p_waiting WHERE device = ? AND deployment = ?",
    "p_conflict": "DELETE FROM p_conflict WHERE device = ? AND key = ?",
    "p_exposure": "DELETE FROM p_exposure WHERE device = ? AND flag = ?",
    "p_obeyed": "DELETE FROM p_obeyed WHERE device = ? AND what = ?",
    "p_measure": "DELETE FROM p_measure WHERE device = ? AND series = ?",
    "p_event": "DELETE FROM p_event WHERE device = ? AND slot = ?",
    "p_case": "DELETE FROM p_case WHERE device = ? AND intent = ?",
}

_BATCH_ROWS: Final = 5000


@dataclass(slots=True)
class Changes:
    """Rows to put and rows to drop, gathered for one transaction."""

    put: dict[str, list[tuple[object, ...]]] = field(default_factory=dict)
    drop: dict[str, list[tuple[object, ...]]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Take one row that was put, or dropped if it has no columns."""
        if row.columns is not None:
            self.put.setdefault(row.table, []).append(row.columns)
        elif row.table:
            self.drop.setdefault(row.table, []).append(row.identity)

    def save(self, connection: Connection) -> None:
        """Write what was gathered, in the order of the tables' keys, and forget it."""
        for table, identities in self.drop.items():
            connection.executemany(_DROP[table], identities)
        for table, rows in self.put.items():
            rows.sort(key=lambda row: row[:2])
            connection.executemany(_PUT[table], rows)
        self.put.clear()
        self.drop.clear()


def ensure(connection: Connection) -> bool:
    """Rebuild the projection if it is not of this program's version; True if an older one was."""
    found = load_number(connection, "projection_version")
    if found == PROJECTION_VERSION:
        return False
    rebuild(connection)
    return found != 0


def rebuild(connection: Connection) -> None:
    """Drop the projection and make it anew from the documents.

    Raises:
        DamagedDocument: One of them cannot be read.
    """
    for table in TABLES:
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    connection.execute(schema_text("projection.sql"))
    changes = Changes()
    for number, row in enumerate(_all_rows(connection), start=1):
        changes.add(row)
        if number % _BATCH_ROWS == 0:
            changes.save(connection)
    changes.save(connection)
    save_number(connection, "projection_version", PROJECTION_VERSION)


def drop(connection: Connection, device: int, kind: Kind = Kind.DEVICE) -> None:
    """Drop the rows of one device, whose document of this kind is gone."""
    for table in OF_TELEMETRY if kind is Kind.TELEMETRY else OF_DEVICE:
        connection.execute(f"DELETE FROM {table} WHERE device = ?", (device,))  # noqa: S608 - names are ours


def _all_rows(connection: Connection) -> Iterable[Row]:
    for kind, row in ((Kind.DEVICE, row_of), (Kind.TELEMETRY, row_of_telemetry)):
        stored = connection.execute(
            "SELECT d.n, c.name FROM document AS c "
            "JOIN device AS d ON d.id = substr(c.name, 5) WHERE c.name >= ? AND c.name < ?",
            (f"{kind.value}/", f"{kind.value}0"),
        )
        found: list[tuple[Any, Any]] = [(n, name) for n, name in stored]
        for n, name in found:
            values = values_of(documents.load(connection, parse_document(name)))
            for key, value in values.items():
                if not key.startswith(ACK):
                    yield row(n, key, value)


def dump(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of the projection, for comparison."""
    return {
        table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr)  # noqa: S608 - names are ours
        for table in TABLES
    }
