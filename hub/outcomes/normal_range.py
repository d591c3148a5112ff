"""Whether something happens more often than is normal, watched all the time.

Owns the e-process against a rate that is allowed. Right for every true rate up to it and however
often somebody looks: the chance that it is ever called a breach is at most one in the bound.
Looking at a usual test each time instead calls 40 % of normal ranges a breach.

Source: the mixture martingale for a Bernoulli rate, with a uniform mixture over rates above the
allowed one (Ville's inequality bounds its supremum).
"""

import math
from typing import Final

from hub.outcomes.chance import clean_bound
from hub.outcomes.verdicts import Call, Judgement

MIXTURE: Final = 24
"""Rates above the allowed one that are bet on, spread evenly."""

HOLD_AT: Final = 20.0
"""Evidence at which a rollout is held: one false alarm in 20 watched for ever."""

KILL_AT: Final = 100.0


def log_evidence(breaches: int, others: int, allowed_ratio: float) -> float:
    """Return the natural logarithm of the evidence against a rate of at most `allowed_ratio`.

    It depends on the counts alone, so order, duplicates of a look and pauses change nothing.

    Args:
        breaches: Cases outside the normal range.
        others: Cases inside.
        allowed_ratio: Between 0 and 1, both excluded.
    """
    if not 0 < allowed_ratio < 1:
        raise ValueError(f"an allowed rate lies between 0 and 1, not at {allowed_ratio}")
    terms = []
    for step in range(1, MIXTURE + 1):
        rate = allowed_ratio + (1 - allowed_ratio) * (step - 0.5) / MIXTURE
        terms.append(
            breaches * math.log(rate / allowed_ratio)
            + others * math.log((1 - rate) / (1 - allowed_ratio))
        )
    most = max(terms)
    return most + math.log(sum(math.exp(term - most) for term in terms) / MIXTURE)


def judge_rate(
    about: str, what: str, *, breaches: int, others: int, allowed_ratio: float
) -> Judgement:
    """Return the judgement on a rate.

    Args:
        about: Name of the figure.
        what: What breaches are, in the plural: "updates that failed".
        breaches: How many there were.
        others: How many cases were none.
        allowed_ratio: What is normal at most.
    """
    count = breaches + others
    if not count:
        return Judgement(
            about=about,
            call=Call.TOO_LITTLE_EVIDENCE,
            sentence=f"Nothing is known of {what} yet.",
            evidence=("0 cases",),
            uncertainty="any rate is possible",
        )
    log_e = log_evidence(breaches, others, allowed_ratio)
    share = f"{breaches} of {count}"
    allowed = f"{allowed_ratio:.0%}"
    evidence = (
        f"{share} ({breaches / count:.0%})",
        f"normal is up to {allowed}",
        f"evidence {math.exp(min(log_e, 700)):.3g} to 1 against normal; {HOLD_AT:g} holds",
    )
    if log_e >= math.log(HOLD_AT):
        strength = "beyond doubt" if log_e >= math.log(KILL_AT) else "clearly"
        return Judgement(
            about=about,
            call=Call.BREACH,
            sentence=f"{share} are {what}: {strength} more than the {allowed} that are normal.",
            evidence=evidence,
            uncertainty=f"false at most once in {HOLD_AT:g} rollouts, however often one looks",
        )
    bound = clean_bound(count) if not breaches else _upper(breaches, count)
    if bound > allowed_ratio:
        return Judgement(
            about=about,
            call=Call.TOO_LITTLE_EVIDENCE,
            sentence=f"{share} are {what}; that many cases cannot tell whether it is normal.",
            evidence=evidence,
            uncertainty=f"up to {bound:.0%} is still possible",
        )
    return Judgement(
        about=about,
        call=Call.OK,
        sentence=f"{share} are {what}, within the {allowed} that are normal.",
        evidence=evidence,
        uncertainty=f"at most {bound:.0%}, with 95 % confidence",
    )


def _upper(breaches: int, count: int) -> float:
    """Return the upper bound of Clopper and Pearson (1934) at 95 %, one-sided."""
    low, high = breaches / count, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = sum(
            math.comb(count, each) * middle**each * (1 - middle) ** (count - each)
            for each in range(breaches + 1)
        )
        low, high = (middle, high) if tail > 0.05 else (low, middle)  # noqa: PLR2004 - 95 %
    return high
