"""The table of what the hub's own documents hold, entry by entry: a second copy, for repairs.

Owns its SQL. As long as the documents themselves can be read, it only serves to look up single
entries of many.
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


def of_deployment(connection: Connection, deployment: str, key: str) -> list[tuple[str, bytes]]:
    """Return (document, value) of `key` in the documents of a deployment and of its devices."""
    rows = connection.execute(
        "SELECT a.document, a.value FROM written AS w "
        "JOIN authored AS a ON a.document = w.document AND a.key = ?2 WHERE w.deployment = ?1 "
        "UNION SELECT a.document, a.value FROM targeted AS t JOIN device AS d ON d.n = t.device "
        "JOIN authored AS a ON a.document = 'des/' || d.id AND a.key = ?2 WHERE t.deployment = ?1",
        (deployment, key),
    )
    return [(document, value) for document, value in rows]


def lost(connection: Connection) -> list[DocumentName]:
    """Return the documents that held something and are not there."""
    rows = connection.execute(
        "SELECT DISTINCT document FROM authored "
        "WHERE document NOT IN (SELECT name FROM document) ORDER BY 1"
    )
    return [parse_document(name) for (name,) in rows]
