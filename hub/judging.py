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
from hub.outcomes.judged import judge_deployment, judge_fleet
from hub.outcomes.progress import Limits, ended_at_ms
from hub.outcomes.provisioning import provisioning
from hub.outcomes.regression import P95
from hub.outcomes.report import DeploymentReport, build_report, sentence
from hub.outcomes.silence import Verdict
from hub.outcomes.slower import Watched, judge_slower
from hub.outcomes.state_conflicts import Conflict
from hub.outcomes.survival import highest_share, lowest_share
from hub.outcomes.verdicts import Judgement, overall
from hub.store import audit, baseline, identity, measures, queries
from hub.store.audit import Row
from hub.store.database import Connection
from hub.store.deployments import Deployed
from hub.store.measures import Asked
from hub.views import adoption_of, request_view
from sync.documents import MEASURE, Kind
from sync.records import Measure, decode
from sync.sketch import HISTOGRAM, Sketch, from_record, merged, since

AUDIT_ROWS_MAX: Final = 10_000
"""Changes since the deployment that are looked at for the help of people, the newest."""

CURVE_POINTS: Final = 24

VALUES_MIN_COUNT: Final = 20
"""Values of one device of which a 95th percentile is taken: of fewer it is the highest of them."""

_NEWEST: Final = 2**62

NOT_ASKED: Final[Mapping[str, str]] = {
    "p95": "no device has measured a histogram of this component before it and after",
    "canary": "the rest does not take it, so there is nothing in which both could fail",
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
) -> dict[str, Any]:
    """Return every judgement on a deployment, the overall one first."""
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
    return verdicts_view(deployed, report, (*judged, *judge_slower(_metrics(connection, report))))


def _metrics(connection: Connection, report: DeploymentReport) -> dict[str, list[Watched]]:
    """Return the 95th percentiles of devices before and after, for each metric of the component."""
    release = f"{report.component}@{report.version}"
    meant = {each.device for each in report.devices}
    took = [each.device for each in report.devices if each.finding.verdict is Verdict.ACKNOWLEDGED]
    before: dict[tuple[str, str], dict[str, Measure]] = defaultdict(dict)
    for each in baseline.of_deployment(connection, report.deployment):
        before[each.metric, each.device][each.series] = _histogram(each.record)
    if not before:
        return {}
    after: dict[tuple[str, str], Sketch] = defaultdict(Sketch)
    elsewhere: set[str] = set()
    for row in measures.series(connection, Asked(release=report.component)):
        if row.device in meant:
            is_after = row.release == release
        else:
            is_after = True
            if row.release == release:
                elsewhere.add(row.device)  # it has the release by another way
        if row.kind != HISTOGRAM or not is_after:
            continue
        now = _histogram(row.record)
        then = before[row.metric, row.device].get(f"{row.metric}/{row.release}/{row.variant}")
        grown = from_record(now) if then is None else since(now, then)
        if grown is not None:
            after[row.metric, row.device].merge(grown)
    rest = sorted({device for _, device in before} - meant - elsewhere)
    found: dict[str, list[Watched]] = defaultdict(list)
    for metric in sorted({metric for metric, _ in before}):
        for device in (*took, *rest):
            held = merged(map(from_record, before[metric, device].values()))
            found[metric].append(
                Watched(
                    device=device,
                    is_canary=device in meant,
                    before=_p95(held),
                    after=_p95(after[metric, device]),
                )
            )
    return found


def _histogram(record: bytes) -> Measure:
    found = decode(MEASURE, record)
    assert isinstance(found, Measure)  # noqa: S101 - by its prefix
    return found


def _p95(held: Sketch) -> float | None:
    """Return the 95th percentile of one device, None of so few values that it says nothing."""
    return held.quantile(P95) if held.count >= VALUES_MIN_COUNT else None


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
