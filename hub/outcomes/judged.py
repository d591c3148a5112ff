"""Every judgement on one deployment, from what was observed of it.

Owns which questions are asked, and in which order they are shown.
"""

from collections.abc import Iterable, Mapping, Sequence

from hub.outcomes.adoption import Adoption
from hub.outcomes.divergence import judge_divergence
from hub.outcomes.fallback import Finished, judge_fallback
from hub.outcomes.observations import DeviceCourse
from hub.outcomes.progress import (
    Limits,
    ended_at_ms,
    finished,
    judge_adoption,
    judge_failures,
    judge_pace,
    judge_provisioning,
    judge_silence,
)
from hub.outcomes.provisioning import ClassFunnel
from hub.outcomes.regional import Case, watch_pattern
from hub.outcomes.report import DeploymentReport
from hub.outcomes.silence import Verdict
from hub.outcomes.state_conflicts import Conflict, judge_conflicts
from hub.outcomes.verdicts import Judgement


def judge_deployment(
    report: DeploymentReport,
    courses: Sequence[DeviceCourse],
    *,
    labels: Mapping[str, Mapping[str, str]],
    actions: Mapping[str, Sequence[str]],
    limits: Limits | None = None,
) -> tuple[Judgement, ...]:
    """Return what a deployment came to, question by question.

    Args:
        report: The report on it.
        courses: What the report was made of.
        labels: Labels of each device.
        actions: What operators did for single devices while it went on.
        limits: What is held against what was seen.
    """
    limits = limits or Limits()
    devices = report.devices
    return (
        judge_silence(report),
        judge_failures(report, normal=limits.failed_ratio),
        watch_pattern(
            pattern_cases(report, labels),
            expected_count=len(devices),
        ),
        judge_fallback(
            [
                Finished(
                    device=each.device,
                    ended_at_ms=ended_at_ms(each, report.at_ms),
                    actions=tuple(actions.get(each.device, ())),
                )
                for each in finished(report)
            ],
            normal=limits.human_ratio,
        ),
        judge_pace(
            "execution_gap",
            "Execution Gap",
            [each.execution_gap for each in devices],
            limit_ms=limits.execution_gap_ms,
            slowest=report.execution_gap.p95,
            devices_min=limits.devices_min,
        ),
        judge_pace(
            "handshake_latency",
            "Handshake Latency while reachable",
            [each.reachable_handshake_latency for each in devices],
            limit_ms=limits.handshake_ms,
            slowest=report.reachable_handshake_latency.p95,
            devices_min=limits.devices_min,
        ),
        judge_divergence(
            courses,
            now_ms=report.at_ms,
            known={each.device: each.moments for each in devices},
        ),
    )


def judge_fleet(
    *,
    adopted: Adoption | None,
    funnels: Iterable[ClassFunnel],
    conflicts: Iterable[Conflict],
    devices_count: int,
    limits: Limits | None = None,
) -> tuple[Judgement, ...]:
    """Return what stands beside a deployment: adoption, conflicts, the way into the fleet.

    Args:
        adopted: Adoption of the deployment's component; None if no version of it was deployed.
        funnels: Provisioning by class; nothing is asked where no device was ever provisioned.
        conflicts: Open conflicts.
        devices_count: Registered devices.
        limits: What is held against what was seen.
    """
    limits = limits or Limits()
    classes = tuple(funnels)
    return (
        *([] if adopted is None else [judge_adoption(adopted, wanted=limits.adopted_ratio)]),
        judge_conflicts(conflicts, devices_count=devices_count),
        *([judge_provisioning(classes, wanted=limits.passed_ratio)] if classes else []),
    )


def pattern_cases(report: DeploymentReport, labels: Mapping[str, Mapping[str, str]]) -> list[Case]:
    """Return the devices that took the deployment or failed to, in the order in which it ended.

    A silent device failed too, as of the look. One that is still on its way is no case.
    """
    cases = [
        Case(
            device=each.device,
            labels=labels.get(each.device, {}),
            failed=each.finding.verdict is not Verdict.ACKNOWLEDGED,
        )
        for each in finished(report)
    ]
    cases += [
        Case(device=each.device, labels=labels.get(each.device, {}), failed=True)
        for each in report.devices
        if each.finding.verdict is Verdict.SILENT
    ]
    return cases
