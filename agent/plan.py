"""What to do next about deployments: acknowledge, withdraw, install.

Owns one pure decision. The shell around it (`agent.work`) carries it out.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.desired import Wish, standing
from sync.stages import Stage, is_final


class Act(StrEnum):
    """What a wish calls for."""

    ACKNOWLEDGE = "acknowledge"
    INSTALL = "install"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    act: Act
    wish: Wish
    stage: Stage


def plan(
    wishes: Sequence[Wish],
    stages: Callable[[str], set[Stage]],
    hub_ms: int,
    under_way: Collection[str] = (),
) -> list[Step]:
    """Return the next steps, in order.

    Args:
        wishes: What applies to this device, oldest first.
        stages: What is acknowledged of a deployment.
        hub_ms: A time that the hub's clock has certainly passed; 0 if none is known. A device
            cannot know more, so nothing expires for it before a message of the hub proves it.
        under_way: Deployments whose install has begun: how those end is not decided here.
    """
    counts = standing(wishes)
    steps: list[Step] = []
    for wish in wishes:
        known = stages(wish.deployment)
        if any(is_final(stage) for stage in known):
            continue
        if not known:
            steps.append(Step(Act.ACKNOWLEDGE, wish, Stage.DELIVERED))
        if wish.deployment in under_way:
            continue
        ended = end_of(wish, counts.get(wish.record.component), hub_ms)
        if ended is None:
            steps.append(Step(Act.INSTALL, wish, Stage.ACKNOWLEDGED))
        else:
            steps.append(Step(Act.ACKNOWLEDGE, wish, ended))
    return steps


def end_of(wish: Wish, counting: Wish | None, hub_ms: int) -> Stage | None:
    """Return how a wish ends that must not be started (any more), None if it may."""
    if wish.record.cancelled:
        return Stage.CANCELLED
    if counting is not None and counting.deployment != wish.deployment:
        return Stage.SUPERSEDED
    if 0 < wish.record.expires_ms <= hub_ms:
        return Stage.EXPIRED
    return None
