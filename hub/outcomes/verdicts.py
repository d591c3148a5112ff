"""The four verdicts on a figure, and what each must bring with it.

Owns their form. Works nothing out.

Rule: a verdict says how sure it is. "Too little evidence" is an answer, and the only honest one for
two devices; "unhealthy" says that the measuring itself is broken, so that nothing else counts.
"""

from dataclasses import dataclass
from enum import StrEnum


class Call(StrEnum):
    """What is said of a figure. Values are shown and exported; never reuse one."""

    OK = "ok"
    BREACH = "breach"
    TOO_LITTLE_EVIDENCE = "too_little_evidence"
    UNHEALTHY = "unhealthy"
    """Assignment, clocks or exposure are broken; the figure cannot be trusted either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict with what it rests on."""

    about: str
    """The figure: `failure_rate`, `silent_failures`, `region`."""
    call: Call
    sentence: str
    """One plain sentence for a person."""
    evidence: tuple[str, ...]
    """What was counted, each in a few words."""
    uncertainty: str
    """How sure it is, and what would make it surer."""
    p_min: float | None = None
    """The least p-value that a test of this size could give; None where there is no such test. One
    canary among ten can never show anything at 5 %."""
