"""What to do next about deployments: acknowledge, withdraw, install, install again.

Owns pure decisions. The shell around it (`agent.work`) carries it out.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.desired import Wish, standing
from agent.install import DONE, State
from agent.journal import Journal
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


def gone(before: Mapping[str, Wish], wishes: Sequence[Wish]) -> list[Step]:
    """Return how the wishes of `before` end that the hub's documents no longer hold.

    A document that the hub began anew leaves out what was superseded or taken back long ago.
    """
    counts = standing(wishes)
    held = {wish.deployment for wish in wishes}
    return [
        Step(Act.ACKNOWLEDGE, wish, end_of_gone(counts.get(wish.record.component)))
        for wish in before.values()
        if wish.deployment not in held
    ]


def end_of_gone(counting: Wish | None) -> Stage:
    """Return how a wish ends that is gone: `counting` is what counts for its component now."""
    return Stage.CANCELLED if counting is None else Stage.SUPERSEDED


@dataclass(frozen=True, slots=True)
class Runs:
    """What runs of one component, and how it came there."""

    release: bytes
    """Digest of what runs; empty if nothing does, or nothing that the agent knows."""
    deployment: str = ""
    """What brought it; empty if that is not known."""
    last: Journal | None = None
    """The last install of the component, whatever came of it."""


_GAVE_UP = frozenset({State.FAILED, State.ROLLED_BACK, State.STUCK})


def astray(
    wishes: Sequence[Wish],
    stages: Callable[[str], set[Stage]],
    runs: Mapping[str, Runs],
    *,
    is_later: Callable[[str, str], bool],
    again_max: int,
    boot: bytes,
) -> list[Wish]:
    """Return the acknowledged deployments that must be installed again: something else runs.

    A disk was restored from an older copy, or somebody switched by hand. The newest deployment that
    the device has acknowledged is what it has to run, as long as no later one takes its place.
    What ended badly when it was installed again is left to a person.

    Args:
        wishes: What applies to this device, oldest first.
        stages: What is acknowledged of a deployment.
        runs: By component; one that is missing is left alone.
        is_later: Whether the first deployment was acknowledged after the second.
        again_max: How often one deployment is installed again in one start of the device, at most.
        boot: This start. What ended because the device was switched off is no sign of a fault.
    """
    found: list[Wish] = []
    known = {wish.deployment for wish in wishes}
    for component, running in sorted(runs.items()):
        mine = [wish for wish in wishes if wish.record.component == component]
        wish = _missing(mine, stages, running.release)
        if wish is None or not _may_begin_again(wish, running.last, again_max, boot):
            continue
        # What brought the running release may have left the hub's documents since; then it stays.
        is_gone = bool(running.deployment) and running.deployment not in known
        if not (is_gone and is_later(running.deployment, wish.deployment)):
            found.append(wish)
    return found


def _missing(
    wishes: Sequence[Wish], stages: Callable[[str], set[Stage]], release: bytes
) -> Wish | None:
    """Return the deployment whose release should run instead of `release`.

    One that was cancelled after it was acknowledged is never begun again, but it explains why its
    release runs: cancelling does not touch that.
    """
    for wish in reversed(wishes):
        if Stage.ACKNOWLEDGED in stages(wish.deployment):
            if wish.record.manifest == release:
                return None
            if not wish.record.cancelled:
                return wish
    return None


def _may_begin_again(wish: Wish, last: Journal | None, again_max: int, boot: bytes) -> bool:
    if last is None or last.deployment != wish.deployment:
        return last is None or last.at in DONE
    return last.at in DONE - _GAVE_UP and again_of(last, boot) < again_max


def again_of(last: Journal, boot: bytes) -> int:
    """Return how often a deployment was installed again in this start of the device."""
    return last.again if last.boot == boot else 0


def end_of_again(
    wish: Wish, wishes: Sequence[Wish], stages: Callable[[str], set[Stage]], hub_ms: int
) -> Stage | None:
    """Return how a deployment ends that is being installed again, None if it goes on.

    It was begun long ago, so it does not expire; and only what is yet to be installed supersedes
    it, not a later one that has failed.
    """
    if wish.record.cancelled:
        return Stage.CANCELLED
    later = standing(wishes).get(wish.record.component)
    if later is None or later.deployment == wish.deployment:
        return None
    is_over = any(is_final(stage) for stage in stages(later.deployment))
    return None if is_over or end_of(later, later, hub_ms) else Stage.SUPERSEDED
