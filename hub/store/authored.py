"""The table of what the hub's own documents hold, entry by entry: a second copy, for repairs.

Owns its SQL. Nothing reads it as long as the documents themselves can be read.
"""

from collections.abc import Mapping

from hub.store.database import Connection
from sync.documents import DocumentName, parse_document


def save(connection: Connection, document: DocumentName, values: Mapping[str, bytes]) -> None:
    """Keep `values` as all that `document` holds."""
    name = str(document)
    connection.execute("DELETE FROM authored WHERE document = ?", (name,))
    connection.executemany(
        "INSERT INTO authored VALUES (?, ?, ?)",
        [(name, key, value) for key, value in values.items()],
    )


def load(connection: Connection, document: DocumentName) -> dict[str, bytes]:
    """Return what `document` held when it was last stored."""
    rows = connection.execute(
        "SELECT key, value FROM authored WHERE document = ?", (str(document),)
    )
    return {key: value for key, value in rows}  # noqa: C416 - rows are untyped


def lost(connection: Connection) -> list[DocumentName]:
    """Return the documents that held something and are not there."""
    rows = connection.execute(
        "SELECT DISTINCT document FROM authored "
        "WHERE document NOT IN (SELECT name FROM document) ORDER BY 1"
    )
    return [parse_document(name) for (name,) in rows]
