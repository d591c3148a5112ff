"""Whether devices were dealt out as intended: the sample-ratio mismatch.

Owns the two checks: at one look, and watched all the time. A mismatch says nothing about the
change; it says that the comparison is broken, so the call is "unhealthy".

Sources: Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments" (KDD
2019), for the threshold; Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data"
(NeurIPS 2022), for the sequential Bayes factor.
"""

import math
from collections.abc import Mapping
from typing import Final

from hub.outcomes.chance import chi_square_tail
from hub.outcomes.verdicts import Call, Judgement

P_MAX: Final = 0.001
ARM_MIN: Final = 8
"""Devices that each arm should have before one look says anything."""

CONCENTRATION: Final = 10_000.0
"""How near to the intended shares a mismatch is looked for."""

SEQUENTIAL_AT: Final = 1000.0


def log_bayes_factor(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return the natural logarithm of the evidence against the intended shares, valid always.

    Args:
        counts: Devices in each arm.
        shares: What was intended, together 1, each above 0.
    """
    total = sum(counts.values())
    log_alternative = math.lgamma(CONCENTRATION) - math.lgamma(CONCENTRATION + total)
    log_null = 0.0
    for arm, share in shares.items():
        count = counts.get(arm, 0)
        prior = CONCENTRATION * share
        log_alternative += math.lgamma(prior + count) - math.lgamma(prior)
        log_null += count * math.log(share)
    return log_alternative - log_null


def judge_ratio(counts: Mapping[str, int], shares: Mapping[str, float]) -> Judgement:
    """Return the judgement on how devices were dealt out."""
    total = sum(counts.values())
    told = ", ".join(f"{arm} {counts.get(arm, 0)}" for arm in shares)
    wanted = ", ".join(f"{arm} {total * share:.1f}" for arm, share in shares.items())
    evidence = (f"{told} of {total}", f"intended {wanted}")
    if total * min(shares.values(), default=0) < ARM_MIN:
        return Judgement(
            about="sample_ratio",
            call=Call.TOO_LITTLE_EVIDENCE,
            sentence=f"Too few devices to tell whether they were dealt out as intended: {told}.",
            evidence=evidence,
            uncertainty=f"each arm should have {ARM_MIN} devices",
        )
    chi = sum(
        (counts.get(arm, 0) - total * share) ** 2 / (total * share) for arm, share in shares.items()
    )
    p = chi_square_tail(chi, max(1, len(shares) - 1))
    log_factor = log_bayes_factor(counts, shares)
    sure = f"p {p:.3g} at this look; evidence {math.exp(min(log_factor, 700)):.3g} to 1 over all"
    strangers = set(counts) - set(shares)
    if strangers or p < P_MAX or log_factor >= math.log(SEQUENTIAL_AT):
        return Judgement(
            about="sample_ratio",
            call=Call.UNHEALTHY,
            sentence=f"Devices are not in their arms as intended ({told}, and not {wanted}): "
            "what is compared between the arms counts for nothing.",
            evidence=evidence,
            uncertainty=sure,
        )
    return Judgement(
        about="sample_ratio",
        call=Call.OK,
        sentence=f"Devices are dealt out as intended: {told}.",
        evidence=evidence,
        uncertainty=sure,
    )
