"""Whether failures follow a label: the region, the class, the site; and which one, or cannot tell.

Owns the search. Three steps: a test per label, corrected for looking at several; of the labels that
are left, only those stay that still explain failures *inside* the values of each other one; and the
value is named by the share of the excess that it carries. Two labels that go together so closely
that neither explains anything inside the other are named as what cannot be told apart.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Final

from hub.outcomes import words
from hub.outcomes.chances import chi_square_tail, holm
from hub.outcomes.verdicts import Estimate, Judgement, Ruling

ALPHA: Final = 0.05
NONE: Final = "(none)"
"""Value of a device that does not bear the label."""

FAILURES_MIN: Final = 5
"""With fewer failures any pattern is an anecdote."""
FAILURES_TO_CLEAR: Final = 20
"""With fewer failures, no pattern found does not mean that there is none."""

_PERMUTED_MAX_COUNT: Final = 200
_EXPECTED_MIN: Final = 5
"""The chi-square tail is not to be trusted where fewer failures are expected in a cell."""
_PERMUTATIONS: Final = 999
_PERMUTED_FAILURES_MAX: Final = 300
_MASK: Final = 2**64 - 1
_FIRST_LOOK: Final = 8
_WHOLE_LOOKS: Final = (0.5, 0.8, 0.95, 1.0)
"""Shares of the expected cases at which all so far are looked at; a few devices may never end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One device and whether it failed."""

    device: str
    labels: Mapping[str, str]
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A value of a label, held against everything else."""

    label: str
    value: str
    failed_count: int
    count: int
    excess_ratio: float
    """Share of the failures beyond the rate elsewhere that this value carries."""
    risk_ratio: float | None
    """How many times likelier than elsewhere a failure is; None if elsewhere nothing failed."""


def judge_pattern(cases: Iterable[Case], *, alpha: float = ALPHA) -> Judgement:
    """Return which label explains failures, looked at once.

    `BREACH` is a pattern, named or told to lie in labels that go together; `OK` is that failures
    are spread as chance would spread them.

    Args:
        cases: Every device that could have failed.
        alpha: How often failures that follow nothing are called a pattern.
    """
    held = list(cases)
    failed = sum(case.failed for case in held)
    if not failed:
        verdict = Ruling.OK if held else Ruling.TOO_LITTLE_EVIDENCE
        return _judged(verdict, f"None of {len(held)} devices failed.", alpha)
    labels = _labels(held)
    if failed < FAILURES_MIN or not labels:
        lacking = "failures" if labels else "labels that divide the fleet"
        return _judged(
            Ruling.TOO_LITTLE_EVIDENCE,
            f"{failed} of {len(held)} devices failed: too few {lacking} to tell a pattern.",
            alpha,
        )
    adjusted = holm([_p_value(held, label) for label in labels])
    p_values = dict(zip(labels, adjusted, strict=True))
    guilty = [label for label in labels if p_values[label] <= alpha]
    told = tuple(f"{label}: p = {p_values[label]:.3g}" for label in labels)
    least = min(p_values.values())
    if not guilty:
        enough = failed >= FAILURES_TO_CLEAR
        sentence = (
            f"The {failed} failures of {len(held)} devices follow none of {', '.join(labels)}."
            if enough
            else f"{failed} of {len(held)} devices failed: too few failures to tell a pattern."
        )
        verdict = Ruling.OK if enough else Ruling.TOO_LITTLE_EVIDENCE
        return _judged(verdict, sentence, alpha, told, least)
    kept = [
        label
        for label in guilty
        if all(_p_value(held, label, other) <= alpha for other in guilty if other != label)
    ]
    if not kept:
        both = " and ".join(guilty)
        return _judged(
            Ruling.BREACH,
            f"The failure pattern is regional, but {both} cannot be told apart: "
            f"{_told(worst(held, guilty[0]))}.",
            alpha,
            told,
            least,
        )
    segments = [worst(held, label) for label in kept]
    sentence = f"The failure pattern is regional: {'; '.join(map(_told, segments))}."
    return _judged(Ruling.BREACH, sentence, alpha, told, least, segments)


def watch_pattern(cases: Iterable[Case], *, expected_count: int, alpha: float = ALPHA) -> Judgement:
    """Return the same for cases that come one by one, watched all the time.

    It looks at the cases so far whenever the failures have doubled, spending half of
    `alpha / (k (k + 1))` on look `k`, and when certain shares of the expected cases are there,
    spending an equal part of the other half on each. Which cases a look is at does not depend on
    when somebody watches, so all looks together are wrong at most as often as `alpha`. A pattern
    stays found.

    Args:
        cases: In the order in which they ended.
        expected_count: How many there will be when all have ended.
        alpha: Over all looks together.
    """
    whole = [ceil(expected_count * share) for share in _WHOLE_LOOKS]
    held: list[Case] = []
    failed, look, following = 0, 0, _FIRST_LOOK
    for case in cases:
        held.append(case)
        failed += case.failed
        levels = []
        if failed >= following:
            look += 1
            following *= 2
            levels.append(alpha / 2 / (look * (look + 1)))
        if len(held) in whole:
            levels.append(alpha / 2 / len(whole))
        if levels and failed:
            judged = judge_pattern(held, alpha=max(levels))
            if judged.verdict is Ruling.BREACH:
                return judged
    if not failed:
        return judge_pattern(held, alpha=alpha)
    counted = f"{failed} of {len(held)} devices failed"
    if failed < FAILURES_TO_CLEAR:
        sentence = f"{counted}: too few failures to tell a pattern."
        return _judged(Ruling.TOO_LITTLE_EVIDENCE, sentence, alpha)
    if len(held) < whole[-2]:
        sentence = f"{counted} so far, following no label that can be seen yet."
        return _judged(Ruling.TOO_LITTLE_EVIDENCE, sentence, alpha)
    labels = ", ".join(_labels(held)) or "labels, as none divides the fleet"
    return _judged(Ruling.OK, f"{counted}, following none of {labels}.", alpha)


def worst(cases: Sequence[Case], label: str) -> Segment:
    """Return the value of a label that carries most of the failures beyond the rate elsewhere."""
    table = _table(cases, label)
    total, failed = len(cases), sum(case.failed for case in cases)
    found = []
    for value, (count, bad) in table.items():
        elsewhere = total - count
        rate = (failed - bad) / elsewhere if elsewhere else 0.0
        beyond, here = failed - total * rate, bad - count * rate
        found.append(
            Segment(
                label=label,
                value=value,
                failed_count=bad,
                count=count,
                excess_ratio=here / beyond if beyond > 0 else 0.0,
                risk_ratio=bad / count / rate if rate else None,
            )
        )
    return max(
        found,
        key=lambda each: (
            each.failed_count / each.count > failed / total,
            _beyond(each, total, failed),
        ),
    )


def _beyond(segment: Segment, total: int, failed: int) -> float:
    return segment.failed_count - segment.count * failed / total


def _labels(cases: Sequence[Case]) -> list[str]:
    """Return labels that divide the devices into groups; a serial number divides into singles."""
    found = []
    for label in sorted({name for case in cases for name in case.labels}):
        sizes = Counter(case.labels.get(label, NONE) for case in cases)
        if len(sizes) > 1 and len(sizes) <= len(cases) / 2:
            found.append(label)
    return found


def _table(cases: Iterable[Case], label: str) -> dict[str, tuple[int, int]]:
    table: dict[str, tuple[int, int]] = {}
    for case in cases:
        value = case.labels.get(label, NONE)
        count, bad = table.get(value, (0, 0))
        table[value] = count + 1, bad + case.failed
    return table


def _p_value(cases: Sequence[Case], label: str, within: str | None = None) -> float:
    """Return the chance that failures follow a label so closely, inside each value of another."""
    strata: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        strata["" if within is None else case.labels.get(within, NONE)].append(case)
    parts = [
        ([case.labels.get(label, NONE) for case in part], sum(case.failed for case in part), part)
        for part in strata.values()
    ]
    # Where all or none failed, or there is only one value, nothing can be learnt.
    parts = [
        (values, bad, part)
        for values, bad, part in parts
        if 0 < bad < len(part) and len(set(values)) > 1
    ]
    if not parts:
        return 1.0
    observed = 0.0
    freedom, thinnest = 0, float("inf")
    for values, bad, part in parts:
        sizes = Counter(values)
        observed += _g(sizes, Counter(case.labels.get(label, NONE) for case in part if case.failed))
        freedom += len(sizes) - 1
        rarer = min(bad, len(part) - bad)
        thinnest = min(thinnest, min(sizes.values()) * rarer / len(part))
    is_thin = thinnest < _EXPECTED_MIN and sum(bad for _, bad, _ in parts) <= _PERMUTED_FAILURES_MAX
    if sum(len(values) for values, _, _ in parts) > _PERMUTED_MAX_COUNT and not is_thin:
        return chi_square_tail(observed, freedom)
    return _permuted([(values, bad) for values, bad, _ in parts], observed)


def _permuted(parts: Sequence[tuple[list[str], int]], observed: float) -> float:
    draws = _Draws()
    sizes = [Counter(values) for values, _ in parts]
    hits = 1
    for _ in range(_PERMUTATIONS):
        drawn = sum(
            _g(size, Counter(draws.sample(values, bad)))
            for size, (values, bad) in zip(sizes, parts, strict=True)
        )
        hits += drawn >= observed - 1e-9
    return hits / (_PERMUTATIONS + 1)


class _Draws:
    """SplitMix64 (Steele, Lea and Flood, 2014), always from the same start.

    So the same cases always get the same answer, and what is computed here depends on nothing else.
    """

    def __init__(self) -> None:
        self._state = 0

    def sample(self, values: Sequence[str], count: int) -> list[str]:
        """Return so many of the values, each choice as likely as any other."""
        held = list(values)
        for i in range(count):
            j = i + self._next() % (len(held) - i)
            held[i], held[j] = held[j], held[i]
        return held[:count]

    def _next(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)


def _g(sizes: Mapping[str, int], bad: Mapping[str, int]) -> float:
    """Return the G statistic of a table: twice the sum of seen times log of seen over expected."""
    total, failed = sum(sizes.values()), sum(bad.values())
    found = 0.0
    for value, count in sizes.items():
        for seen, whole in (
            (bad.get(value, 0), failed),
            (count - bad.get(value, 0), total - failed),
        ):
            if seen:
                found += seen * log(seen * total / (count * whole))
    return 2 * found


def _told(segment: Segment) -> str:
    risk = "" if segment.risk_ratio is None else f"risk {segment.risk_ratio:.1f} times, "
    carried = words.share(segment.excess_ratio)
    return (
        f"{segment.label} {segment.value} carries {carried} of the excess "
        f"({risk}{segment.failed_count} of {segment.count})"
    )


def _judged(
    verdict: Ruling,
    sentence: str,
    alpha: float,
    evidence: tuple[str, ...] = (),
    p_value: float | None = None,
    segments: Sequence[Segment] = (),
) -> Judgement:
    first = segments[0] if segments else None
    return Judgement(
        name="failure_pattern",
        verdict=verdict,
        sentence=sentence,
        evidence=evidence
        + tuple(
            f"{each.label}={each.value}: {each.failed_count} of {each.count}" for each in segments
        ),
        estimate=None
        if first is None
        else Estimate(
            value=first.risk_ratio,
            lo=None,
            hi=None,
            unit="times",
            how=f"risk of {first.label} {first.value}",
        ),
        p_value=p_value,
        alpha=alpha,
    )
