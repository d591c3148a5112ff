"""What devices had measured when a deployment was accepted.

Owns its SQL and how much is kept. Never reads a record.
"""

from typing import Final, NamedTuple

from hub.store.database import Connection

DEPLOYMENTS_MAX_COUNT: Final = 50
"""Deployments of which it is kept: the latest."""

ROWS_MAX_COUNT: Final = 100_000
"""Histograms of single devices for one deployment, some 30 MB; of more, those of the devices that
were registered first."""


class Frozen(NamedTuple):
    """One histogram of one device as it was."""

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
        "DELETE FROM baseline WHERE deployment NOT IN "
        "(SELECT id FROM deployment ORDER BY accepted_ms DESC, id DESC LIMIT ?)",
        (DEPLOYMENTS_MAX_COUNT,),
    )


def of_deployment(connection: Connection, deployment: str) -> list[Frozen]:
    """Return what was kept for a deployment, in order."""
    rows = connection.execute(
        "SELECT d.id, b.series, b.metric, b.release, b.record FROM baseline AS b "
        "JOIN device AS d ON d.n = b.device WHERE b.deployment = ? ORDER BY d.id, b.series",
        (deployment,),
    )
    return [Frozen(*row) for row in rows]
