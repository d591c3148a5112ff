"""What devices had measured when a deployment was accepted.

Owns its SQL and how much is kept. Never reads a record.
"""

import json
from typing import Final, NamedTuple

from hub.store.database import Connection
from sync.series import NONE

DEPLOYMENTS_MAX_COUNT: Final = 50
"""Deployments of which it is kept: the latest."""

ROWS_MAX_COUNT: Final = 100_000
"""Histograms of single devices for one deployment, some 30 MB; of more, those of the devices that
were registered first."""


VITALS: Final = ("device.crash_free_hours", "device.hours")
"""Counters of the device itself that are kept as well."""


class Frozen(NamedTuple):
    """One series of one device as it was."""

    device: str
    series: str
    metric: str
    release: str
    record: bytes


def freeze(connection: Connection, deployment: str, component: str) -> None:
    """Keep what is measured of any version of the component now, and drop what is too old."""
    connection.execute(
        "INSERT OR REPLACE INTO baseline SELECT ?1, device, series, metric, release, record "
        "FROM p_measure WHERE kind = 'h' AND substr(release, 1, length(?2) + 1) = ?2 || '@' "
        "ORDER BY device, series LIMIT ?3",
        (deployment, component, ROWS_MAX_COUNT),
    )
    connection.execute(
        "INSERT OR REPLACE INTO baseline SELECT ?1, device, series, metric, release, record "
        "FROM p_measure WHERE metric IN (SELECT value FROM json_each(?2)) AND release = ?3 "
        "ORDER BY device, series LIMIT ?4",
        (deployment, json.dumps(VITALS), NONE, ROWS_MAX_COUNT),
    )
    connection.execute(
        "DELETE FROM baseline WHERE deployment NOT IN "
        "(SELECT id FROM deployment ORDER BY accepted_ms DESC, id DESC LIMIT ?)",
        (DEPLOYMENTS_MAX_COUNT,),
    )


def of_deployment(connection: Connection, deployment: str) -> list[Frozen]:
    """Return the histograms that were kept for a deployment, in order."""
    return _kept(connection, deployment, "b.release <> ?")


def vitals_of(connection: Connection, deployment: str) -> list[Frozen]:
    """Return the counters of devices themselves that were kept for a deployment."""
    return _kept(connection, deployment, "b.release = ?")


def _kept(connection: Connection, deployment: str, which: str) -> list[Frozen]:
    rows = connection.execute(
        "SELECT d.id, b.series, b.metric, b.release, b.record FROM baseline AS b "  # noqa: S608 - ours
        f"JOIN device AS d ON d.n = b.device WHERE b.deployment = ? AND {which} "
        "ORDER BY d.id, b.series",
        (deployment, NONE),
    )
    return [Frozen(*row) for row in rows]
