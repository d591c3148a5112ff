"""Whether the arms of a comparison have the sizes that were decided (sample-ratio mismatch).

Owns the test. Where the sizes are off, something lets devices of one arm drop out, and no
comparison of the arms can be believed: the verdict is `UNHEALTHY`.

Two tests: chi-square, for one look at arms that are complete; and a Bayes factor with a
Dirichlet-multinomial alternative for devices that arrive one by one, which may be looked at after
each. Source: Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022.
"""

from collections.abc import Iterable, Mapping
from math import exp, lgamma, log
from typing import Final

from hub.outcomes import words
from hub.outcomes.chances import chi_square_tail
from hub.outcomes.verdicts import Estimate, Judgement, Ruling

ALPHA: Final = 0.001
ARM_MIN_COUNT: Final = 8
"""Devices wanted in each arm, below which one look says nothing."""

_CONCENTRATION: Final = 100.0
"""Weight of the alternative's prior, in devices: shares near the decided one are likeliest, which
finds 7 % instead of 5 % after 2,000 devices, and 10 % after 400."""

_CONCENTRATIONS: Final = (10.0, _CONCENTRATION)


def judge_arms(
    counts: Mapping[str, int], wanted: Mapping[str, float], *, alpha: float = ALPHA
) -> Judgement:
    """Return whether arms have their decided sizes, looked at once.

    Args:
        counts: Devices in each arm.
        wanted: Share of each arm.
        alpha: How often right sizes are called wrong.
    """
    total, shares = sum(counts.values()), _shares(wanted)
    counted = _counted(counts, shares)
    stray = sorted(set(counts) - set(shares))
    if stray:
        return _judged(
            Ruling.UNHEALTHY, f"Devices run {', '.join(stray)}, which nobody decided: {counted}."
        )
    if min(share * total for share in shares.values()) < ARM_MIN_COUNT:
        return _judged(
            Ruling.TOO_LITTLE_EVIDENCE,
            f"Too few devices to check the sizes of the arms: {counted}.",
        )
    statistic = sum(
        (counts.get(arm, 0) - share * total) ** 2 / (share * total) for arm, share in shares.items()
    )
    p = chi_square_tail(statistic, len(shares) - 1)
    if p < alpha:
        verdict, sentence = (
            Ruling.UNHEALTHY,
            f"The arms do not have the sizes that were decided, so do not compare them: {counted}.",
        )
    else:
        verdict, sentence = Ruling.OK, f"The arms have the sizes that were decided: {counted}."
    return Judgement(
        name="sample_ratio",
        verdict=verdict,
        sentence=sentence,
        evidence=(f"chi-square {statistic:.1f}, p = {p:.3g}",),
        estimate=_largest_gap(counts, shares),
        p_value=p,
        alpha=alpha,
    )


def judge_arrivals(
    arms: Iterable[str], wanted: Mapping[str, float], *, alpha: float = ALPHA
) -> Judgement:
    """Return whether devices arrive in their arms as decided, looked at after each.

    Args:
        arms: The arm of each device, in the order in which they arrived.
        wanted: Share of each arm.
        alpha: How often right sizes are called wrong, over all looks together.
    """
    shares = _shares(wanted)
    counts: dict[str, int] = dict.fromkeys(shares, 0)
    held = largest = 0.0
    crossed_at, seen = None, 0
    for seen, arm in enumerate(arms, 1):
        if arm not in shares:
            return _judged(Ruling.UNHEALTHY, f"A device runs {arm}, which nobody decided.")
        # How likely the alternative held this arm, given those before, over how likely we did.
        alternative = (_CONCENTRATION * shares[arm] + counts[arm]) / (_CONCENTRATION + seen - 1)
        held += log(alternative / shares[arm])
        counts[arm] += 1
        largest = max(largest, held)
        if crossed_at is None and held >= log(1 / alpha):
            crossed_at = seen
    counted = _counted(counts, shares)
    if crossed_at is not None:
        verdict = Ruling.UNHEALTHY
        sentence = (
            "Devices do not arrive in the arms as decided, so do not compare them: "
            f"{counted}; that was certain enough after {crossed_at}."
        )
    elif seen and min(share * seen for share in shares.values()) >= ARM_MIN_COUNT:
        verdict, sentence = Ruling.OK, f"Devices arrive in the arms as decided: {counted}."
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = f"Too few devices to check the sizes of the arms: {counted}."
    return Judgement(
        name="sample_ratio",
        verdict=verdict,
        sentence=sentence,
        evidence=(f"evidence {exp(min(largest, 700.0)):.3g}, enough at {1 / alpha:.0f}",),
        estimate=_largest_gap(counts, shares),
        e_value=exp(min(largest, 700.0)),
        alpha=alpha,
    )


def judge_counted(
    counts: Mapping[str, int], wanted: Mapping[str, float], *, alpha: float = ALPHA
) -> Judgement:
    """Return whether arms have their decided sizes, looked at as often as one likes.

    As `judge_arrivals` where only the counts are known: the evidence of all that came so far does
    not depend on their order.

    Args:
        counts: Devices in each arm so far.
        wanted: Share of each arm.
        alpha: How often right sizes are called wrong, over all looks together.
    """
    shares = _shares(wanted)
    total = sum(counts.values())
    counted = _counted(counts, shares)
    stray = sorted(set(counts) - set(shares))
    if stray:
        return _judged(
            Ruling.UNHEALTHY, f"Devices run {', '.join(stray)}, which nobody decided: {counted}."
        )
    # The mean of several alternatives is one again: arms of ten devices that lose most of them are
    # found by the wide one, small shifts in large arms by the narrow one.
    e_value = sum(_evidence(counts, shares, each) for each in _CONCENTRATIONS) / len(
        _CONCENTRATIONS
    )
    if e_value >= 1 / alpha:
        verdict = Ruling.UNHEALTHY
        sentence = (
            f"The arms do not have the sizes that were decided, so do not compare them: {counted}."
        )
    elif total and min(share * total for share in shares.values()) >= ARM_MIN_COUNT:
        verdict, sentence = Ruling.OK, f"The arms have the sizes that were decided: {counted}."
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = f"Too few devices to check the sizes of the arms: {counted}."
    return Judgement(
        name="sample_ratio",
        verdict=verdict,
        sentence=sentence,
        evidence=(f"evidence {e_value:.3g}, enough at {1 / alpha:.0f}",),
        estimate=_largest_gap(counts, shares),
        e_value=e_value,
        alpha=alpha,
    )


def _evidence(counts: Mapping[str, int], shares: Mapping[str, float], weight: float) -> float:
    total = sum(counts.values())
    held = lgamma(weight) - lgamma(weight + total)
    for arm, share in shares.items():
        count = counts.get(arm, 0)
        held += lgamma(weight * share + count) - lgamma(weight * share) - count * log(share)
    return exp(min(held, 700.0))


def _shares(wanted: Mapping[str, float]) -> dict[str, float]:
    total = sum(wanted.values())
    if not wanted or min(wanted.values()) <= 0:
        raise ValueError("each arm must be given a share above zero")
    return {arm: share / total for arm, share in wanted.items()}


def _counted(counts: Mapping[str, int], shares: Mapping[str, float]) -> str:
    total = sum(counts.values())
    return ", ".join(
        f"{arm} {counts.get(arm, 0)} instead of {shares.get(arm, 0.0) * total:.0f}"
        for arm in sorted({*counts, *shares})
    )


def _largest_gap(counts: Mapping[str, int], shares: Mapping[str, float]) -> Estimate | None:
    total = sum(counts.values())
    if not total:
        return None
    arm = max(shares, key=lambda each: abs(counts.get(each, 0) / total - shares[each]))
    return Estimate(
        value=counts.get(arm, 0) / total,
        lo=None,
        hi=None,
        unit="ratio",
        how=f"share of {arm}, decided {words.share(shares[arm])}",
    )


def _judged(verdict: Ruling, sentence: str) -> Judgement:
    return Judgement(name="sample_ratio", verdict=verdict, sentence=sentence, alpha=ALPHA)
