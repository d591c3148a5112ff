"""From the tables to the judgements on a deployment.

Owns what is fed to `hub.outcomes.judged`, and the shape of the answer. Judges nothing.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from hub.audit import DONE
from hub.courses import courses_of, patience_ms
from hub.labels import labels_of
from hub.looks import Looks
from hub.measure_judging import judge_ended, judge_speed, judge_uptime
from hub.outcomes.judged import judge_deployment, judge_fleet
from hub.outcomes.progress import Limits, ended_at_ms
from hub.outcomes.provisioning import provisioning
from hub.outcomes.report import DeploymentReport, build_report, sentence
from hub.outcomes.state_conflicts import Conflict
from hub.outcomes.survival import highest_share, lowest_share
from hub.outcomes.verdicts import Judgement, overall
from hub.store import audit, identity, queries
from hub.store import looks as look_store
from hub.store.audit import Row
from hub.store.database import Connection
from hub.store.deployments import Deployed
from hub.views import adoption_of, request_view
from sync.documents import Kind

AUDIT_ROWS_MAX: Final = 10_000
"""Changes since the deployment that are looked at for the help of people, the newest."""

CURVE_POINTS: Final = 24

_NEWEST: Final = 2**62

NOT_ASKED: Final[Mapping[str, str]] = {
    "p95": "no device has measured a histogram of this component before it and after",
    "crash_free": "no device that runs it has told of a full hour",
    "case_fallback": "no application has told who ended a case under this release",
    "canary": "no whole day has cases of devices that took it and of devices not meant to",
    "sample_ratio": "it divides no devices into arms; a flag does: fieldfare flag outcome",
    "multiple_exposure": "it is no flag",
}
"""Questions that the tables cannot answer for a deployment, and why: said, rather than left out."""


def verdicts_of(
    connection: Connection,
    deployed: Deployed,
    *,
    silence_s: float,
    active_window_s: float,
    limits: Limits,
    now_ms: int,
) -> tuple[dict[str, Any], Looks]:
    """Return every judgement on a deployment, the overall one first, and the looks at it."""
    courses = courses_of(connection, deployed, now_ms=now_ms)
    report = build_report(
        deployment=deployed.id,
        component=deployed.component,
        version=deployed.version,
        courses=courses,
        now_ms=now_ms,
        patience_ms=patience_ms(connection, deployed, silence_s=silence_s, now_ms=now_ms),
    )
    facts = {name: facts for name, _, facts in queries.facts_of_all(connection)}
    about = f"deployment:{deployed.id}"
    looks = Looks(
        about=about,
        since_ms=deployed.accepted_ms,
        after_ms=limits.look_after_ms,
        now_ms=now_ms,
        devices_min=min(limits.devices_min, len(report.devices)),
        kept=look_store.load(connection, about),
    )
    judged = (
        *judge_deployment(
            report,
            courses,
            labels={name: labels_of(held) for name, held in facts.items()},
            actions=human_actions(
                audit.page(connection, _NEWEST, deployed.accepted_ms, AUDIT_ROWS_MAX), report
            ),
            limits=limits,
        ),
        *judge_fleet(
            adopted=adoption_of(
                connection,
                deployed.component,
                queries.every(connection),
                now_ms=now_ms,
                window_ms=round(active_window_s * 1000),
            ),
            funnels=provisioning(identity.courses(connection), now_ms=now_ms).classes,
            conflicts=[
                Conflict(device=device, key=key, winner=winner)
                for device, key, winner in queries.open_conflicts(connection)
            ],
            devices_count=len(facts),
            limits=limits,
        ),
    )
    crashes = judge_uptime(connection, deployed, report, limits)
    measured = (
        *([] if crashes is None else [looks.take(crashes)]),
        *judge_ended(connection, deployed, report, limits),
        *map(looks.take, judge_speed(connection, deployed, report)),
    )
    return verdicts_view(deployed, report, (*judged, *measured)), looks


def verdicts_view(
    deployed: Deployed, report: DeploymentReport, judged: Sequence[Judgement]
) -> dict[str, Any]:
    """Return the judgements as they are answered."""
    verdict, said = overall(judged)
    plain: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(judged))
    return {
        **request_view(deployed),
        "at_ms": report.at_ms,
        "verdict": verdict.value,
        "sentence": said,
        "outcome": sentence(report),
        "judgements": plain,
        "not_asked": {
            name: why
            for name, why in NOT_ASKED.items()
            if not any(each.name.startswith(name) for each in judged)
        },
        "acknowledged": curve(report),
    }


def curve(report: DeploymentReport) -> list[dict[str, float]]:
    """Return the share of devices that had acknowledged by so long after the request.

    Between a lower and an upper bound, as the clocks leave it.
    """
    spans = [each.execution_gap for each in report.devices if each.execution_gap is not None]
    longest_ms = max((span.took.hi_ms or span.took.lo_ms or 0 for span in spans), default=0)
    if not longest_ms:
        return []
    moments = sorted({longest_ms * i // (CURVE_POINTS - 1) for i in range(CURVE_POINTS)})
    return [
        {
            "after_ms": at_ms,
            "lo": round(1 - highest_share(spans, at_ms), 6),
            "hi": round(1 - lowest_share(spans, at_ms), 6),
        }
        for at_ms in moments
    ]


def human_actions(rows: Iterable[Row], report: DeploymentReport) -> dict[str, list[str]]:
    """Return what operators did for single devices before the deployment ended on each.

    An order to every device of the deployment is steering and helps no single one, so it does not
    count; nor does what was refused or changed nothing.

    Args:
        rows: Of the audit, since the deployment was accepted.
        report: The report on it.
    """
    until = {each.device: ended_at_ms(each, report.at_ms) for each in report.devices}
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        device = _helped(row, report.deployment)
        if device in until and row.outcome == DONE and row.at_ms <= until[device]:
            found[device].append(row.action)
    return dict(found)


def _helped(row: Row, deployment: str) -> str:
    """Return the one device that a change was for, empty if it was for none or several."""
    if row.action == "deployment.terms" and row.object == deployment:
        device = json.loads(row.asked).get("device")
        return device if isinstance(device, str) else ""
    if row.action in {"setting.wish", "setting.unwish"}:
        kind, _, about = row.object.partition(" ")[0].partition("/")
        return about if kind == Kind.DESIRED.value else ""
    return row.object if row.action == "device.revoke" else ""
