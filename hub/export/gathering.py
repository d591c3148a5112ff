"""What is worth telling others: changes of operators, and what deployments come to.

Owns what becomes an event. Runs inside a transaction of the hub, and sends nothing: an event that
was gathered once is told, though the hub is killed between the two.
"""

from collections import Counter
from typing import Any, Final

import msgspec

from hub.export import events
from hub.outcomes.report import DeploymentReport
from hub.store import audit, outbox
from hub.store.database import Connection
from hub.store.deployments import Deployed

ROWS_AT_ONCE: Final = 200
"""Of the audit, in one transaction."""

DEVICES_NAMED_MAX: Final = 100
"""Names in one event; the counts are of all."""


def gather_changes(connection: Connection) -> int:
    """Let what was changed since the last look wait to be told; return how many events.

    What was changed before the first look is not told.
    """
    looked = outbox.audit_looked(connection)
    if looked is None:
        outbox.look_audit(connection, audit.span(connection)[1])
        return 0
    rows = audit.following(connection, looked, ROWS_AT_ONCE)
    for row in rows:
        content: dict[str, Any] = row._asdict() | {"asked": msgspec.json.decode(row.asked)}
        text = msgspec.json.encode(content).decode()
        outbox.add(connection, events.CHANGED, row.object, row.at_ms, text)
    if rows:
        outbox.look_audit(connection, rows[-1].n)
    return len(rows)


def gather_verdicts(connection: Connection, deployed: Deployed, report: DeploymentReport) -> bool:
    """Let it wait to be told if a deployment came to something else since the last look."""
    before = outbox.verdicts(connection, deployed.id)
    now = {each.device: each.finding.verdict.value for each in report.devices}
    changed = {device: verdict for device, verdict in now.items() if before.get(device) != verdict}
    if not changed:
        return False
    content = {
        "deployment": deployed.id,
        "component": deployed.component,
        "version": deployed.version,
        "targeted_count": report.funnel.targeted_count,
        "verdicts": dict(Counter(now.values())),
        "changed_count": len(changed),
        "changed": [
            {"device": device, "from": before.get(device), "to": verdict}
            for device, verdict in list(changed.items())[:DEVICES_NAMED_MAX]
        ],
    }
    text = msgspec.json.encode(content).decode()
    outbox.add(connection, events.VERDICTS, deployed.id, report.at_ms, text)
    outbox.put_verdicts(connection, deployed.id, changed)
    return True
