"""The tables of deployments: what was asked for, of whom, and the hub's own stages.

Owns their SQL. Never decides who is meant (`hub.deployments`).
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from hub.store.database import Connection
from sync.stages import Stage, code_of, is_final

_FINAL = json.dumps([code_of(stage) for stage in Stage if is_final(stage)])

ALL = 0
"""In place of a device: every device on the list."""

_COLUMNS = (
    "SELECT id, release, component, version, ordered, fleet_group, selector, expires_ms, "
    "requested_ms, accepted_ms, cancelled_ms FROM deployment"
)


class Deployed(NamedTuple):
    """A deployment as it was accepted."""

    id: str
    release: bytes
    component: str
    version: str
    ordered: int
    group: str
    """Empty for a list of devices."""
    selector: str
    expires_ms: int
    requested_ms: int
    accepted_ms: int
    cancelled_ms: int | None


class Targeted(NamedTuple):
    """One device on the list of a deployment."""

    n: int
    device: str
    covered_ms: int | None
    missed_ms: int | None
    missed_sent_ms: int | None
    superseded_ms: int | None


def save(connection: Connection, deployed: Deployed, devices: Iterable[int]) -> None:
    """Add a deployment with the list of devices it is meant for."""
    connection.execute(
        "INSERT INTO deployment (id, release, component, version, ordered, fleet_group, selector, "
        "expires_ms, requested_ms, accepted_ms, cancelled_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        deployed,
    )
    connection.executemany(
        "INSERT INTO targeted (deployment, device) VALUES (?, ?)",
        [(deployed.id, n) for n in devices],
    )


def supersede(connection: Connection, by: Deployed) -> None:
    """Note on every device of `by` that it takes the place of earlier ones of its component."""
    connection.execute(
        "UPDATE targeted SET superseded_ms = ?1 WHERE superseded_ms IS NULL AND device IN "
        "(SELECT device FROM targeted WHERE deployment = ?2) AND deployment IN "
        "(SELECT id FROM deployment WHERE component = ?3 AND ordered < ?4)",
        (by.accepted_ms, by.id, by.component, by.ordered),
    )


def unsupersede(connection: Connection, cancelled: Deployed) -> None:
    """Note for the devices of a cancelled deployment which other one supersedes each earlier one.

    Of its component, and as far as a document still carries the earlier one: what devices cannot
    get any more stays superseded.
    """
    connection.execute(
        "UPDATE targeted SET superseded_ms = (SELECT min(p.accepted_ms) FROM deployment AS p "
        "JOIN targeted AS t ON t.deployment = p.id WHERE t.device = targeted.device "
        "AND p.component = ?2 AND p.cancelled_ms IS NULL AND p.ordered > "
        "(SELECT ordered FROM deployment WHERE id = targeted.deployment)) "
        "WHERE device IN (SELECT device FROM targeted WHERE deployment = ?1) AND deployment IN "
        "(SELECT d.id FROM deployment AS d JOIN written AS w ON w.deployment = d.id "
        "WHERE d.component = ?2 AND d.ordered < ?3 AND w.gone_epoch IS NULL)",
        (cancelled.id, cancelled.component, cancelled.ordered),
    )


def carried(connection: Connection, document: str, component: str) -> list[Deployed]:
    """Return the deployments of a component that `document` carries or carried, oldest first."""
    rows = connection.execute(
        f"{_COLUMNS} JOIN written AS w ON w.deployment = id "
        "WHERE w.document = ? AND component = ? ORDER BY ordered",
        (document, component),
    )
    return [Deployed._make(row) for row in rows]


def would_take_back(connection: Connection, earlier: str, later: str) -> bool:
    """Tell whether a device has applied `later` and might still start `earlier` after it."""
    rows = connection.execute(
        "SELECT 1 FROM seen AS s WHERE s.deployment = ?2 AND s.stage = ?3 AND NOT EXISTS "
        "(SELECT 1 FROM seen AS f WHERE f.deployment = ?1 AND f.device = s.device "
        "AND f.stage IN (SELECT value FROM json_each(?4))) LIMIT 1",
        (earlier, later, code_of(Stage.APPLIED), _FINAL),
    )
    return any(True for _ in rows)


def cancel(connection: Connection, deployment: str, now_ms: int) -> None:
    """Note that an operator took a deployment back."""
    connection.execute(
        "UPDATE deployment SET cancelled_ms = ? WHERE id = ? AND cancelled_ms IS NULL",
        (now_ms, deployment),
    )


def load(connection: Connection, deployment: str) -> Deployed | None:
    """Return a deployment, None if there is none of this id."""
    rows = connection.execute(f"{_COLUMNS} WHERE id = ?", (deployment,))
    return next((Deployed._make(row) for row in rows), None)


def latest(connection: Connection, limit: int) -> list[Deployed]:
    """Return the newest deployments, newest first."""
    rows = connection.execute(f"{_COLUMNS} ORDER BY n DESC LIMIT ?", (limit,))
    return [Deployed._make(row) for row in rows]


def before(connection: Connection, deployed: Deployed, limit: int) -> list[Deployed]:
    """Return the newest deployments older than `deployed`, newest first."""
    rows = connection.execute(
        f"{_COLUMNS} WHERE ordered < ? ORDER BY n DESC LIMIT ?",
        (deployed.ordered, limit),
    )
    return [Deployed._make(row) for row in rows]


def of_device(connection: Connection, device: int, limit: int) -> list[Deployed]:
    """Return the newest deployments that target a device, newest first."""
    rows = connection.execute(
        f"{_COLUMNS} JOIN targeted AS t ON t.deployment = id WHERE t.device = ? "
        "ORDER BY n DESC LIMIT ?",
        (device, limit),
    )
    return [Deployed._make(row) for row in rows]


def count_targeted(connection: Connection, deployment: str) -> int:
    """Return how many devices are on a deployment's list."""
    rows = connection.execute("SELECT count(*) FROM targeted WHERE deployment = ?", (deployment,))
    (found,) = next(rows)
    listed: int = found
    return listed


def targeted(
    connection: Connection, deployment: str, *, device: int | None = None, limit: int = -1
) -> list[Targeted]:
    """Return the devices on a deployment's list, or the one that is asked for."""
    rows = connection.execute(
        "SELECT t.device, d.id, t.covered_ms, t.missed_ms, t.missed_sent_ms, t.superseded_ms "
        "FROM targeted AS t JOIN device AS d ON d.n = t.device "
        "WHERE t.deployment = ?1 AND (?2 IS NULL OR t.device = ?2) LIMIT ?3",
        (deployment, device, limit),
    )
    return [Targeted._make(row) for row in rows]


def documents_of(connection: Connection, deployment: str) -> list[str]:
    """Return the names of the documents that carry a deployment."""
    rows = connection.execute(
        "SELECT document FROM written WHERE deployment = ? AND gone_epoch IS NULL", (deployment,)
    )
    return [name for (name,) in rows]


def save_stages(
    connection: Connection, stages: Iterable[tuple[str, int, str, int, int | None]]
) -> None:
    """Note (deployment, device, stage, hub UTC, reason code) of stages; the first time counts."""
    connection.executemany("INSERT OR IGNORE INTO hub_stage VALUES (?, ?, ?, ?, ?)", stages)


def load_stages(connection: Connection, deployment: str) -> list[tuple[int, str, int, int | None]]:
    """Return (device, stage, hub UTC, reason code) of a deployment."""
    rows = connection.execute(
        "SELECT device, stage, at_ms, reason_code FROM hub_stage WHERE deployment = ?",
        (deployment,),
    )
    return [(device, stage, at_ms, code) for device, stage, at_ms, code in rows]


def has_stage(connection: Connection, deployment: str, device: int | None, stage: str) -> bool:
    """Tell whether a stage is noted already."""
    rows = connection.execute(
        "SELECT 1 FROM hub_stage WHERE deployment = ? AND device = ? AND stage = ?",
        (deployment, device, stage),
    )
    return any(True for _ in rows)
