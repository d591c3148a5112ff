"""The tables of presence: who had a session with the broker, and when the hub was there to see it.

Owns their SQL. Never decides what a birth or a death means (`hub.presence`).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from hub.store.database import Connection

LOG_ROWS_MAX: Final = 200
"""Changes kept of one device; at one a day more than half a year."""

LISTENING_ROWS_MAX: Final = 1000


class Known(NamedTuple):
    """What is known of a device's presence."""

    n: int
    is_online: bool
    birth: int
    heard_ms: int
    """When the last presence message came in."""
    grace_ms: int
    """How late the death of this connection may be heard."""
    last_heard_ms: int
    """When anything came in from the device last."""


def load_many(connection: Connection, devices: Iterable[str]) -> Mapping[str, Known | int]:
    """Return of each registered device what is known, or its number alone if nothing is."""
    rows = connection.execute(
        "SELECT d.id, d.n, p.is_online, p.birth, p.heard_ms, p.grace_ms, "
        "max(d.heard_ms, p.heard_ms, coalesce(c.stored_ms, 0)) FROM json_each(?) AS j "
        "CROSS JOIN device AS d ON d.id = j.value LEFT JOIN presence AS p ON p.device = d.n "
        "LEFT JOIN document AS c ON c.name = 'dev/' || d.id",
        (json.dumps(list(devices)),),
    )
    return {
        device: n
        if birth is None
        else Known(n, bool(is_online), birth, heard_ms, grace_ms, last_heard_ms)
        for device, n, is_online, birth, heard_ms, grace_ms, last_heard_ms in rows
    }


def save(connection: Connection, known: Known, *, logged_ms: int | None) -> None:
    """Keep what is known now, and add it to the log with this hub UTC if it is news."""
    row = (known.n, int(known.is_online), known.birth, known.heard_ms, known.grace_ms)
    connection.execute("INSERT OR REPLACE INTO presence VALUES (?, ?, ?, ?, ?)", row)
    if logged_ms is None:
        return
    connection.execute(
        "INSERT INTO presence_log (device, at_ms, is_online, birth) VALUES (?, ?, ?, ?)",
        (known.n, logged_ms, int(known.is_online), known.birth),
    )
    connection.execute(
        "DELETE FROM presence_log WHERE n IN (SELECT n FROM presence_log WHERE device = ? "
        "ORDER BY n DESC LIMIT -1 OFFSET ?)",
        (known.n, LOG_ROWS_MAX),
    )


def begin_listening(connection: Connection, now_ms: int) -> int:
    """Note that the hub is connected from now on; return the number of the span.

    What was heard before lies before it, even if the clock was turned back since.
    """
    end_listening(connection)
    connection.execute("UPDATE presence SET heard_ms = ?1 - 1 WHERE heard_ms >= ?1", (now_ms,))
    connection.execute(
        "INSERT INTO listening (from_ms, until_ms, is_open) VALUES (?, ?, 1)", (now_ms, now_ms)
    )
    number = connection.last_insert_rowid()
    connection.execute("DELETE FROM listening WHERE n <= ?", (number - LISTENING_ROWS_MAX,))
    return number


def go_on_listening(connection: Connection, now_ms: int) -> None:
    """Note that the hub is still connected."""
    connection.execute("UPDATE listening SET until_ms = ? WHERE is_open", (now_ms,))


def end_listening(connection: Connection, now_ms: int | None = None) -> None:
    """Note that the hub is not connected any more: since `now_ms`, or since it last said so."""
    connection.execute(
        "UPDATE listening SET is_open = 0, until_ms = coalesce(?, until_ms) WHERE is_open",
        (now_ms,),
    )


def load_listening(connection: Connection) -> list[tuple[int, int | None]]:
    """Return the spans in which the hub was connected, oldest first; None while one lasts."""
    rows = connection.execute("SELECT from_ms, until_ms, is_open FROM listening ORDER BY n")
    return [(from_ms, None if is_open else until_ms) for from_ms, until_ms, is_open in rows]
