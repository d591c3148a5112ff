"""The trial of a release: all that it is judged by must be so at once, before the deadline.

Owns the loop of tries. How one thing is looked at is `agent.checks`; what the verdict leads to is
`agent.install`'s business.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from agent.command import Ended
from sync.manifest import Check, Health
from sync.stages import Reason

Look = Callable[[Check, float], Awaitable[Ended]]
"""Looks at one thing within so many seconds; code 0 is good."""

Doubt = Callable[[], Awaitable["Verdict | None"]]
"""Tells why it is not the release that would be looked at, None if it is."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a trial ended."""

    healthy: bool
    reason: str
    """Code of `sync.stages.Reason`; empty when healthy."""
    detail: str


class Hopeless(Exception):
    """What is looked at has failed in a way that time does not cure."""

    def __init__(self, reason: str, detail: str) -> None:
        """Carry why, for the hub and for a person."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


async def no_doubt() -> None:
    """Doubt nothing."""


async def check(
    health: Health,
    look: Look,
    mono_s: Callable[[], float],
    doubt: Doubt = no_doubt,
    *,
    steady_s: float = 0.0,
) -> Verdict:
    """Try until everything that must be so is so at once and stays so, or the deadline is over.

    Whether the hub is reached is not looked at here (`unreached`).

    Args:
        health: What to look at and how long.
        look: Looks at one thing.
        mono_s: Seconds that only move forward.
        doubt: Asked at the beginning of each round until it has none, and in each round in which
            everything has to stay so. May raise `Hopeless`.
        steady_s: For how long everything must be so without a break. It may end after the deadline.
    """
    deadline = mono_s() + health.deadline_s
    required = judged_by(health)
    is_sure = False
    good_from: float | None = None
    """Since when everything has been so, each time it was looked at."""
    while True:
        try:
            doubted = None if is_sure and good_from is None else await doubt()
            is_sure = doubted is None
            if doubted is not None:
                good_from = None
                if deadline - mono_s() <= health.pause_s:
                    return doubted
                await asyncio.sleep(health.pause_s)
                continue
            # What is good already only has to stay so: the deadline is no limit for it any more.
            until = deadline if good_from is None else mono_s() + health.deadline_s
            ended = await _round(required, look, partial(_left_s, until, mono_s))
        except Hopeless as failed:
            return Verdict(healthy=False, reason=failed.reason, detail=failed.detail)
        if ended.code != 0:
            good_from = None
        elif good_from is None:
            good_from = mono_s()
        if good_from is not None and (left_s := good_from + steady_s - mono_s()) > 0:
            await asyncio.sleep(min(health.pause_s, left_s))
            continue
        if good_from is not None:
            return Verdict(healthy=True, reason="", detail=ended.output)
        left_s = deadline - mono_s()
        if left_s <= health.pause_s:
            reason = Reason.HEALTH_TIMED_OUT if ended.is_late else Reason.HEALTH_FAILED
            detail = ended.output or f"the health command ended with {ended.code}"
            return Verdict(healthy=False, reason=reason, detail=detail)
        await asyncio.sleep(health.pause_s)


async def unreached(health: Health, look: Look) -> str:
    """Look for the hub, if the release asks for it; return in words that it was not reached.

    Only told, and looked at only when there is nothing left to go back from: a network that is out
    is no reason to, nor is a power cut while it is waited for.
    """
    found = [await look(each, each.budget_s) for each in health.checks if each.kind == "hub"]
    return "; ".join(each.output for each in found if each.code != 0)


def judged_by(health: Health) -> list[Check]:
    """Return what must be so, the command first."""
    own = [Check(kind="command", command=health.command)] if health.command is not None else []
    return own + [each for each in health.checks if each.kind != "hub"]


def _left_s(until: float, mono_s: Callable[[], float]) -> float:
    return max(0.1, until - mono_s())


async def _round(required: Sequence[Check], look: Look, left_s: Callable[[], float]) -> Ended:
    """Look at each in turn; return the first that is not so, else what the first said."""
    said = Ended(0, "")
    for number, each in enumerate(required):
        ended = await look(each, left_s())
        if ended.code != 0:
            return ended
        if number == 0:
            said = ended
    return said
