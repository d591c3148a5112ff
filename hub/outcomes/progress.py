"""Judgements on one deployment from its report: pace, silence, failures, adoption, drop-off.

Owns the limits and what crosses them. Computes no figure: those are the report's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hub.outcomes import words
from hub.outcomes.adoption import Adoption
from hub.outcomes.chances import bounds, upper_bound
from hub.outcomes.durations import Span, State
from hub.outcomes.fallback import NORMAL_RATIO
from hub.outcomes.normal_range import watch
from hub.outcomes.provisioning import ClassFunnel
from hub.outcomes.report import DeploymentReport, DeviceOutcome
from hub.outcomes.silence import Verdict
from hub.outcomes.survival import Quantile, highest_share, lowest_share, quantile
from hub.outcomes.verdicts import Estimate, Judgement, Ruling

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is held against what was seen. Defaults are an outside acceptance target (arc42 Q42)."""

    execution_gap_ms: int = 2 * DAY_MS
    """95 % of the devices acknowledge within this."""
    handshake_ms: int = 600_000
    """95 % take a deployment within so much connected time."""
    devices_min: int = 10
    """With fewer devices, the pace of a fleet is not judged to be ok."""
    failed_ratio: float = 0.015
    """Share of finished updates that may be undone or given up."""
    adopted_ratio: float = 0.99
    """Share of active devices that should run the latest version."""
    passed_ratio: float = 0.9
    """Share of devices that should take each step of provisioning."""
    human_ratio: float = NORMAL_RATIO
    """Share of finished updates, and of applications' cases, in which a person may have to help."""
    crashed_ratio: float = 0.05
    """Share of devices that may have had an hour with a crash when it is looked at."""
    canary_ratio: float = 0.05
    """By so much canaries may fail more often than the rest."""
    look_after_ms: int = DAY_MS
    """So long after the beginning it is looked at what can be looked at only once."""


def judge_pace(
    name: str,
    what: str,
    spans: Iterable[Span | None],
    *,
    limit_ms: int,
    devices_min: int,
    slowest: Quantile | None = None,
) -> Judgement:
    """Return whether 95 % end within a limit; devices that have not ended are not left out.

    The limit is crossed only if every reading of the clocks says so.

    Args:
        name: The question.
        what: What ends, for the sentence.
        spans: One per device.
        limit_ms: The limit.
        devices_min: With fewer devices nothing is said to be ok.
        slowest: The 95th percentile of the spans, where the caller has it already.
    """
    held = [span for span in spans if span is not None]
    slowest = quantile(held, 0.95) if slowest is None else slowest
    limit = words.duration(limit_ms)
    if not held:
        return Judgement(
            name=name,
            verdict=Ruling.TOO_LITTLE_EVIDENCE,
            sentence=f"{what}: no device to look at.",
        )
    least, most = lowest_share(held, limit_ms), highest_share(held, limit_ms)
    followed = all(_is_over(span, limit_ms) for span in held)
    within = words.quantile(slowest)
    pace = f"95 % within {within}" if slowest.lo_ms is not None else "95 % not reached"
    if slowest.hi_ms is not None and slowest.hi_ms <= limit_ms:
        enough = len(held) >= devices_min
        verdict = Ruling.OK if enough else Ruling.TOO_LITTLE_EVIDENCE
        few = "" if enough else f", of {words.devices(len(held))} only"
        sentence = f"{what}: {pace}, inside the limit of {limit}{few}."
    elif least > 1 - slowest.ratio and followed:
        verdict = Ruling.BREACH
        sentence = f"{what}: {pace}; {words.share(least)} or more took longer than {limit}."
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        open_text = "the clocks leave it open" if followed else "some have not had that long yet"
        sentence = f"{what}: {pace}; whether the limit of {limit} holds, {open_text}."
    return Judgement(
        name=name,
        verdict=verdict,
        sentence=sentence,
        evidence=(
            f"{words.devices(len(held))}, of which {_ended(held)} ended",
            f"between {words.share(least)} and {words.share(most)} not over after {limit}",
        ),
        estimate=_of_quantile(slowest),
    )


def judge_silence(report: DeploymentReport) -> Judgement:
    """Return whether a device that was there never took the deployment, and where it stalled."""
    silent = [each for each in report.devices if each.finding.verdict is Verdict.SILENT]
    waited = [
        each
        for each in report.devices
        if each.finding.verdict in {Verdict.TOO_EARLY, Verdict.UNREACHABLE}
    ]
    count = len(report.devices)
    if silent:
        stages = sorted({each.finding.stage.value for each in silent if each.finding.stage})
        verdict = Ruling.BREACH
        stalled = f", stalled after {', '.join(stages)}" if stages else ""
        sentence = f"{len(silent)} of {words.devices(count)} failed silently{stalled}."
    elif waited or not count:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = (
            f"No device is silent so far; {len(waited)} of {words.devices(count)} were not there "
            f"for the {words.duration(report.patience_ms)} that it takes to tell."
        )
    else:
        verdict = Ruling.OK
        sentence = f"None of {words.devices(count)} failed silently."
    total = max(1, count)
    return Judgement(
        name="silent_failures",
        verdict=verdict,
        sentence=sentence,
        evidence=tuple(each.finding.sentence for each in silent[:10]),
        estimate=Estimate(
            value=len(silent) / total,
            lo=len(silent) / total,
            hi=(len(silent) + len(waited)) / total,
            unit="ratio",
            how="from none to all of those that cannot be told yet",
        ),
        devices=tuple(each.device for each in silent),
    )


def judge_failures(report: DeploymentReport, *, normal: float) -> Judgement:
    """Return whether more updates are undone or given up than is normal, at every look."""
    ends = finished(report)
    cases = [each.finding.verdict is not Verdict.ACKNOWLEDGED for each in ends]
    seen = watch(cases, normal=normal)
    lo, hi = bounds(seen.bad_count, seen.count)
    counted = f"{seen.bad_count} of {seen.count} finished updates were undone or given up"
    if seen.crossed_at is not None:
        verdict, sentence = (
            Ruling.BREACH,
            f"{counted}, more than the {words.share(normal)} that is normal.",
        )
    elif seen.count and upper_bound(seen.bad_count, seen.count) <= normal:
        verdict, sentence = (
            Ruling.OK,
            f"{counted}, within the {words.share(normal)} that is normal.",
        )
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = f"{counted}, which allows up to {words.share(hi)}."
    return Judgement(
        name="failures",
        verdict=verdict,
        sentence=sentence,
        evidence=tuple(each.finding.sentence for each, bad in zip(ends, cases, strict=True) if bad)[
            :10
        ],
        estimate=Estimate(
            value=seen.bad_count / seen.count if seen.count else None,
            lo=lo,
            hi=hi,
            unit="ratio",
            how="95 % exact",
        ),
        e_value=seen.e_value,
        alpha=0.05,
        devices=tuple(each.device for each, bad in zip(ends, cases, strict=True) if bad),
    )


FINISHED: Final = frozenset(
    {Verdict.ACKNOWLEDGED, Verdict.FELL_BACK, Verdict.ROLLED_BACK, Verdict.FAILED}
)
"""Verdicts that only the device itself can have brought about, for good or ill."""


def finished(report: DeploymentReport) -> list[DeviceOutcome]:
    """Return the devices on which the deployment came to an end, in the order of their ends."""
    ends = [
        (ended_at_ms(each, report.at_ms), each.device, each)
        for each in report.devices
        if each.finding.verdict in FINISHED
    ]
    return [each for _, _, each in sorted(ends, key=lambda end: end[:2])]


def ended_at_ms(outcome: DeviceOutcome, now_ms: int) -> int:
    """Return the latest that the last stage of a device can have been, hub UTC."""
    latest = (held.hi_ms for held in outcome.moments.values())
    return max((now_ms if at_ms is None else at_ms for at_ms in latest), default=now_ms)


def judge_adoption(held: Adoption, *, wanted: float) -> Judgement:
    """Return whether active devices are proven to run the latest version."""
    ratio = held.adopted_ratio
    counts = (
        f"{held.proven_count} proven of {held.active_count} active, {held.targeted_count} targeted "
        f"and {held.registered_count} registered"
    )
    possible = held.active_count + len(held.dark)
    if ratio is None:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = f"No device is active that could run {held.component} {held.version}."
    elif ratio >= wanted:
        verdict = Ruling.OK
        sentence = f"{words.share(ratio)} of active devices run {held.component} {held.version}."
    elif held.targeted_count < held.active_count:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = (
            f"{words.share(ratio)} of active devices run {held.component} {held.version}, "
            "which was not given to all of them."
        )
    else:
        verdict = Ruling.BREACH
        sentence = (
            f"Only {words.share(ratio)} of active devices run {held.component} {held.version}; "
            f"{words.share(wanted)} should."
        )
    return Judgement(
        name="adoption",
        verdict=verdict,
        sentence=sentence,
        evidence=(counts, f"{words.devices(len(held.dark))} dark"),
        estimate=Estimate(
            value=ratio,
            lo=(held.proven_count / possible) if possible else None,
            hi=((held.proven_count + len(held.dark)) / possible) if possible else None,
            unit="ratio",
            how="from none to all of the dark devices",
        ),
    )


def judge_provisioning(funnels: Iterable[ClassFunnel], *, wanted: float) -> Judgement:
    """Return whether devices drop off on their way into the fleet, and where most do."""
    steps = [
        (step, funnel.device_class)
        for funnel in funnels
        for step in funnel.steps
        if step.entered_count and step.passed_hi_ratio is not None
    ]
    if not steps:
        return Judgement(
            name="provisioning",
            verdict=Ruling.TOO_LITTLE_EVIDENCE,
            sentence="No device is on its way into the fleet.",
        )
    step, device_class = min(steps, key=lambda each: each[0].passed_hi_ratio or 0.0)
    lo, hi = step.passed_lo_ratio or 0.0, step.passed_hi_ratio or 0.0
    where = f"{device_class} at {step.step.value}"
    counted = f"{step.passed_count} of {step.entered_count} went on"
    if hi < wanted:
        verdict, sentence = Ruling.BREACH, f"Devices drop off: {where}, where {counted}."
    elif lo >= wanted:
        verdict, sentence = Ruling.OK, f"Devices come through; fewest {where}, where {counted}."
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = f"Devices are still on their way: {where}, where {counted} so far."
    return Judgement(
        name="provisioning",
        verdict=verdict,
        sentence=sentence,
        evidence=tuple(f"{reason}: {count}" for reason, count in step.left.items()),
        estimate=Estimate(
            value=None, lo=lo, hi=hi, unit="ratio", how="from none to all of those on the way"
        ),
    )


def _is_over(span: Span, limit_ms: int) -> bool:
    """Tell whether enough is known of a span to say whether it lasted longer than the limit."""
    return (
        span.state is State.NEVER
        or span.took.hi_ms is not None
        or (span.took.lo_ms or 0) > limit_ms
    )


def _ended(spans: Iterable[Span]) -> int:
    return sum(span.state is State.ENDED for span in spans)


def _of_quantile(held: Quantile) -> Estimate:
    return Estimate(value=None, lo=held.lo_ms, hi=held.hi_ms, unit="ms", how="uncertain clocks")
