"""Whether the canary fails more often than the rest does at the same time.

Owns the bet that grows with each look. The rest at the same time is the comparison, so a storm or
a broken network that hits everybody is no finding.

Source: Turner, Ly and Gruenwald, "Generic E-variables for exact sequential k-sample tests that
allow for optional stopping" (2021): the safe test of two proportions. Its evidence is valid at
every look.
"""

import math
from dataclasses import dataclass
from typing import Final

from hub.outcomes.normal_range import HOLD_AT
from hub.outcomes.verdicts import Call, Judgement

CANARY_MIN: Final = 2
LOOKS_FOR_OK: Final = 8
"""Cycles without a finding after which ten times the usual rate would mostly have shown."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """What happened between two looks."""

    canary_count: int
    canary_failed: int
    rest_count: int
    rest_failed: int


@dataclass(frozen=True, slots=True)
class Bet:
    """What has been learnt, and what it is worth."""

    log_evidence: float = 0.0
    canary_count: int = 0
    canary_failed: int = 0
    rest_count: int = 0
    rest_failed: int = 0
    cycles_count: int = 0


def after(bet: Bet, cycle: Cycle) -> Bet:
    """Return the bet after one more cycle, which was bet on before it was seen."""
    canary = (bet.canary_failed + 0.5) / (bet.canary_count + 1)
    rest = (bet.rest_failed + 0.5) / (bet.rest_count + 1)
    log_e = bet.log_evidence
    count = cycle.canary_count + cycle.rest_count
    if bet.cycles_count and canary > rest and cycle.canary_count and cycle.rest_count:
        both = (cycle.canary_count * canary + cycle.rest_count * rest) / count
        log_e += _log_likelihood(cycle.canary_failed, cycle.canary_count, canary, both)
        log_e += _log_likelihood(cycle.rest_failed, cycle.rest_count, rest, both)
    return Bet(
        log_e,
        bet.canary_count + cycle.canary_count,
        bet.canary_failed + cycle.canary_failed,
        bet.rest_count + cycle.rest_count,
        bet.rest_failed + cycle.rest_failed,
        bet.cycles_count + 1,
    )


def _log_likelihood(failed: int, count: int, rate: float, both: float) -> float:
    return failed * math.log(rate / both) + (count - failed) * math.log((1 - rate) / (1 - both))


def judge_canary(bet: Bet) -> Judgement:
    """Return the judgement on the canary."""
    shares = (
        f"canary {bet.canary_failed} of {bet.canary_count} failed",
        f"rest {bet.rest_failed} of {bet.rest_count}",
        f"evidence {math.exp(min(bet.log_evidence, 700)):.3g} to 1, of {HOLD_AT:g} that hold",
        f"{bet.cycles_count} looks",
    )
    told = f"{shares[0]}, {shares[1]} at the same time"
    if bet.log_evidence >= math.log(HOLD_AT):
        return Judgement(
            about="canary",
            call=Call.BREACH,
            sentence=f"The canary fails more often than the rest: {told}.",
            evidence=shares,
            uncertainty=f"false at most once in {HOLD_AT:g} rollouts, however often one looks",
        )
    is_small = bet.canary_count < CANARY_MIN or bet.rest_count < CANARY_MIN
    if is_small or bet.cycles_count < LOOKS_FOR_OK:
        return Judgement(
            about="canary",
            call=Call.TOO_LITTLE_EVIDENCE,
            sentence=f"It cannot be told yet whether the canary does worse: {told}.",
            evidence=shares,
            uncertainty=f"{bet.cycles_count} looks; a large difference shows after about "
            f"{LOOKS_FOR_OK}",
        )
    return Judgement(
        about="canary",
        call=Call.OK,
        sentence=f"Nothing shows that the canary does worse than the rest: {told}.",
        evidence=shares,
        uncertainty="a difference too small for so many cases may be there",
    )
