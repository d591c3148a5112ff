"""The trial of a release: its health command must pass before the deadline.

Owns the loop of tries. What the verdict leads to is `agent.install`'s business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agent.command import Ended
from sync.manifest import Health
from sync.stages import Reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a trial ended."""

    healthy: bool
    reason: str
    """Code of `sync.stages.Reason`; empty when healthy."""
    detail: str


async def check(
    health: Health,
    run: Callable[[float], Awaitable[Ended]],
    mono_s: Callable[[], float],
) -> Verdict:
    """Try until the command passes or the deadline is over.

    Args:
        health: What to run and how long.
        run: Runs the command within the given seconds.
        mono_s: Seconds that only move forward.
    """
    deadline = mono_s() + health.deadline_s
    while True:
        ended = await run(max(0.1, deadline - mono_s()))
        if ended.code == 0:
            return Verdict(healthy=True, reason="", detail=ended.output)
        left_s = deadline - mono_s()
        if left_s <= health.pause_s:
            reason = Reason.HEALTH_TIMED_OUT if ended.is_late else Reason.HEALTH_FAILED
            detail = ended.output or f"the health command ended with {ended.code}"
            return Verdict(healthy=False, reason=reason, detail=detail)
        await asyncio.sleep(health.pause_s)
