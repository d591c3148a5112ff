"""From what devices measured to the judgements on a deployment: slower, crashes, cases, canaries.

Owns which measurements are held against which. Judges nothing (`hub.outcomes`); reads only.

Before is what was frozen when the deployment was accepted (`hub.store.baseline`), after is what has
come since. Canaries are the devices that took the release, the rest those that it was not meant
for.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from hub.anchors import contacts_in
from hub.measures import HUMAN, is_ended
from hub.outcomes.canary import judge_canary
from hub.outcomes.crashes import Uptime, judge_crashes
from hub.outcomes.ended_cases import Ended, days_of, judge_cases
from hub.outcomes.progress import Limits
from hub.outcomes.regression import P95
from hub.outcomes.report import DeploymentReport
from hub.outcomes.silence import Verdict
from hub.outcomes.slower import Watched, judge_slower
from hub.outcomes.verdicts import Judgement
from hub.store import baseline, devices, measures, releases
from hub.store.database import Connection
from hub.store.deployments import Deployed
from hub.store.measures import Asked
from sync.contacts import Contacts, interval_of
from sync.documents import MEASURE
from sync.records import Measure, decode_as
from sync.series import NONE
from sync.sketch import HISTOGRAM, Sketch, from_record, merged, since
from sync.stamps import Stamp

VALUES_MIN_COUNT: Final = 20
"""Values of one device of which a 95th percentile is taken: of fewer it is the highest of them."""


def judge_speed(
    connection: Connection, deployed: Deployed, report: DeploymentReport
) -> tuple[Judgement, ...]:
    """Return whether the release made something slower, metric by metric: for one look."""
    metrics = _metrics(connection, report)
    release = releases.by_digest(connection, deployed.release)
    manifest = {} if release is None else msgspec.json.decode(release.manifest)
    named = {name: metrics[name] for name in manifest.get("outcomes", ()) if name in metrics}
    return judge_slower(named or metrics)


def judge_uptime(
    connection: Connection, deployed: Deployed, report: DeploymentReport, limits: Limits
) -> Judgement | None:
    """Return whether devices crash under the release: for one look; None if none told of it."""
    ran = {each.device for each in report.devices if each.runs}
    before = {
        (each.device, each.metric): _measure(each.record).total
        for each in baseline.vitals_of(connection, deployed.id)
    }
    now: dict[str, dict[str, float]] = defaultdict(dict)
    for metric in baseline.VITALS:
        for row in measures.series(connection, Asked(metric=metric, release=NONE)):
            if row.device in ran:
                grown = row.total - before.get((row.device, metric), 0.0)
                now[row.device][metric] = grown
    free, hours = baseline.VITALS
    return judge_crashes(
        [
            Uptime(device=device, hours=held[hours], crash_free_hours=held[free])
            for device, held in sorted(now.items())
            # A counter that began anew has less than was frozen, and says nothing about since.
            if held.keys() == set(baseline.VITALS) and held[free] >= 0
        ],
        normal=limits.crashed_ratio,
    )


def judge_ended(
    connection: Connection, deployed: Deployed, report: DeploymentReport, limits: Limits
) -> list[Judgement]:
    """Return what applications' cases say: who ends them, and whether canaries fail more often."""
    ended = _ended(connection, deployed, report)
    days = days_of(ended, since_ms=deployed.accepted_ms, now_ms=report.at_ms)
    cases = judge_cases(ended, normal=limits.human_ratio)
    found = [] if cases is None else [cases]
    if any(day.canary_count for day in days) and any(day.rest_count for day in days):
        found.append(judge_canary(days, tolerated=limits.canary_ratio))
    return found


def _ended(connection: Connection, deployed: Deployed, report: DeploymentReport) -> list[Ended]:
    """Return the cases of a component that began after a deployment was accepted and have ended."""
    release = f"{deployed.component}@{deployed.version}"
    meant = {each.device for each in report.devices}
    rows = [
        row
        for row in measures.cases(connection, deployed.component)
        if is_ended(row) and (row.device in meant) is (row.release == release)
    ]
    contacts = devices.load_contacts(connection, {row.n for row in rows})
    known = {n: contacts_in(held) for n, held in contacts.items()}
    found = []
    for row in rows:
        stamp = Stamp(row.boot, row.boottime_ms, row.wall_ms)
        when = interval_of(stamp, known.get(row.n, Contacts()), seen_at_ms=report.at_ms)
        if when.lo_ms is None or when.hi_ms is None or when.lo_ms < deployed.accepted_ms:
            continue
        found.append(
            Ended(
                device=row.device,
                at_ms=(when.lo_ms + when.hi_ms) // 2,
                is_canary=row.device in meant,
                by_human=row.by == HUMAN,
                is_astray=bool(row.intended and row.reached and row.intended != row.reached),
            )
        )
    return found


def _metrics(connection: Connection, report: DeploymentReport) -> dict[str, list[Watched]]:
    """Return the 95th percentiles of devices before and after, for each metric of the component."""
    release = f"{report.component}@{report.version}"
    meant = {each.device for each in report.devices}
    took = [each.device for each in report.devices if each.finding.verdict is Verdict.ACKNOWLEDGED]
    before: dict[tuple[str, str], dict[str, Measure]] = defaultdict(dict)
    for each in baseline.of_deployment(connection, report.deployment):
        before[each.metric, each.device][each.series] = _measure(each.record)
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
        now = _measure(row.record)
        then = before[row.metric, row.device].get(f"{row.metric}/{row.release}/{row.variant}")
        grown = from_record(now) if then is None else since(now, then)
        if grown is not None:
            after[row.metric, row.device].merge(grown)
    rest = sorted({device for _, device in before} - meant - elsewhere)
    return {
        metric: list(_watched(metric, (*took, *rest), meant, before, after))
        for metric in sorted({metric for metric, _ in before})
    }


def _watched(
    metric: str,
    devices: Iterable[str],
    meant: set[str],
    before: Mapping[tuple[str, str], Mapping[str, Measure]],
    after: Mapping[tuple[str, str], Sketch],
) -> Iterable[Watched]:
    for device in devices:
        held = merged(map(from_record, before.get((metric, device), {}).values()))
        yield Watched(
            device=device,
            is_canary=device in meant,
            before=_p95(held),
            after=_p95(after.get((metric, device), Sketch())),
        )


def _measure(record: bytes) -> Measure:
    return decode_as(Measure, MEASURE, record)


def _p95(held: Sketch) -> float | None:
    """Return the 95th percentile of one device, None of so few values that it says nothing."""
    return held.quantile(P95) if held.count >= VALUES_MIN_COUNT else None
