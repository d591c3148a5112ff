"""The report on one deployment: every figure of this package, and one sentence that says it.

Owns what is shown together. Defines nothing itself: each figure has its own module.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hub.outcomes import words
from hub.outcomes.durations import (
    Span,
    execution_gap,
    handshake_latency,
    reachable_handshake_latency,
)
from hub.outcomes.funnel import Funnel, funnel
from hub.outcomes.observations import DeviceCourse, Moments, moments
from hub.outcomes.silence import Finding, Verdict, judge
from hub.outcomes.survival import Summary, summary
from sync.stages import Stage
from sync.stamps import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOutcome:
    """What the deployment came to on one device."""

    device: str
    finding: Finding
    runs: bool
    """Whether it is proven to run the release: it passed its health check and runs nothing else."""
    moments: Moments
    execution_gap: Span | None
    handshake_latency: Span | None
    reachable_handshake_latency: Span | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReport:
    """One deployment, seen at one moment. Every count is of targeted devices."""

    deployment: str
    component: str
    version: str
    at_ms: int
    """Hub UTC of the look."""
    patience_ms: int
    """How long a connected device might take before it counted as silent."""
    funnel: Funnel
    verdicts: Mapping[Verdict, int]
    running_count: int
    execution_gap: Summary
    handshake_latency: Summary
    reachable_handshake_latency: Summary
    silent_ratio: float | None
    """Silent of accepted; None if none was accepted."""
    devices: tuple[DeviceOutcome, ...]


def build_report(
    *,
    deployment: str,
    component: str,
    version: str,
    courses: Sequence[DeviceCourse],
    now_ms: int,
    patience_ms: int,
) -> DeploymentReport:
    """Return the report on a deployment.

    Args:
        deployment: Its id.
        component: What it is a release of.
        version: The version it brings.
        courses: Every device that the deployment concerns; those not targeted are left out.
        now_ms: Hub UTC of the look; what is open has lasted until then.
        patience_ms: How long a connected device may take (`silence.patience_of`).
    """
    devices = tuple(
        _device_outcome(course, now_ms, patience_ms)
        for course in sorted(courses, key=lambda course: course.device)
        if course.targeted
    )
    verdicts = Counter(each.finding.verdict for each in devices)
    counted = funnel(courses)
    accepted_count = counted.reached_count[Stage.ACCEPTED]
    return DeploymentReport(
        deployment=deployment,
        component=component,
        version=version,
        at_ms=now_ms,
        patience_ms=patience_ms,
        funnel=counted,
        verdicts={verdict: verdicts[verdict] for verdict in Verdict},
        running_count=sum(each.runs for each in devices),
        execution_gap=_summary([each.execution_gap for each in devices]),
        handshake_latency=_summary([each.handshake_latency for each in devices]),
        reachable_handshake_latency=_summary(
            [each.reachable_handshake_latency for each in devices]
        ),
        silent_ratio=verdicts[Verdict.SILENT] / accepted_count if accepted_count else None,
        devices=devices,
    )


def to_json(report: DeploymentReport) -> dict[str, Any]:
    """Return the report and its sentence as plain dictionaries, lists, strings and numbers."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(report))
    return {"sentence": sentence(report), **plain}


def _device_outcome(course: DeviceCourse, now_ms: int, patience_ms: int) -> DeviceOutcome:
    finding = judge(course, now_ms=now_ms, patience_ms=patience_ms)
    healthy = bool({Stage.HEALTHY, Stage.ACKNOWLEDGED} & set(course.device_stages))
    undone = finding.verdict in {Verdict.ROLLED_BACK, Verdict.FAILED}
    held = moments(course)
    return DeviceOutcome(
        device=course.device,
        finding=finding,
        runs=healthy and not undone and course.runs is not False,
        moments=held,
        execution_gap=execution_gap(course, now_ms, held),
        handshake_latency=handshake_latency(course, now_ms, held),
        reachable_handshake_latency=reachable_handshake_latency(course, now_ms, held),
    )


def _summary(spans: Sequence[Span | None]) -> Summary:
    return summary([span for span in spans if span is not None])


# In this order; the longest clause comes last.
_CLAUSES: tuple[tuple[Verdict, str, str], ...] = (
    (
        Verdict.ACKNOWLEDGED,
        "acknowledged it and runs another by now",
        "acknowledged it and run another by now",
    ),
    (Verdict.FELL_BACK, "fell back after it said that it runs", "fell back after they said so"),
    (Verdict.ROLLED_BACK, "rolled back", "rolled back"),
    (Verdict.FAILED, "failed", "failed"),
    (Verdict.UNREACHABLE, "is unreachable", "are unreachable"),
    (Verdict.IN_PROGRESS, "is under way", "are under way"),
    (Verdict.DEFERRED, "waits with it", "wait with it"),
    (Verdict.TOO_EARLY, "may still take it", "may still take it"),
    (Verdict.SUPERSEDED, "was given a later release", "were given a later release"),
    (Verdict.EXPIRED, "did not take it in time", "did not take it in time"),
    (Verdict.CANCELLED, "was called off", "were called off"),
    (Verdict.SILENT, "is silent", "are silent"),
)


def sentence(report: DeploymentReport) -> str:
    """Return the report in one sentence that claims no more than was observed."""
    release = f"{report.component} {report.version}"
    devices = report.devices
    if not devices:
        return f"{release} was not deployed to any device."
    verb = "runs" if report.running_count == 1 else "run"
    proof = " (proven by a passed health check)" if report.running_count else ""
    head = f"{report.running_count} of {words.devices(len(devices))} {verb} {release}{proof}"
    rest = [each.finding for each in devices if not each.runs]
    clauses = []
    for verdict, one, many in _CLAUSES:
        group = [finding for finding in rest if finding.verdict is verdict]
        if group:
            clauses.append(
                f"{len(group)} {one if len(group) == 1 else many}{_because(verdict, group)}"
            )
    parts = [head, ", ".join(clauses), _pace(report.execution_gap)]
    return "; ".join(part for part in parts if part) + "."


def _because(verdict: Verdict, findings: Sequence[Finding]) -> str:
    if verdict in {Verdict.ROLLED_BACK, Verdict.FAILED, Verdict.DEFERRED}:
        reasons = Counter(finding.reason for finding in findings if finding.reason)
        if not reasons:
            return ""
        told = [
            words.because(reason) + (f", {count} times" if len(reasons) > 1 and count > 1 else "")
            for reason, count in reasons.most_common()
        ]
        return f" ({'; '.join(told)})"
    if verdict is Verdict.SILENT:
        spans_ms = [finding.reachable_ms for finding in findings]
        connected = words.between(Interval(min(spans_ms), max(spans_ms)))
        proven = all(finding.evidence_against for finding in findings)
        one = len(findings) == 1
        if proven and one:
            shown = "its state vector shows that it never took the command"
        elif proven:
            shown = "their state vectors show that they never took the command"
        else:
            shown = f"nothing shows that {'it' if one else 'they'} took the command"
        return f": connected for {connected} since the release was accepted and {shown}"
    return ""


def _pace(gap: Summary) -> str:
    """Return the Execution Gap as a clause, empty if no device has closed it."""
    if not gap.ended_count:
        return ""
    if gap.p50.lo_ms is None:
        return "less than half have acknowledged it"
    median = words.quantile(gap.p50)
    if gap.p95.lo_ms is None:
        return f"half had acknowledged it {median} after the request, fewer than 95 % have by now"
    slowest = words.quantile(gap.p95)
    return f"half had acknowledged it {median} after the request and 95 % {slowest} after it"
