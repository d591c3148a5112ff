"""A judgement: one of four verdicts, with what it rests on and how sure it is.

Owns the shape that every judgement has. Never computes one.

Rule: that nothing was found is not that nothing is there. A judgement says `OK` only where it could
have found what it looks for; else it says `TOO_LITTLE_EVIDENCE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Ruling(StrEnum):
    """What a judgement comes to. Values are shown and exported; never reuse one."""

    OK = "ok"
    BREACH = "breach"
    TOO_LITTLE_EVIDENCE = "too_little_evidence"
    UNHEALTHY = "unhealthy"
    """The measuring itself is broken, so that nothing that was measured can be believed."""


URGENCY = (Ruling.UNHEALTHY, Ruling.BREACH, Ruling.TOO_LITTLE_EVIDENCE, Ruling.OK)
"""Verdicts, the one that needs a person most first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and the bounds between which the truth lies."""

    value: float | None
    """Best guess; None if there is none."""
    lo: float | None
    hi: float | None
    unit: str
    """`ratio`, `ms`, `times`."""
    how: str
    """What the bounds are: `95 % exact (Clopper-Pearson)`, `uncertain clocks`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict on one question."""

    name: str
    """The question: `execution_gap`, `human_fallback`."""
    verdict: Ruling
    sentence: str
    evidence: tuple[str, ...] = ()
    estimate: Estimate | None = None
    p_value: float | None = None
    p_min: float | None = None
    """The smallest p-value that so few devices can reach, whatever happens to them."""
    e_value: float | None = None
    """The largest evidence so far; may be looked at as often as one likes."""
    alpha: float | None = None
    """How often a judgement of this kind is wrong when all is well, at most."""
    devices: tuple[str, ...] = ()
    """Devices that it concerns, where they can be named."""
    looked_at_count: int | None = None
    """How many devices were looked at, where that says when it can be judged at all."""


def overall(judgements: Sequence[Judgement]) -> tuple[Ruling, str]:
    """Return the most urgent verdict of several, and one sentence that says where it comes from."""
    by_verdict = {
        verdict: [each.name.replace("_", " ") for each in judgements if each.verdict is verdict]
        for verdict in URGENCY
    }
    clauses = [
        f"{said}: {', '.join(by_verdict[verdict])}"
        for verdict, said in (
            (Ruling.UNHEALTHY, "not to be believed"),
            (Ruling.BREACH, "out of range"),
            (Ruling.TOO_LITTLE_EVIDENCE, "cannot be told yet"),
            (Ruling.OK, "ok"),
        )
        if by_verdict[verdict]
    ]
    verdict = next((each for each in URGENCY if by_verdict[each]), Ruling.TOO_LITTLE_EVIDENCE)
    text = "; ".join(clauses) or "nothing was judged"
    return verdict, f"{text[:1].upper()}{text[1:]}."
