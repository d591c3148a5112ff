"""The table of releases. Owns its SQL."""

from typing import NamedTuple

from hub.store.database import Connection

_COLUMNS = "SELECT digest, component, version, manifest, created_ms FROM release"


class Release(NamedTuple):
    """A manifest that was published here."""

    digest: bytes
    component: str
    version: str
    manifest: bytes
    """Canonical bytes; their SHA-256 is `digest`."""
    created_ms: int


def by_digest(connection: Connection, digest: bytes) -> Release | None:
    """Return the release with this digest."""
    rows = connection.execute(f"{_COLUMNS} WHERE digest = ?", (digest,))
    return next((Release._make(row) for row in rows), None)


def by_version(connection: Connection, component: str, version: str) -> Release | None:
    """Return the release of a component with this version."""
    rows = connection.execute(
        f"{_COLUMNS} WHERE component = ? AND version = ?", (component, version)
    )
    return next((Release._make(row) for row in rows), None)


def every(connection: Connection) -> list[Release]:
    """Return all releases, newest first."""
    rows = connection.execute(f"{_COLUMNS} ORDER BY n DESC")
    return [Release._make(row) for row in rows]


def save(connection: Connection, release: Release) -> None:
    """Add a release."""
    connection.execute(
        "INSERT INTO release (digest, component, version, manifest, created_ms) "
        "VALUES (?, ?, ?, ?, ?)",
        release,
    )
