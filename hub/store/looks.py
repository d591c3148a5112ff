"""The table of planned looks.

Owns its SQL. When one is made is `hub.looks`'.
"""

from collections.abc import Mapping

from hub.store.database import Connection


def save(connection: Connection, about: str, at_ms: int, made: Mapping[str, str]) -> None:
    """Keep what planned looks found, as JSON by name; an earlier one stays what it was."""
    connection.executemany(
        "INSERT OR IGNORE INTO look VALUES (?, ?, ?, ?)",
        [(about, name, at_ms, judgement) for name, judgement in made.items()],
    )


def load(connection: Connection, about: str) -> dict[str, tuple[int, str]]:
    """Return (hub UTC, judgement as JSON) of every look that was made, by name."""
    rows = connection.execute("SELECT name, at_ms, judgement FROM look WHERE about = ?", (about,))
    return {name: (at_ms, judgement) for name, at_ms, judgement in rows}
