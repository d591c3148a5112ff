"""Whether a release made something slower: each device against itself, canaries against the rest.

Owns the P95 regression. The figure is the ratio by which a device's 95th percentile changed, canary
over rest; the unit is the device, never the event, because the events of one device are alike and
tests on events raise false alarms in a quarter to a half of clean releases.

It is made for one look, planned beforehand. What is watched all the time is `judge_watched_p95`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Final, Protocol

from hub.outcomes.chances import p_min, rank_test, shift, thin
from hub.outcomes.normal_range import HOLD, judge_normal
from hub.outcomes.verdicts import Estimate, Judgement, Ruling

P95: Final = 0.95
MATERIAL_RATIO: Final = 1.3
"""A release is only called ok when it cannot have made things slower by so much."""

_COMPARED_MAX: Final = 1000
"""Devices of each group whose differences are all looked at for the bounds."""


class Sketch(Protocol):
    """A summary of measured values."""

    def quantile(self, q: float) -> float:
        """Return the value below which a share of the values lie."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The 95th percentile of one device before and after; values must be above zero."""

    device: str
    is_canary: bool
    before: float
    after: float


def change_of(device: str, before: Sketch, after: Sketch, *, is_canary: bool) -> Change:
    """Return the change of a device between two sketches."""
    return Change(
        device=device,
        is_canary=is_canary,
        before=before.quantile(P95),
        after=after.quantile(P95),
    )


def judge_p95(
    changes: Iterable[Change],
    *,
    allowed: float = 1.0,
    alpha: float = HOLD,
    material: float = MATERIAL_RATIO,
    name: str = "p95_regression",
) -> Judgement:
    """Return whether the 95th percentile rose on canaries by more than an allowed ratio.

    Args:
        changes: Of devices that were measured before and after.
        allowed: Ratio over the rest that is still well.
        alpha: How often a release that changed nothing is called a regression, looked at once.
        material: As `MATERIAL_RATIO`.
        name: The question.
    """
    held = [each for each in changes if each.before > 0 and each.after > 0]
    canary = [log(each.after / each.before) for each in held if each.is_canary]
    rest = [log(each.after / each.before) for each in held if not each.is_canary]
    if not canary or not rest:
        return Judgement(
            name=name,
            verdict=Ruling.TOO_LITTLE_EVIDENCE,
            sentence="There is no device measured before and after on one of the two sides.",
            alpha=alpha,
        )
    least = p_min(len(canary), len(rest))
    p = rank_test([change - log(allowed) for change in canary], rest)
    ratio, lo, hi = _ratio(canary, rest, 1 - 2 * alpha)
    shown = f"{ratio:.2f} times{_between(lo, hi)}"
    sides = f"{len(canary)} canaries against {len(rest)} others"
    if least > alpha:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = (
            f"The P95 changed by {shown}, but {sides} can never tell: "
            f"the smallest p-value that they can reach is {least:.3f}."
        )
    elif p <= alpha:
        verdict = Ruling.BREACH
        sentence = f"The P95 of canaries rose to {shown} that of the rest, beyond {allowed:g}."
    elif hi is not None and hi <= max(material, allowed):
        verdict = Ruling.OK
        sentence = f"The P95 of canaries is {shown} that of the rest: no regression that matters."
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = f"The P95 of canaries is {shown} that of the rest, which decides nothing."
    return Judgement(
        name=name,
        verdict=verdict,
        sentence=sentence,
        evidence=(f"{sides}, each against itself", f"p = {p:.3g}, p_min = {least:.2g}"),
        estimate=Estimate(
            value=ratio, lo=lo, hi=hi, unit="times", how=f"{1 - 2 * alpha:.0%} rank test"
        ),
        p_value=p,
        p_min=least,
        alpha=alpha,
        devices=tuple(each.device for each in held if each.is_canary),
    )


def judge_watched_p95(
    values: Iterable[float], *, baseline: float, alpha: float = HOLD, name: str = "p95_watched"
) -> Judgement:
    """Return whether more than one in twenty devices lies above the P95 of before, at every look.

    Args:
        values: One per device, in the order in which they came; not several of one device.
        baseline: The 95th percentile that was frozen before the release.
        alpha: Over all looks together.
        name: The question.
    """
    return judge_normal(
        name,
        [value > baseline for value in values],
        normal=1 - P95,
        what=f"devices lie above the frozen P95 of {baseline:g}",
        alpha=alpha,
    )


def _ratio(
    canary: Sequence[float], rest: Sequence[float], confidence: float
) -> tuple[float, float | None, float | None]:
    middle, lo, hi = shift(thin(canary, _COMPARED_MAX), thin(rest, _COMPARED_MAX), confidence)
    return exp(middle), None if lo is None else exp(lo), None if hi is None else exp(hi)


def _between(lo: float | None, hi: float | None) -> str:
    return "" if lo is None or hi is None else f" ({lo:.2f} to {hi:.2f})"
