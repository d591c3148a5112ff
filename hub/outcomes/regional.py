"""Whether failures follow a label: a region, a class, a network; or cannot be told apart.

Owns the search. Labels are looked at together, since in most fleets they hang together: all pumps
stand in the south. A label is named only if it still explains failures among devices that are alike
in every other label that seems guilty. Naming the label with the smallest p-value instead blames an
innocent one in a quarter of all fleets without any pattern.

Source: the G-test (likelihood ratio), Holm's correction over labels, then the same test stratified
by the other labels (conditional mutual information). Small fleets are judged by permutation.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hub.outcomes.chance import EXACT_MAX, chi_square_tail, holm
from hub.outcomes.verdicts import Call, Judgement

ALPHA: Final = 0.05
PERMUTATIONS: Final = 999

Shuffle = Callable[[list[bool]], None]
"""Brings a list into any order. Chance is an argument here, as time is."""
FAILURES_MIN: Final = 3
VALUES_MAX: Final = 50
"""Values of one label that are looked at; one with more is a name, not a group."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One device: its labels, and whether it failed."""

    labels: Mapping[str, str]
    failed: bool


@dataclass(frozen=True, slots=True)
class Culprit:
    """A value of a label that carries failures."""

    label: str
    value: str
    failed: int
    count: int
    excess_ratio: float
    """Share of all failures beyond what the others' rate explains."""
    risk_ratio: float
    """Rate here over rate elsewhere; infinite if nobody else failed."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What explains the failures."""

    culprits: tuple[Culprit, ...]
    """One for each label that explains them by itself."""
    inseparable: tuple[str, ...]
    """Labels of which at least one is guilty, and nobody can say which."""
    failed_count: int
    count: int


def pattern(devices: Sequence[Observed], shuffle: Shuffle) -> Pattern:
    """Return what explains the failures; nothing where it cannot be told.

    Args:
        devices: All that finished, well or not.
        shuffle: For permutations; with the same one the same fleet gives the same answer.
    """
    failed = sum(each.failed for each in devices)
    if failed < FAILURES_MIN or failed == len(devices):
        return Pattern((), (), failed, len(devices))
    labels = _labels(devices)
    alone = {label: _p(devices, label, (), shuffle) for label in labels}
    suspects = sorted(holm(alone, ALPHA))
    guilty = []
    for label in suspects:
        others = tuple(each for each in suspects if each != label)
        if not others or _p(devices, label, others, shuffle) <= ALPHA:
            guilty.append(label)
    if suspects and not guilty:
        return Pattern((), tuple(suspects), failed, len(devices))
    culprits = tuple(_worst(devices, label) for label in guilty)
    return Pattern(culprits, (), failed, len(devices))


def judge_pattern(devices: Sequence[Observed], shuffle: Shuffle) -> Judgement:
    """Return the judgement on where failures are."""
    found = pattern(devices, shuffle)
    share = f"{found.failed_count} of {found.count} failed"
    if found.culprits:
        told = " and ".join(
            f"{each.label}={each.value} carries {each.excess_ratio:.0%} of the excess "
            f"({each.failed} of {each.count}, {_times(each.risk_ratio)} the rate elsewhere)"
            for each in found.culprits
        )
        return Judgement(
            about="pattern",
            call=Call.BREACH,
            sentence=f"Failures follow a pattern: {told}.",
            evidence=(share, told),
            uncertainty="named only because it explains failures among devices that are alike "
            "otherwise; false at most once in 20",
        )
    if found.inseparable:
        names = " and ".join(found.inseparable)
        return Judgement(
            about="pattern",
            call=Call.TOO_LITTLE_EVIDENCE,
            sentence=f"Failures follow a pattern, but {names} cannot be told apart: devices that "
            "differ in one of them differ in the other.",
            evidence=(share, f"each of {names} alone would explain it"),
            uncertainty="a few devices that mix them would tell",
        )
    if found.failed_count < FAILURES_MIN:
        return Judgement(
            about="pattern",
            call=Call.TOO_LITTLE_EVIDENCE,
            sentence=f"Too few failures to tell whether they follow a pattern: {share}.",
            evidence=(share,),
            uncertainty=f"at least {FAILURES_MIN} are needed, and mostly more",
        )
    return Judgement(
        about="pattern",
        call=Call.OK,
        sentence=f"Failures follow no label: {share}, everywhere alike as far as can be told.",
        evidence=(share,),
        uncertainty="a pattern over few devices would not show",
    )


def _times(ratio: float) -> str:
    return "none" if math.isinf(ratio) else f"{ratio:.1f} times"


def _labels(devices: Iterable[Observed]) -> list[str]:
    values: dict[str, set[str]] = defaultdict(set)
    for each in devices:
        for label, value in each.labels.items():
            values[label].add(value)
    return sorted(label for label, found in values.items() if 1 < len(found) <= VALUES_MAX)


def _p(devices: Sequence[Observed], label: str, others: Sequence[str], shuffle: Shuffle) -> float:
    """Return the p-value of a label, among devices that are alike in `others`."""
    strata: dict[tuple[str, ...], list[tuple[str, bool]]] = defaultdict(list)
    for each in devices:
        place = tuple(each.labels.get(other, "") for other in others)
        strata[place].append((each.labels.get(label, ""), each.failed))
    groups = [found for found in strata.values() if len({value for value, _ in found}) > 1]
    if not groups:
        return 1.0
    seen = sum(_g(found) for found in groups)
    if len(devices) > EXACT_MAX:
        degrees = sum(
            len({value for value, _ in found}) - 1
            for found in groups
            if 0 < sum(failed for _, failed in found) < len(found)
        )
        return chi_square_tail(seen, degrees) if degrees else 1.0
    return _permuted(groups, seen, shuffle)


def _permuted(
    groups: Sequence[Sequence[tuple[str, bool]]],
    seen: float,
    shuffle: Shuffle,
) -> float:
    as_much = 1
    for _ in range(PERMUTATIONS):
        total = 0.0
        for found in groups:
            outcomes = [failed for _, failed in found]
            shuffle(outcomes)
            total += _g([(found[at][0], failed) for at, failed in enumerate(outcomes)])
        as_much += total >= seen - 1e-9
    return as_much / (PERMUTATIONS + 1)


def _g(found: Sequence[tuple[str, bool]]) -> float:
    """Return G of a table of values by failure."""
    count = len(found)
    by_value = Counter(value for value, _ in found)
    by_cell = Counter(found)
    failed = sum(1 for _, each in found if each)
    totals = {True: failed, False: count - failed}
    return 2 * sum(
        seen * math.log(seen * count / (by_value[value] * totals[outcome]))
        for (value, outcome), seen in by_cell.items()
    )


def _worst(devices: Sequence[Observed], label: str) -> Culprit:
    """Return the value of a label that carries most failures beyond the others' rate."""
    count, failed = Counter[str](), Counter[str]()
    for each in devices:
        value = each.labels.get(label, "")
        count[value] += 1
        failed[value] += each.failed
    all_count, all_failed = sum(count.values()), sum(failed.values())
    best: Culprit | None = None
    for value, n in sorted(count.items()):
        x = failed[value]
        rate = (all_failed - x) / (all_count - n) if all_count > n else 0.0
        excess_of = all_failed - all_count * rate
        excess = (x - n * rate) / excess_of if excess_of > 0 else 0.0
        risk = (x / n) / rate if rate else math.inf
        one = Culprit(label, value, x, n, min(1.0, max(0.0, excess)), risk)
        if best is None or (x - n * rate) > _beyond(best, all_count, all_failed):
            best = one
    assert best is not None  # noqa: S101 - a label that was tested has values
    return best


def _beyond(one: Culprit, all_count: int, all_failed: int) -> float:
    rate = (all_failed - one.failed) / (all_count - one.count) if all_count > one.count else 0.0
    return one.failed - one.count * rate
