"""The tables of evidence: what devices said they hold of what the hub writes.

Owns their SQL, and where a deployment stands in a document. Never decides what covers what
(`hub.receipts`).
"""

from collections.abc import Iterable
from typing import NamedTuple

from hub.store.database import Connection


class Written(NamedTuple):
    """Where a deployment stands in a document."""

    deployment: str
    epoch: int
    client: int
    clock: int
    gone_epoch: int | None
    """First epoch that does not hold it any more; None while all do."""


def load_written(connection: Connection, document: str) -> list[Written]:
    """Return the deployments that `document` carries or carried, oldest first."""
    rows = connection.execute(
        "SELECT deployment, epoch, client, clock, gone_epoch FROM written WHERE document = ? "
        "ORDER BY epoch, clock",
        (document,),
    )
    return [Written._make(row) for row in rows]


def save_written(connection: Connection, document: str, written: Written) -> None:
    """Note where a deployment was written."""
    connection.execute(
        "INSERT OR REPLACE INTO written VALUES (?, ?, ?, ?, ?, ?)", (document, *written)
    )


def save_gone(
    connection: Connection, document: str, deployments: Iterable[str], epoch: int
) -> None:
    """Note that from `epoch` on `document` does not hold `deployments` any more."""
    connection.executemany(
        "UPDATE written SET gone_epoch = ? WHERE document = ? AND deployment = ? "
        "AND gone_epoch IS NULL",
        [(epoch, document, deployment) for deployment in deployments],
    )


def save_receipts(
    connection: Connection, receipts: Iterable[tuple[int, str, int, bytes, int]]
) -> None:
    """Keep (device, document, epoch, vector, received) as the last word of each device."""
    connection.executemany("INSERT OR REPLACE INTO receipt VALUES (?, ?, ?, ?, ?)", receipts)


def save_covered(connection: Connection, rows: Iterable[tuple[int, str, int]]) -> None:
    """Note (received, deployment, device): the device is proven to hold the deployment."""
    connection.executemany(
        "UPDATE targeted SET covered_ms = ? "
        "WHERE deployment = ? AND device = ? AND covered_ms IS NULL",
        rows,
    )


def save_missed(connection: Connection, rows: Iterable[tuple[int, int | None, str, int]]) -> None:
    """Note (received, sent at the earliest, deployment, device): it did not hold it then."""
    connection.executemany(
        "UPDATE targeted SET missed_ms = ?, missed_sent_ms = ? "
        "WHERE deployment = ? AND device = ? AND covered_ms IS NULL",
        rows,
    )


def unsettled(connection: Connection, limit: int) -> list[str]:
    """Return devices whose last word on their desired document is not what the hub holds."""
    rows = connection.execute(
        "SELECT d.id FROM document AS c JOIN device AS d ON d.id = substr(c.name, 5) "
        "LEFT JOIN receipt AS r ON r.device = d.n AND r.document = c.name "
        "LEFT JOIN presence AS p ON p.device = d.n "
        "WHERE c.name >= 'des/' AND c.name < 'des0' AND coalesce(p.is_online, 1) "
        "AND (r.epoch IS NOT c.epoch OR r.vector IS NOT c.vector) LIMIT ?",
        (limit,),
    )
    return [device for (device,) in rows]
