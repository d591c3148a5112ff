"""Settings about which a device and an operator decided differently while apart.

Owns the count. Which of both prevails is `sync.overlay`'s; a conflict is shown, never swallowed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hub.outcomes import words
from hub.outcomes.verdicts import Estimate, Judgement, Ruling


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """One open conflict."""

    device: str
    key: str
    winner: str
    """Whose value counts."""


def judge_conflicts(conflicts: Iterable[Conflict], *, devices_count: int) -> Judgement:
    """Return whether any of so many devices holds a value that was decided against.

    Counting is complete as far as devices were heard, so there is no sampling error.
    """
    held = sorted(conflicts, key=lambda each: (each.device, each.key))
    devices = tuple(dict.fromkeys(each.device for each in held))
    if not devices_count:
        verdict, sentence = Ruling.TOO_LITTLE_EVIDENCE, "There is no device to look at."
    elif held:
        verdict = Ruling.BREACH
        keys = sorted({each.key for each in held})
        about = keys[0] if len(keys) == 1 else f"{len(keys)} settings"
        sentence = (
            f"{len(devices)} of {words.devices(devices_count)} decided otherwise than the "
            f"operator, about {about}."
        )
    else:
        verdict = Ruling.OK
        sentence = f"None of {words.devices(devices_count)} decided otherwise than the operator."
    ratio = len(devices) / devices_count if devices_count else None
    return Judgement(
        name="state_conflicts",
        verdict=verdict,
        sentence=sentence,
        evidence=tuple(f"{e.device}: {e.key}, {e.winner} prevails" for e in held[:10]),
        estimate=Estimate(
            value=ratio, lo=ratio, hi=ratio, unit="ratio", how="as of the last word of each device"
        ),
        devices=devices,
    )
