"""What an operator is shown: answers built from the tables and the outcomes.

Owns the shape of the answers' insides. Never decides anything about a device: figures come from
`hub.outcomes`, effective settings from `sync.overlay`.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from hub.courses import courses_of, patience_ms
from hub.labels import groups_of, plain
from hub.outcomes.adoption import Adoption, DeviceVersion, adoption
from hub.outcomes.report import DeploymentReport, DeviceOutcome, build_report, sentence
from hub.store import deployments, documents, quarantine, queries, releases
from hub.store.database import Connection
from hub.store.deployments import Deployed
from hub.store.queries import Listed
from sync.documents import ACK, DESIRED, DocumentName, Kind
from sync.overlay import effective, latest
from sync.records import Ack, BadRecord, Desired, Local, decode_as, select
from sync.replica import values_of
from sync.stages import Stage, stage_of
from sync.stages import order as order_of

DEPLOYMENTS_SHOWN: Final = 20
DEVICES_REPORTED_MAX: Final = 20_000
"""Devices of all deployments together that one look at the fleet goes through: three seconds."""

OFFENDERS_SHOWN: Final = 20
STAGES_SHOWN: Final = 200
"""Acknowledgements of deployments that were listed without the device."""

DAMAGED_SHOWN: Final = 20
LOG_SHOWN: Final = 20


def report_of(
    connection: Connection,
    deployed: Deployed,
    *,
    silence_s: float,
    now_ms: int,
    n: int | None = None,
) -> DeploymentReport:
    """Return the report on a deployment, over its whole list or one device of it."""
    return build_report(
        deployment=deployed.id,
        component=deployed.component,
        version=deployed.version,
        courses=courses_of(connection, deployed, now_ms=now_ms, n=n),
        now_ms=now_ms,
        patience_ms=patience_ms(connection, deployed, silence_s=silence_s, now_ms=now_ms),
    )


def request_view(deployed: Deployed) -> dict[str, Any]:
    """Return what was asked for."""
    return {
        "deployment": deployed.id,
        "release": f"{deployed.component}@{deployed.version}",
        "component": deployed.component,
        "version": deployed.version,
        "manifest": deployed.release.hex(),
        "group": deployed.group or None,
        "where": deployed.selector,
        "requested_at_ms": deployed.requested_ms,
        "accepted_at_ms": deployed.accepted_ms,
        "cancelled_at_ms": deployed.cancelled_ms,
        "expires_at_ms": deployed.expires_ms or None,
    }


def outcome_view(outcome: DeviceOutcome) -> dict[str, Any]:
    """Return what a deployment came to on one device, in one level."""
    return {
        "device": outcome.device,
        **_plain(outcome.finding),
        "runs": outcome.runs,
        "stages": _plain(outcome.moments),
        "execution_gap": _plain(outcome.execution_gap),
        "handshake_latency": _plain(outcome.handshake_latency),
        "reachable_handshake_latency": _plain(outcome.reachable_handshake_latency),
    }


def report_view(deployed: Deployed, report: DeploymentReport) -> dict[str, Any]:
    """Return a whole report."""
    return {**summary_view(deployed, report), "devices": [outcome_view(o) for o in report.devices]}


def summary_view(deployed: Deployed, report: DeploymentReport) -> dict[str, Any]:
    """Return a report without its devices, but with the names of those that need a look."""
    names: dict[str, list[str]] = {}
    for outcome in report.devices:
        names.setdefault(outcome.finding.verdict.value, []).append(outcome.device)
    return {
        **request_view(deployed),
        "at_ms": report.at_ms,
        "sentence": sentence(report),
        "targeted_count": report.funnel.targeted_count,
        "running_count": report.running_count,
        "verdicts": {verdict.value: count for verdict, count in report.verdicts.items()},
        "devices_by_verdict": names,
        "funnel": _plain(report.funnel),
        "execution_gap": _plain(report.execution_gap),
        "handshake_latency": _plain(report.handshake_latency),
        "reachable_handshake_latency": _plain(report.reachable_handshake_latency),
        "silent_ratio": report.silent_ratio,
        "patience_ms": report.patience_ms,
    }


def fleet_view(
    connection: Connection, *, silence_s: float, active_window_s: float, now_ms: int
) -> dict[str, Any]:
    """Return how the fleet is: who runs the latest, what became of deployments, who is dark."""
    listed = queries.every(connection)
    window_ms = round(active_window_s * 1000)
    found = [
        adoption_of(connection, component, listed, now_ms=now_ms, window_ms=window_ms)
        for component in queries.components(connection)
    ]
    active = [each for each in listed if now_ms - each.heard_ms <= window_ms]
    reports: list[dict[str, Any]] = []
    left_count = DEVICES_REPORTED_MAX
    for deployed in deployments.latest(connection, DEPLOYMENTS_SHOWN):
        left_count -= deployments.count_targeted(connection, deployed.id)
        if reports and left_count < 0:
            break
        report = report_of(connection, deployed, silence_s=silence_s, now_ms=now_ms)
        reports.append(summary_view(deployed, report))
    return {
        "at_ms": now_ms,
        "registered_count": len(listed),
        "active_count": len(active),
        "online_count": sum(each.is_online is True for each in listed),
        "presence_unknown_count": sum(each.is_online is None for each in listed),
        "dark": [each.device for each in listed if now_ms - each.heard_ms > window_ms],
        "active_window_s": active_window_s,
        "adoption": [adoption_view(each) for each in found if each is not None],
        "deployments": reports,
        "unmeasured": _unmeasured(connection, [each["release"] for each in reports]),
        "open_conflicts_count": queries.count_conflicts(connection),
        "damaged": [
            {"document": found.document, "found_at_ms": found.found_ms, "reason": found.reason}
            for found in quarantine.latest(connection, DAMAGED_SHOWN)
        ],
        "offences": [
            offence_view(each) for each in queries.worst_offenders(connection, OFFENDERS_SHOWN)
        ],
    }


def _unmeasured(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Return the reason of each release that goes without owner or outcome."""
    reasons: dict[str, str] = {}
    for name in names:
        component, _, version = name.partition("@")
        release = releases.by_version(connection, component, version)
        if release is not None:
            reason = msgspec.json.decode(release.manifest).get("unmeasured")
            if reason:
                reasons[name] = str(reason)
    return reasons


def adoption_view(found: Adoption) -> dict[str, Any]:
    """Return how far a version has come."""
    view: dict[str, Any] = _plain(found)
    return view | {"adopted_ratio": found.adopted_ratio}


def adoption_of(
    connection: Connection,
    component: str,
    listed: Iterable[Listed],
    *,
    now_ms: int,
    window_ms: int,
) -> Adoption | None:
    """Return how far the latest version of a component has come; None if none was deployed."""
    newest = queries.latest_version(connection, component)
    if newest is None:
        return None
    version = newest[0]
    running = queries.versions_of_component(connection, component)
    targeted = queries.targeted_with(connection, component, version)
    rows = []
    for each in listed:
        now = running.get(each.n)
        rows.append(
            DeviceVersion(
                device=each.device,
                last_uplink_at_ms=each.heard_ms,
                version=now.version if now is not None else None,
                healthy=now.healthy if now is not None else False,
                targeted=each.n in targeted,
            )
        )
    return adoption(rows, component=component, version=version, now_ms=now_ms, window_ms=window_ms)


def listed_view(connection: Connection, each: Listed) -> dict[str, Any]:
    """Return one device in a list."""
    return {
        "device": each.device,
        "online": each.is_online,
        "first_seen_at_ms": each.first_seen_ms,
        "last_uplink_at_ms": each.heard_ms,
        "versions": [
            {"component": now.component, "version": now.version, "healthy": now.healthy}
            for now in queries.versions_of(connection, each.n)
        ],
    }


def device_view(
    connection: Connection, each: Listed, *, silence_s: float, now_ms: int
) -> dict[str, Any]:
    """Return everything that is known of one device."""
    facts = queries.facts_of(connection, each.n)
    reports = []
    for deployed in deployments.of_device(connection, each.n, DEPLOYMENTS_SHOWN):
        report = report_of(connection, deployed, silence_s=silence_s, now_ms=now_ms, n=each.n)
        reports += [request_view(deployed) | outcome_view(found) for found in report.devices]
    return {
        "device": each.device,
        "online": each.is_online,
        "first_seen_at_ms": each.first_seen_ms,
        "last_uplink_at_ms": each.heard_ms,
        "groups": list(groups_of(facts)),
        "facts": {name: plain(value) for name, value in sorted(facts.items())},
        "versions": [
            {
                "component": now.component,
                "version": now.version,
                "manifest": now.release.hex(),
                "healthy": now.healthy,
                "deployment": now.deployment or None,
                "reason": now.reason,
            }
            for now in queries.versions_of(connection, each.n)
        ],
        "deployments": reports,
        "joined_later": _joined_later(connection, each.n),
        "settings": settings_view(connection, each, groups_of(facts)),
        "presence": [
            {"at_ms": at_ms, "online": online, "birth": birth}
            for at_ms, online, birth in queries.log_of(connection, each.n, LOG_SHOWN)
        ],
        "receipts": [
            {"document": name, "epoch": epoch, "received_at_ms": received_ms}
            for name, epoch, _, received_ms in queries.receipts_of(connection, each.n)
        ],
        "offences": [offence_view(found) for found in queries.offences_of(connection, each.device)],
    }


def _joined_later(connection: Connection, n: int) -> list[dict[str, Any]]:
    """Return how far a device came with deployments that were listed without it."""
    furthest: dict[str, tuple[int, queries.Untargeted, Stage]] = {}
    for row in queries.untargeted_of(connection, n, STAGES_SHOWN):
        stage = stage_of(row.stage)
        if stage is None:
            continue
        order = order_of(stage)
        if row.deployment not in furthest or order > furthest[row.deployment][0]:
            furthest[row.deployment] = (order, row, stage)
    return [_joined_view(row, stage) for _, row, stage in furthest.values()]


def _joined_view(row: queries.Untargeted, stage: Stage) -> dict[str, Any]:
    try:
        ack = decode_as(Ack, ACK, row.record)
        reason, detail = ack.reason, ack.detail
    except BadRecord:
        reason = detail = ""
    return {
        "deployment": row.deployment,
        "release": f"{row.component}@{row.version}",
        "requested_at_ms": row.requested_ms,
        "stage": stage.value,
        "seen_at_ms": row.seen_ms,
        "reason": reason,
        "detail": detail,
    }


def offence_view(found: queries.Offended) -> dict[str, Any]:
    """Return something that a device did wrong."""
    return {
        "device": found.device,
        "code": found.code,
        "count": found.times,
        "first_at_ms": found.first_ms,
        "last_at_ms": found.last_ms,
        "detail": found.detail,
    }


def settings_view(
    connection: Connection, each: Listed, groups: Iterable[str]
) -> list[dict[str, Any]]:
    """Return each setting of a device: what both sides want, and what counts."""
    own = queries.locals_of(connection, each.n)
    conflicts = queries.conflicts_of(connection, each.n)
    wishes: dict[str, list[Desired]] = {}
    names = [DocumentName(Kind.DESIRED, each.device)]
    names += [DocumentName(Kind.GROUP, group) for group in groups]
    for document in names:
        values = values_of(documents.load(connection, document))
        for key, wish in select(Desired, DESIRED, values).items():
            wishes.setdefault(key, []).append(wish)
    found = []
    for key in sorted(own.keys() | wishes.keys() | conflicts.keys()):
        local = Local(*own[key]) if key in own else None
        counting = latest(wishes.get(key, ()))
        counts = effective(local, counting)
        told = conflicts.get(key)
        is_open = counts.conflict or (told is not None and told.winner != "")
        found.append(
            {
                "key": key,
                "local": plain(local.value) if local is not None else None,
                "desired": plain(counting.value) if counting is not None else None,
                "policy": counting.policy if counting is not None else None,
                "effective": plain(counts.value),
                "winner": counts.winner.value or None,
                "conflict": is_open,
            }
        )
    return found


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value, str_keys=True)
