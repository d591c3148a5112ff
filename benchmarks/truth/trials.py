"""What the judgements say of fleets whose fate is known.

Owns the trials, each a plain function from a seed and sizes to counts. What it feeds is what the
hub feeds: courses of devices, and labels.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import exp
from random import Random
from statistics import median
from typing import Final

from benchmarks.truth.fleets import (
    DAY,
    HOUR,
    TEN_YEARS,
    ZERO_MS,
    Fate,
    Life,
    Link,
    Plan,
    S,
    fleet,
    labels,
    live,
)
from hub.outcomes.canary import Cycle, judge_canary
from hub.outcomes.durations import execution_gap, reachable_handshake_latency
from hub.outcomes.judged import judge_deployment
from hub.outcomes.observations import moments
from hub.outcomes.ratio_mismatch import judge_arrivals
from hub.outcomes.regional import Case, judge_pattern, watch_pattern
from hub.outcomes.regression import Change, judge_p95
from hub.outcomes.report import build_report
from hub.outcomes.silence import Verdict, judge, patience_of
from hub.outcomes.survival import quantile
from hub.outcomes.verdicts import Judgement, Ruling
from sync.stamps import Interval

LOOK_MS: Final = 10 * S
"""How often a watching hub looks."""
GRACE_MS: Final = 60 * S
"""A silent device has to be found so soon after its deadline."""
END_MS: Final = ZERO_MS + 8 * DAY

FALLBACK_RATIO: Final = 0.2
"""Share of clean updates with which a person helps; up to 0.3 is normal."""
CLEAN_FAILED_RATIO: Final = 0.01
SPREAD_RATIO: Final = 0.08
EVENTS: Final = 300
REGRESSION_RATIO: Final = 1.3


@dataclass(slots=True)
class Silence:
    """Silent devices, planted and found."""

    planted_count: int = 0
    found_count: int = 0
    in_time_count: int = 0
    """Found before the deadline and a minute."""
    others_count: int = 0
    false: list[str] = field(default_factory=list)
    after_deadline_s: list[float] = field(default_factory=list)


def silence(count: int, seed: int) -> Silence:
    """Watch a fleet with silent devices on every kind of link for the first hours and a week.

    The deadline is the hub's own: patience, learnt from a clean deployment on the same fleet, in
    which the device truly was connected.
    """
    random = Random(seed)
    silent = max(1, count // 40)
    planted = [
        Plan(
            device=f"silent{number:05}",
            fate=Fate.SILENT,
            link=(Link.GOOD, Link.FLAPPING, Link.DARK_FOR_A_WEEK)[number % 3],
            wall_skew_ms=(0, HOUR, -TEN_YEARS, TEN_YEARS)[number % 4],
        )
        for number in range(silent)
    ]
    patience_ms = patience(random, min(count, 200))
    found = Silence()
    for plan in fleet(count, random, planted=planted):
        life = live(plan, random, until_ms=END_MS)
        deadline_ms = life.deadline_ms(patience_ms)
        first_ms = _first_silent(life, patience_ms)
        if plan.fate is not Fate.SILENT:
            found.others_count += 1
            if first_ms is not None:
                found.false.append(f"{plan.device} ({plan.link})")
        elif deadline_ms is not None and deadline_ms < END_MS - GRACE_MS:
            found.planted_count += 1
            if first_ms is not None:
                found.found_count += 1
                late_ms = first_ms - deadline_ms
                found.in_time_count += late_ms <= GRACE_MS
                found.after_deadline_s.append(late_ms / S)
    return found


def patience(random: Random, count: int) -> int:
    """Return the patience that a hub learns from a clean deployment."""
    until_ms = ZERO_MS + HOUR
    lives = [live(plan, random, until_ms=until_ms) for plan in fleet(count, random)]
    spans = [reachable_handshake_latency(each.course(until_ms), until_ms) for each in lives]
    return patience_of([span for span in spans if span is not None])


@dataclass(slots=True)
class Coverage:
    """Intervals, and how many hold the truth."""

    count: int = 0
    held_count: int = 0
    widths_ms: list[int] = field(default_factory=list)

    def add(self, held: Interval, truth_ms: int) -> None:
        """Count one."""
        self.count += 1
        self.held_count += held.contains(truth_ms)
        if held.width_ms is not None:
            self.widths_ms.append(held.width_ms)


def coverage(count: int, seed: int) -> Coverage:
    """Hold every interval of a fleet against the truth: stages, Execution Gaps, its quantiles.

    Half of the devices are looked at when a good link has just told all, half after a week.
    """
    random = Random(seed)
    found = Coverage()
    gaps_ms, spans = [], []
    for number, plan in enumerate(fleet(count, random)):
        life = live(plan, random, until_ms=END_MS, is_chatty=number % 3 > 0)
        now_ms = END_MS if number % 2 else ZERO_MS + HOUR
        course = life.course(now_ms)
        held = moments(course)
        for stage in course.device_stages:
            found.add(held[stage], life.moments[stage])
        end = execution_gap(life.course(END_MS), END_MS)
        acknowledged_ms = max(life.moments.values(), default=None)
        if end is not None and acknowledged_ms is not None:
            found.add(end.took, acknowledged_ms - ZERO_MS)
            spans.append(end)
            gaps_ms.append(acknowledged_ms - ZERO_MS)
    for ratio in (0.5, 0.9, 0.95):
        true_ms = sorted(gaps_ms)[-(-len(gaps_ms) * round(ratio * 100) // 100) - 1]
        bounds = quantile(spans, ratio)
        found.add(Interval(bounds.lo_ms, bounds.hi_ms), true_ms)
    return found


@dataclass(slots=True)
class Alarms:
    """Clean rollouts, and how often each judgement called them a breach or unhealthy."""

    rollouts_count: int = 0
    by_judgement: Counter[str] = field(default_factory=Counter)

    @property
    def worst(self) -> tuple[str, float]:
        """Return the judgement that was wrong most often, and its share."""
        name, count = max(self.by_judgement.items(), key=lambda each: each[1], default=("none", 0))
        return name, count / max(1, self.rollouts_count)


WATCHED: Final = (
    "silent_failures",
    "failures",
    "failure_pattern",
    "human_fallback",
    "canary",
    "sample_ratio",
)
"""Judgements that may be looked at as often as one likes."""


def clean(sizes: Iterable[int], seed: int) -> Alarms:
    """Watch clean rollouts, from the first device to the last, through the whole of judging.

    A clean rollout has the failures and the help of people that are normal, and devices that are
    dark or flap. Evidence is counted after every device; silence and the whole are looked at at
    moments from a minute to a week, and one alarm at any of them is one too many.
    """
    random = Random(seed)
    found = Alarms()
    for number, count in enumerate(sizes):
        found.rollouts_count += 1
        found.by_judgement.update(_alarms(count, Random(seed * 1_000_003 + number), random))
    return found


def canary(count: int, canaries: int, failed_ratio: float, seed: int) -> list[int]:
    """Return after how many cycles canaries that fail more often than 3 % are found, 60 for never.

    Fifty rollouts.
    """
    random = Random(seed)
    rest = count - canaries
    found = []
    for _ in range(50):
        cycles: list[Cycle] = []
        while len(cycles) < 60:  # noqa: PLR2004 - as documented
            cycles.append(_cycle(random, rest, canaries, (0.03, failed_ratio)))
            if judge_canary(cycles).verdict is Ruling.BREACH:
                break
        found.append(len(cycles))
    return found


def regression(count: int, canaries: int, ratio: float, rollouts: int, seed: int) -> float:
    """Return the share of rollouts in which a P95 that grew by a ratio is called a breach."""
    random = Random(seed)
    found = 0
    for _ in range(rollouts):
        changes = []
        for number in range(count):
            level = random.gauss(0, 0.5)
            is_canary = number < canaries
            before, after = _p95(random, level), _p95(random, level)
            after *= ratio if is_canary else 1
            changes.append(
                Change(device=str(number), is_canary=is_canary, before=before, after=after)
            )
        found += judge_p95(changes).verdict is Ruling.BREACH
    return found / rollouts


@dataclass(slots=True)
class Named:
    """Guilty labels and what was named."""

    rollouts_count: int = 0
    right_count: int = 0
    wrong_count: int = 0
    """Another label alone was named."""


def region(count: int, rollouts: int, seed: int) -> Named:
    """Plant failures in one region, or one class, that goes with the other; see which is named."""
    random = Random(seed)
    found = Named()
    for number in range(rollouts):
        guilty = "region" if number % 2 else "class"
        value = "eu-east" if guilty == "region" else "pump"
        cases = []
        for device in range(count):
            held = labels(random)
            rate = 0.25 if held[guilty] == value else 0.03
            cases.append(Case(device=str(device), labels=held, failed=random.random() < rate))
        judged = judge_pattern(cases)
        named = {line.partition("=")[0] for line in judged.evidence if "p =" not in line}
        found.rollouts_count += 1
        found.right_count += guilty in named and f"{guilty} {value}" in judged.sentence
        found.wrong_count += bool(named) and guilty not in named
    return found


def spread(count: int, rollouts: int, seed: int) -> float:
    """Return the share of rollouts in which failures that follow nothing are called a pattern.

    They are watched from the first device to the last.
    """
    random = Random(seed)
    found = 0
    for _ in range(rollouts):
        cases = [
            Case(device=str(device), labels=labels(random), failed=random.random() < SPREAD_RATIO)
            for device in range(count)
        ]
        judged = watch_pattern(cases, expected_count=count)
        found += judged.verdict is Ruling.BREACH
    return found / rollouts


def mismatch(share: float, seed: int, rollouts: int = 20) -> list[int]:
    """Return after how many devices arms of this share, not 5 %, are found; 20,000 for never."""
    random = Random(seed)
    found = []
    for _ in range(rollouts):
        arms = ["on" if random.random() < share else "off" for _ in range(20_000)]
        judged = judge_arrivals(arms, {"on": 0.05, "off": 0.95})
        told = judged.sentence.rpartition("after ")[2].removesuffix(".")
        found.append(int(told) if judged.verdict is Ruling.UNHEALTHY else len(arms))
    return found


def middle(values: Sequence[float]) -> float:
    """Return the median, 0 of nothing."""
    return median(values) if values else 0.0


def _first_silent(life: Life, patience_ms: int) -> int | None:
    """Return the first look at which a watching hub calls the device silent.

    Looks at which nothing can have changed are left out: before anything that the hub logged was
    long enough, and after the device has shown that it took the deployment.
    """
    for begin, end in life.sessions:
        first_ms = max(begin, ZERO_MS)
        if end <= first_ms:
            continue
        # The end of a session may be logged late, so the looks go on for a little.
        last_ms = min(end + 2 * GRACE_MS, END_MS)
        at_ms = first_ms + LOOK_MS
        while at_ms <= last_ms:
            finding = judge(life.course(at_ms), now_ms=at_ms, patience_ms=patience_ms)
            if finding.verdict is Verdict.SILENT:
                return at_ms
            if finding.verdict not in {Verdict.TOO_EARLY, Verdict.UNREACHABLE}:
                return None
            at_ms += LOOK_MS
    return None


LOOKS_MS: Final = tuple(ZERO_MS + at_ms for at_ms in (60 * S, 300 * S, HOUR, DAY, 8 * DAY - S))


def _alarms(count: int, random: Random, arms: Random) -> set[str]:
    plans = [
        Plan(
            device=plan.device,
            link=plan.link,
            wall_skew_ms=plan.wall_skew_ms,
            labels=plan.labels,
            fate=Fate.ROLLED_BACK if random.random() < CLEAN_FAILED_RATIO else Fate.DONE,
        )
        for plan in fleet(count, random)
    ]
    lives = [live(plan, random, until_ms=END_MS, is_chatty=False) for plan in plans]
    by_device = {plan.device: plan.labels for plan in plans}
    helped = {
        plan.device: ("deployment.terms",) for plan in plans if random.random() < FALLBACK_RATIO
    }
    raised = set()
    for now_ms in LOOKS_MS:
        courses = [each.course(now_ms) for each in lives]
        report = build_report(
            deployment="1",
            component="app",
            version="2",
            courses=courses,
            now_ms=now_ms,
            patience_ms=GRACE_MS,
        )
        judged = judge_deployment(report, courses, labels=by_device, actions=helped)
        raised |= _raised(judged)
    rest, canaries = max(1, count * 4 // 5), max(1, count // 5)
    cycles = [_cycle(arms, rest, canaries, (0.03, 0.03)) for _ in range(20)]
    variants = ["on" if arms.random() < 0.2 else "off" for _ in range(count)]  # noqa: PLR2004
    return raised | _raised([judge_canary(cycles), judge_arrivals(variants, {"on": 1, "off": 4})])


def _raised(judged: Iterable[Judgement]) -> set[str]:
    return {
        each.name
        for each in judged
        if each.name in WATCHED and each.verdict in {Ruling.BREACH, Ruling.UNHEALTHY}
    }


def _cycle(random: Random, rest: int, canaries: int, rates: tuple[float, float]) -> Cycle:
    return Cycle(
        rest_count=rest,
        rest_failed=sum(random.random() < rates[0] for _ in range(rest)),
        canary_count=canaries,
        canary_failed=sum(random.random() < rates[1] for _ in range(canaries)),
    )


def _p95(random: Random, level: float) -> float:
    return exp(sorted(random.gauss(level, 0.5) for _ in range(EVENTS))[EVENTS * 95 // 100])
