"""Devices that ran more than one variant of a flag in one launch.

Owns the judgement. Such devices belong to no arm; where they are many, the arms cannot be compared.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hub.outcomes import words
from hub.outcomes.chances import bounds
from hub.outcomes.verdicts import Estimate, Judgement, Ruling

TOLERATED_RATIO: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A device really ran a variant of the flag."""

    device: str
    variant: str


def judge_exposures(ran: Iterable[Ran], *, tolerated: float = TOLERATED_RATIO) -> Judgement:
    """Return whether devices stayed in one variant of a flag."""
    variants: dict[str, set[str]] = defaultdict(set)
    for each in ran:
        variants[each.device].add(each.variant)
    several = sorted(device for device, held in variants.items() if len(held) > 1)
    total = len(variants)
    lo, hi = bounds(len(several), total)
    if not total:
        verdict, sentence = Ruling.TOO_LITTLE_EVIDENCE, "No device has run the flag yet."
    elif len(several) / total > tolerated:
        verdict = Ruling.UNHEALTHY
        sentence = (
            f"{len(several)} of {words.devices(total)} ran more than one variant, "
            "so the arms cannot be compared."
        )
    else:
        verdict = Ruling.OK
        sentence = f"{len(several)} of {words.devices(total)} ran more than one variant."
    return Judgement(
        name="multiple_exposure",
        verdict=verdict,
        sentence=sentence,
        evidence=tuple(f"{d} ran {', '.join(sorted(variants[d]))}" for d in several[:10]),
        estimate=Estimate(
            value=len(several) / total if total else None,
            lo=lo,
            hi=hi,
            unit="ratio",
            how="95 % exact",
        ),
        devices=tuple(several),
    )
