"""For how much of its time a device ran something else than what was desired.

Owns the definition: time connected with desired and reported different, over time connected, since
the deployment was accepted. Time away counts on neither side: a device that is off can do neither.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from hub.outcomes import words
from hub.outcomes.observations import DeviceCourse, Moments, moments, withdrawal
from hub.outcomes.presence import reachable_ms
from hub.outcomes.verdicts import Estimate, Judgement, Ruling
from sync.stages import Stage
from sync.stamps import Interval

TOLERATED_RATIO: Final = 0.05


@dataclass(frozen=True, slots=True)
class Diverged:
    """One device."""

    device: str
    apart: Interval
    """Connected time in which it ran something else, milliseconds."""
    connected_ms: int
    is_apart_now: bool


def divergence(course: DeviceCourse, now_ms: int, held: Moments | None = None) -> Diverged | None:
    """Return for how long a device ran something else; None if nothing was accepted for it."""
    accepted_ms = course.hub_stages.get(Stage.ACCEPTED)
    if accepted_ms is None:
        return None
    held = moments(course) if held is None else held
    ended = withdrawal(course, now_ms)
    until_ms = now_ms if ended is None else ended[1]
    reached = held.get(Stage.HEALTHY, held.get(Stage.ACKNOWLEDGED))

    def connected(to_ms: int) -> int:
        return reachable_ms(course.presence, from_ms=accepted_ms, to_ms=max(accepted_ms, to_ms))

    whole = connected(until_ms)
    if reached is None or course.runs is False:
        return Diverged(course.device, Interval(whole, whole), whole, ended is None)
    return Diverged(
        course.device,
        Interval(
            connected(min(until_ms, accepted_ms if reached.lo_ms is None else reached.lo_ms)),
            connected(min(until_ms, until_ms if reached.hi_ms is None else reached.hi_ms)),
        ),
        whole,
        is_apart_now=False,
    )


def judge_divergence(
    courses: Iterable[DeviceCourse],
    *,
    now_ms: int,
    tolerated: float = TOLERATED_RATIO,
    known: Mapping[str, Moments] | None = None,
) -> Judgement:
    """Return whether devices ran what was desired for nearly all of the time that they were there.

    Args:
        courses: The deployment on each device.
        now_ms: Hub UTC.
        tolerated: Largest share of connected time that may pass while a release is under way.
        known: `moments` of each device, where the caller has them already.
    """
    known = known or {}
    held = [
        found
        for course in courses
        if course.targeted
        and (found := divergence(course, now_ms, known.get(course.device))) is not None
    ]
    whole = sum(each.connected_ms for each in held)
    apart = tuple(sorted(each.device for each in held if each.is_apart_now))
    if not whole:
        return Judgement(
            name="divergence",
            verdict=Ruling.TOO_LITTLE_EVIDENCE,
            sentence="No device was connected since the deployment was accepted.",
            devices=apart,
        )
    lo = sum(each.apart.lo_ms or 0 for each in held) / whole
    longest = (each.apart.hi_ms for each in held)
    hi = sum(longest_ms or 0 for longest_ms in longest) / whole
    shown = (
        words.share(lo)
        if words.share(lo) == words.share(hi)
        else (f"{words.share(lo)} to {words.share(hi)}")
    )
    said = f"Devices ran something else than desired for {shown} of the time they were connected"
    limit = words.share(tolerated)
    if lo > tolerated:
        verdict, sentence = Ruling.BREACH, f"{said}, more than {limit}."
    elif hi <= tolerated:
        verdict, sentence = Ruling.OK, f"{said}, within {limit}."
    else:
        verdict = Ruling.TOO_LITTLE_EVIDENCE
        sentence = f"{said}; the clocks leave open whether that is more than {limit}."
    return Judgement(
        name="divergence",
        verdict=verdict,
        sentence=sentence,
        evidence=(f"{words.devices(len(apart))} apart now", f"{words.duration(whole)} connected"),
        estimate=Estimate(value=(lo + hi) / 2, lo=lo, hi=hi, unit="ratio", how="uncertain clocks"),
        devices=apart,
    )
