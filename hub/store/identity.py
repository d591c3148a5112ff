"""The tables of claim tokens, enrolments, identities and certificates.

Owns their SQL. Never decides who belongs (`hub.identity`).
"""

import json
from collections.abc import Iterable
from dataclasses import astuple, fields
from typing import Any, Final, NamedTuple

from hub.identity.claims import Claim
from hub.identity.enrolment import Enrolment, State
from hub.store.database import Connection

_CLAIM: Final = ", ".join(field.name for field in fields(Claim))
_ENROLMENT: Final = ", ".join(field.name for field in fields(Enrolment))


class Identity(NamedTuple):
    """A device's key and newest certificate."""

    device: str
    device_class: str
    enrolment: str
    key_digest: bytes
    certificate: bytes
    not_before_ms: int
    not_after_ms: int
    revoked_ms: int | None


class Course(NamedTuple):
    """When a device took each step of its provisioning, hub UTC; None where it did not yet."""

    device: str
    device_class: str
    contact_ms: int
    claim_ms: int | None
    certificate_ms: int | None
    sync_ms: int | None
    healthy_ms: int | None
    ended_ms: int | None
    reason: str


# ------------------------------------------------------------------------------------- claims
def save_claim(connection: Connection, claim: Claim) -> None:
    """Keep a token."""
    marks = ", ".join("?" for _ in fields(Claim))
    connection.execute(
        f"INSERT OR REPLACE INTO claim ({_CLAIM}) VALUES ({marks})",  # noqa: S608 - own names
        astuple(claim),
    )


def load_claim(connection: Connection, secret_hash: bytes) -> Claim | None:
    """Return the token whose secret has this hash."""
    query = f"SELECT {_CLAIM} FROM claim WHERE secret_hash = ?"  # noqa: S608 - own names
    return next((_claim(row) for row in connection.execute(query, (secret_hash,))), None)


def claims(connection: Connection) -> list[Claim]:
    """Return all tokens, newest first."""
    query = f"SELECT {_CLAIM} FROM claim ORDER BY created_ms DESC, id"  # noqa: S608 - own names
    return [_claim(row) for row in connection.execute(query)]


def drop_claims(connection: Connection, before_ms: int) -> None:
    """Forget tokens that expired before."""
    connection.execute("DELETE FROM claim WHERE expires_ms < ?", (before_ms,))


def _claim(row: Any) -> Claim:
    values = dict(zip((field.name for field in fields(Claim)), row, strict=True))
    return Claim(**{**values, "is_withdrawn": bool(values["is_withdrawn"])})


# --------------------------------------------------------------------------------- enrolments
def save_enrolment(connection: Connection, enrolment: Enrolment) -> None:
    """Keep an enrolment as it stands now."""
    names = [field.name for field in fields(Enrolment)]
    marks = ", ".join("?" for _ in names)
    changed = ", ".join(f"{name} = excluded.{name}" for name in names if name != "id")
    connection.execute(
        f"INSERT INTO enrolment ({_ENROLMENT}) VALUES ({marks}) "  # noqa: S608 - own names
        f"ON CONFLICT (id) DO UPDATE SET {changed}",
        astuple(enrolment),
    )


def load_enrolment(connection: Connection, identity: str) -> Enrolment | None:
    """Return an enrolment."""
    query = f"SELECT {_ENROLMENT} FROM enrolment WHERE id = ?"  # noqa: S608 - own names
    return next((_enrolment(row) for row in connection.execute(query, (identity,))), None)


def named(connection: Connection, name: str, limit: int) -> list[Enrolment]:
    """Return enrolments whose id begins with `name`, or whose device is called so."""
    query = (
        f"SELECT {_ENROLMENT} FROM enrolment "  # noqa: S608 - own names
        "WHERE device = ?1 OR substr(id, 1, length(?1)) = ?1 ORDER BY n DESC LIMIT ?2"
    )
    return [_enrolment(row) for row in connection.execute(query, (name, limit))]


def latest(connection: Connection, state: State | None, limit: int) -> list[Enrolment]:
    """Return the newest enrolments, of one state if one is named, newest first."""
    query = (
        f"SELECT {_ENROLMENT} FROM enrolment "  # noqa: S608 - own names
        "WHERE ?1 IS NULL OR state = ?1 ORDER BY asked_ms DESC, n DESC LIMIT ?2"
    )
    wanted = None if state is None else state.value
    return [_enrolment(row) for row in connection.execute(query, (wanted, limit))]


def count_in(connection: Connection, state: State) -> int:
    """Return how many enrolments are in a state."""
    found = connection.execute("SELECT count(*) FROM enrolment WHERE state = ?", (state.value,))
    ((count,),) = found
    return int(count)


def count_waiting(connection: Connection, source: str) -> int:
    """Return how many enrolments from one network wait."""
    found = connection.execute(
        "SELECT count(*) FROM enrolment WHERE state = 'waiting' AND source = ?", (source,)
    )
    ((count,),) = found
    return int(count)


def waiting(connection: Connection, source: str | None, before_ms: int) -> list[Enrolment]:
    """Return enrolments that wait since before that moment, of one network if one is named."""
    query = (
        f"SELECT {_ENROLMENT} FROM enrolment WHERE state = 'waiting' "  # noqa: S608 - own names
        "AND asked_ms < ?1 AND (?2 IS NULL OR source = ?2) ORDER BY n"
    )
    return [_enrolment(row) for row in connection.execute(query, (before_ms, source))]


def keep_refused(connection: Connection, limit: int) -> None:
    """Forget refused enrolments but for the newest, and for keys that were revoked.

    Revoked ones are as many as operators have revoked; strangers cannot make any.
    """
    connection.execute(
        "DELETE FROM enrolment WHERE n IN (SELECT n FROM enrolment WHERE state = 'refused' "
        "AND reason != 'revoked' ORDER BY ended_ms DESC, n DESC LIMIT -1 OFFSET ?)",
        (limit,),
    )


def _enrolment(row: Any) -> Enrolment:
    values = dict(zip((field.name for field in fields(Enrolment)), row, strict=True))
    return Enrolment(**{**values, "state": State(values["state"])})


# --------------------------------------------------------------------------------- identities
def save_identity(connection: Connection, identity: Identity) -> None:
    """Keep the key and newest certificate of a device."""
    connection.execute(
        "INSERT OR REPLACE INTO identity VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(identity)
    )


def load_identity(connection: Connection, device: str) -> Identity | None:
    """Return the identity of a device, revoked or not."""
    rows = connection.execute("SELECT * FROM identity WHERE device = ?", (device,))
    return next((Identity(*row) for row in rows), None)


def live_of(connection: Connection, devices: Iterable[str]) -> set[str]:
    """Return those of `devices` whose identity counts."""
    rows = connection.execute(
        "SELECT i.device FROM json_each(?) AS j CROSS JOIN identity AS i ON i.device = j.value "
        "WHERE i.revoked_ms IS NULL",
        (json.dumps(list(devices)),),
    )
    return {device for (device,) in rows}


def save_certificate(
    connection: Connection, serial: int, device: str, *, not_after_ms: int, now_ms: int
) -> None:
    """Note a certificate that was issued, and forget those of the device that have expired."""
    connection.execute(
        "DELETE FROM certificate WHERE device = ? AND not_after_ms < ?", (device, now_ms)
    )
    connection.execute(
        "INSERT INTO certificate VALUES (?, ?, ?, NULL)", (_serial(serial), device, not_after_ms)
    )


def revoke(connection: Connection, device: str, now_ms: int) -> None:
    """Let neither the identity of a device count any more nor any of its certificates."""
    connection.execute(
        "UPDATE identity SET revoked_ms = ? WHERE device = ? AND revoked_ms IS NULL",
        (now_ms, device),
    )
    connection.execute(
        "UPDATE certificate SET revoked_ms = ? WHERE device = ? AND revoked_ms IS NULL",
        (now_ms, device),
    )


def revoked(connection: Connection, now_ms: int) -> list[tuple[int, int]]:
    """Return (serial, hub UTC) of revoked certificates that have not expired."""
    rows = connection.execute(
        "SELECT serial, revoked_ms FROM certificate "
        "WHERE revoked_ms IS NOT NULL AND not_after_ms >= ? ORDER BY revoked_ms, serial",
        (now_ms,),
    )
    return [(int.from_bytes(serial, "big"), at_ms) for serial, at_ms in rows]


def courses(connection: Connection) -> list[Course]:
    """Return how far each enrolment came; of a device, the one that came furthest, then latest.

    What a name did before its key was replaced says nothing of the replacement: only of the first
    enrolment of a name does it count what was there before, as of a fleet that turns TLS on.
    """
    rows = connection.execute(
        "WITH first AS (SELECT device, min(issued_ms) AS issued_ms FROM enrolment GROUP BY device),"
        " spoke AS (SELECT e.n, min(p.at_ms) AS at_ms FROM enrolment AS e "
        "JOIN device AS d ON d.id = e.device JOIN presence_log AS p "
        "ON p.device = d.n AND p.is_online AND p.at_ms >= e.issued_ms GROUP BY e.n), "
        "healthy AS (SELECT e.n, min(s.seen_at_ms) AS at_ms FROM seen AS s "
        "JOIN device AS d ON d.n = s.device JOIN enrolment AS e ON e.device = d.id "
        "AND s.seen_at_ms >= e.issued_ms WHERE s.stage = 'H' GROUP BY e.n), "
        "ever AS (SELECT device, min(seen_at_ms) AS at_ms FROM seen WHERE stage = 'H' "
        "GROUP BY device) "
        "SELECT e.device, e.device_class, e.asked_ms, e.accepted_ms, e.issued_ms, "
        "CASE WHEN e.issued_ms IS NULL THEN NULL "
        "WHEN e.issued_ms = first.issued_ms THEN max(d.first_seen_ms, e.issued_ms) "
        "ELSE coalesce(spoke.at_ms, CASE WHEN d.heard_ms >= e.issued_ms THEN d.heard_ms END) END, "
        "CASE WHEN e.issued_ms IS NULL THEN NULL "
        "WHEN e.issued_ms = first.issued_ms THEN max(ever.at_ms, e.issued_ms) "
        "ELSE healthy.at_ms END, "
        "e.ended_ms, e.reason FROM enrolment AS e LEFT JOIN device AS d ON d.id = e.device "
        "JOIN first ON first.device = e.device LEFT JOIN spoke ON spoke.n = e.n "
        "LEFT JOIN healthy ON healthy.n = e.n LEFT JOIN ever ON ever.device = d.n "
        "ORDER BY e.device, e.issued_ms IS NOT NULL, e.accepted_ms IS NOT NULL, e.n"
    )
    return list({row[0]: Course(*row) for row in rows}.values())


def _serial(serial: int) -> bytes:
    return serial.to_bytes(20, "big")  # RFC 5280, 4.1.2.2: at most 20 octets
