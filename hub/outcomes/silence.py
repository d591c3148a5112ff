"""Silent failure: a device that is there, was sent a deployment, and never took it.

Owns the verdict on one deployment on one device. Never looks at what the broker acknowledged: a
broker says "taken" of a message to a device that is away, whose queue is full or whose session ran
out. What a device holds is shown by its own state vector and its own acknowledgements only.

Rule: silence needs presence. Time in which the device is not known to have been connected does not
count, so a device without a network is unreachable, never silent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hub.outcomes import words
from hub.outcomes.durations import Span
from hub.outcomes.observations import (
    DeviceCourse,
    DeviceStage,
    Waiting,
    first_receipt_ms,
    reached,
    withdrawal,
)
from hub.outcomes.presence import online_at, reachable_ms
from hub.outcomes.survival import quantile
from sync.stages import Stage, end_of, furthest, order
from sync.stamps import point

PATIENCE_MIN_MS = 60_000
"""A device that lost its network looks connected until the broker misses one and a half keep-alive
times, 45 s at 30 s. Less patience than that would call it silent."""


class Verdict(StrEnum):
    """What a deployment came to on a device. Values are shown and exported; never reuse one."""

    ACKNOWLEDGED = "acknowledged"
    FELL_BACK = "fell_back"
    """It acknowledged the release and then, with no later one to explain it, ran another."""
    IN_PROGRESS = "in_progress"
    DEFERRED = "deferred"
    SILENT = "silent"
    UNREACHABLE = "unreachable"
    TOO_EARLY = "too_early"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


_VERDICT_OF_END = {
    Stage.ROLLED_BACK: Verdict.ROLLED_BACK,
    Stage.FAILED: Verdict.FAILED,
    Stage.SUPERSEDED: Verdict.SUPERSEDED,
    Stage.EXPIRED: Verdict.EXPIRED,
    Stage.CANCELLED: Verdict.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A verdict and what it rests on."""

    verdict: Verdict
    stage: Stage | None
    """How far it is proven to have come; for a wait of the device, `DEFERRED`."""
    reason: str
    """Reason code of the device's last word, empty if it gave none."""
    detail: str
    reachable_ms: int
    """For how long the device was connected since the deployment was accepted."""
    online: bool
    """Whether it is connected now."""
    evidence_for: tuple[str, ...]
    """What shows that the device took the deployment."""
    evidence_against: tuple[str, ...]
    """What shows that it had not."""
    sentence: str
    waiting: Waiting | None = None
    """What the device waits for; only with the verdict `DEFERRED`."""


def patience_of(baseline: Sequence[Span]) -> int:
    """Return how long a connected device may take before it counts as silent.

    The larger of a minute and the 99th percentile of what connected devices took before.

    Args:
        baseline: Reachable Handshake Latencies of earlier deployments.
    """
    usual = quantile(baseline, 0.99)
    longest_ms = usual.hi_ms if usual.hi_ms is not None else usual.lo_ms
    return max(PATIENCE_MIN_MS, longest_ms or 0)


def judge(course: DeviceCourse, *, now_ms: int, patience_ms: int) -> Finding:
    """Return what a deployment came to on a device.

    Args:
        course: What was observed.
        now_ms: Hub UTC.
        patience_ms: How long a connected device may take (`patience_of`).
    """
    accepted_ms = course.hub_stages.get(Stage.ACCEPTED)
    connected_ms = 0
    if accepted_ms is not None:
        connected_ms = reachable_ms(course.presence, from_ms=accepted_ms, to_ms=now_ms)
    online = online_at(course.presence, now_ms)
    verdict = _spoken(course, now_ms)
    if verdict is None:
        waited_ms = 0 if accepted_ms is None else now_ms - accepted_ms
        verdict = _unspoken(
            waited_ms=waited_ms, connected_ms=connected_ms, patience_ms=patience_ms, online=online
        )
    stage = reached(course)
    last = _last_word(course)
    waiting = course.waiting if verdict is Verdict.DEFERRED else None
    if waiting is not None:
        stage = last = Stage.DEFERRED
    said = course.device_stages.get(last) if last is not None else None
    case = _Case(course, said, stage, connected_ms, online, now_ms)
    return Finding(
        verdict=verdict,
        stage=stage,
        reason=waiting.reason if waiting else said.reason if said else "",
        detail=waiting.detail if waiting else said.detail if said else "",
        reachable_ms=connected_ms,
        online=online,
        evidence_for=_evidence_for(course),
        evidence_against=_evidence_against(course),
        sentence=f"{course.device} {_PREDICATES[verdict](case)}.",
        waiting=waiting,
    )


def _spoken(course: DeviceCourse, now_ms: int) -> Verdict | None:
    """Return the verdict where the device or an operator has settled it, None else."""
    if Stage.ACKNOWLEDGED in course.device_stages:
        fell_back = course.runs is False and course.superseded_at_ms is None
        return Verdict.FELL_BACK if fell_back else Verdict.ACKNOWLEDGED
    end = end_of(course.device_stages)
    if end in _VERDICT_OF_END:
        return _VERDICT_OF_END[end]
    ended = withdrawal(course, now_ms)
    if ended is not None:
        return _VERDICT_OF_END[ended[0]]
    if course.waiting is not None:
        return Verdict.DEFERRED
    if course.device_stages or first_receipt_ms(course) is not None:
        return Verdict.IN_PROGRESS
    return None


def _unspoken(*, waited_ms: int, connected_ms: int, patience_ms: int, online: bool) -> Verdict:
    """Return the verdict on a device that never showed that it took the deployment."""
    if connected_ms >= patience_ms:
        return Verdict.SILENT
    if online or waited_ms < patience_ms:
        return Verdict.TOO_EARLY
    return Verdict.UNREACHABLE


def _last_word(course: DeviceCourse) -> Stage | None:
    """Return the stage that the device named last. A wait that is over is none: it went on."""
    end = end_of(course.device_stages)
    return furthest(course.device_stages) if end in (None, Stage.DEFERRED) else end


def _evidence_for(course: DeviceCourse) -> tuple[str, ...]:
    found = []
    if course.device_stages:
        stages = ", ".join(stage.value for stage in Stage if stage in course.device_stages)
        found.append(f"the device acknowledged {stages}")
    if first_receipt_ms(course) is not None:
        found.append("its state vector covers the deployment")
    if course.passed_over:
        found.append(f"it went on without waiting: {course.passed_over}")
    return tuple(found)


def _evidence_against(course: DeviceCourse) -> tuple[str, ...]:
    """A vector counts if it was certainly sent after the deployment was on its way."""
    sent_ms = course.hub_stages.get(Stage.PUBLISHED, course.hub_stages.get(Stage.ACCEPTED))
    if sent_ms is None:
        return ()
    without = [
        receipt
        for receipt in course.receipts
        if not receipt.covers and receipt.sent_lo_ms is not None and receipt.sent_lo_ms >= sent_ms
    ]
    if not without:
        return ()
    count = len(without)
    return (
        f"{count} of its state vectors, sent after the deployment was published, lacked it"
        if count > 1
        else "its state vector, sent after the deployment was published, lacked it",
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """What the sentence about a device is made of."""

    course: DeviceCourse
    said: DeviceStage | None
    stage: Stage | None
    connected_ms: int
    online: bool
    now_ms: int

    @property
    def why(self) -> str:
        if self.said is None:
            return ""
        reason = f": {words.because(self.said.reason)}" if self.said.reason else ""
        return reason + (f" ({self.said.detail})" if self.said.detail else "")

    @property
    def here(self) -> str:
        return "" if self.online else ", and is not connected now"

    @property
    def since_accepted(self) -> str:
        accepted_ms = self.course.hub_stages.get(Stage.ACCEPTED, self.now_ms)
        return words.duration(max(0, self.now_ms - accepted_ms))

    @property
    def unconfirmed(self) -> str:
        """A withdrawal that the hub decided, of what the device holds already."""
        holds = self.stage is not None and order(self.stage) >= order(Stage.DELIVERED)
        if not holds or end_of(self.course.device_stages) not in (None, Stage.DEFERRED):
            return ""
        return ", but holds the old one and has not confirmed that it stopped"


def _acknowledged(case: _Case) -> str:
    by_now = ", and runs something else by now" if case.course.runs is False else ""
    return f"runs the release, passed its health check and said so{by_now}"


def _fell_back(_: _Case) -> str:
    return "said that the release runs well, and was then seen running another one: it fell back"


def _in_progress(case: _Case) -> str:
    seen = [said.seen_at_ms for said in case.course.device_stages.values()]
    seen += [receipt.received_at_ms for receipt in case.course.receipts if receipt.covers]
    ago = words.duration(max(0, case.now_ms - max(seen, default=case.now_ms)))
    return f"came as far as {_name(case.stage)}, with the last news {ago} ago{case.here}{case.why}"


def _deferred(case: _Case) -> str:
    waiting = case.course.waiting
    if waiting is None:
        return _in_progress(case)
    since = words.between(point(case.now_ms).minus(waiting.since))
    text = f"holds the release and has waited with it for {since}{case.here}: {waiting.detail}"
    if waiting.until_ms is not None:
        text += f"; that ends by itself at {words.moment(waiting.until_ms)}"
    then = "goes on all the same" if waiting.overdue == "go" else "gives it up"
    left = words.duration(waiting.left_s * 1000)
    return f"{text}; it had {left} left to wait when it said so, and then {then}"


def _silent(case: _Case) -> str:
    said = f"is silent: connected for {words.duration(case.connected_ms)} since the release "
    if Stage.PUBLISHED not in case.course.hub_stages:
        return said + "was accepted, but the hub never handed it to the broker"
    if _evidence_against(case.course):
        return said + "was accepted, and its state vector shows that it never took the command"
    return said + "was accepted, and nothing shows that it took the command"


def _unreachable(case: _Case) -> str:
    if case.connected_ms == 0:
        return (
            f"is unreachable: not connected once in the {case.since_accepted} "
            "since the release was accepted"
        )
    return (
        f"is unreachable: connected for only {words.duration(case.connected_ms)} "
        f"of the {case.since_accepted} since the release was accepted"
    )


def _too_early(case: _Case) -> str:
    if Stage.ACCEPTED not in case.course.hub_stages:
        return "has not been promised the release yet"
    return (
        f"may still take it: connected for {words.duration(case.connected_ms)} "
        f"of the {case.since_accepted} since the release was accepted"
    )


_PREDICATES: Mapping[Verdict, Callable[[_Case], str]] = {
    Verdict.ACKNOWLEDGED: _acknowledged,
    Verdict.FELL_BACK: _fell_back,
    Verdict.IN_PROGRESS: _in_progress,
    Verdict.DEFERRED: _deferred,
    Verdict.SILENT: _silent,
    Verdict.UNREACHABLE: _unreachable,
    Verdict.TOO_EARLY: _too_early,
    Verdict.ROLLED_BACK: lambda case: f"switched to the release and went back{case.why}",
    Verdict.FAILED: lambda case: f"gave up after the stage {_name(case.stage)}{case.why}",
    Verdict.SUPERSEDED: lambda case: f"was given a later deployment instead{case.unconfirmed}",
    Verdict.EXPIRED: lambda case: f"did not take it before its time ran out{case.why}",
    Verdict.CANCELLED: lambda case: f"need not take it any more{case.unconfirmed}",
}
"""What is said of a device after its name."""


def _name(stage: Stage | None) -> str:
    return stage.value if stage is not None else "none"
