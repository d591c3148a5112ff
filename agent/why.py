"""What this device is doing or waiting for, and what would end it, in plain words.

Owns those words, for `fieldfare-agent why`. Never decides anything: it tells what others decided.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from agent.deferral import local
from agent.desired import Wish, standing
from agent.install import DONE, State
from agent.journal import Journal
from agent.line import Trouble
from agent.patience import Looked
from sync.records import Ack
from sync.stages import Stage, explain, is_final
from sync.stamps import Stamp

DOING: Final[Mapping[State, str]] = {
    State.FETCHING: "is being fetched",
    State.STAGING: "is being laid down beside what runs",
    State.ACTIVATING: "is being switched to",
    State.REBOOTING: "waits for the device to start it",
    State.TRIAL: "runs on trial: its health check decides",
    State.COMMITTING: "is proven and being committed",
    State.ROLLING_BACK: "is being undone",
    State.RETURNING: "is undone once the device has started what ran before",
}

_UNITS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known on the device now."""

    now: Stamp
    mono_s: float
    connected: bool
    has_met_hub: bool
    settled: bool
    wishes: Sequence[Wish]
    stages: Callable[[str], set[Stage]]
    acks: Callable[[str], Iterable[Ack]]
    journals: Sequence[Journal]
    looked: Mapping[str, Looked]
    waited_s: Callable[[str], float]
    trouble: Trouble | None
    running: Mapping[str, str]
    """Version by component."""
    unknown: Mapping[str, str]
    """By component, why it cannot be told what runs."""


def tell(situation: Situation) -> dict[str, Any]:
    """Return what is done and waited for: one row for each open deployment, and all in words."""
    rows = [_row(situation, wish) for wish in _open(situation)]
    lines = [row["sentence"] for row in rows]
    if not lines:
        runs = ", ".join(f"{name} {version}" for name, version in sorted(situation.running.items()))
        lines.append(f"There is nothing to do; this device runs {runs or 'no release'}.")
    lines += [
        f"What runs of {name} is not known: {why}."
        for name, why in sorted(situation.unknown.items())
    ]
    if not situation.connected:
        lines.append(
            "The device is not connected to the broker: what the hub wishes since is not known."
        )
    elif not situation.has_met_hub:
        lines.append(
            "The hub has not said yet what it knows of this device, and nothing begins before."
        )
    if not situation.settled:
        lines.append("The hub has not confirmed yet all that this device has told it.")
    return {"deployments": rows, "sentences": lines}


def _open(situation: Situation) -> list[Wish]:
    """Return what is not done yet: wished for and without an end, or under way."""
    counting = standing(situation.wishes)
    under_way = {each.deployment for each in situation.journals if each.at not in DONE}
    return [
        wish
        for wish in situation.wishes
        if wish.deployment in under_way
        or (
            counting.get(wish.record.component) == wish
            and not any(is_final(stage) for stage in situation.stages(wish.deployment))
        )
    ]


def _row(situation: Situation, wish: Wish) -> dict[str, Any]:
    name = f"{wish.deployment} ({wish.record.component} {wish.record.version})"
    row: dict[str, Any] = {
        "deployment": wish.deployment,
        "component": wish.record.component,
        "version": wish.record.version,
        "since_s": _since_s(situation, wish.deployment),
    }
    looked = situation.looked.get(wish.deployment)
    if looked is not None:
        return row | _waiting(name, situation.waited_s(wish.deployment), looked)
    under_way = [each for each in situation.journals if each.at not in DONE]
    mine = next((each for each in under_way if each.deployment == wish.deployment), None)
    if mine is None:
        other = next((each for each in under_way if each.deployment not in situation.looked), None)
        return row | _queued(name, other)
    trouble = situation.trouble if mine.at is State.FETCHING else None
    if trouble is not None:
        return row | _troubled(name, trouble, situation.mono_s)
    return row | {
        "doing": mine.at.value,
        "sentence": f"{name} {DOING[mine.at]}.",
    }


def _waiting(name: str, waited_s: float, looked: Looked) -> dict[str, Any]:
    wait, policy = looked.wait, looked.policy
    ends = [each.ends for each in wait.hindrances]
    sentence = f"{name} waits, for {span(waited_s)} in all: {wait.text}."
    sentence += f" It goes on when {', and '.join(ends)}"
    until = None
    if wait.until_s is not None:
        until = datetime.fromtimestamp(wait.until_s, policy.zone).isoformat()
        sentence += f", at {local(wait.until_s, policy.zone)} at the latest"
    then = "goes on all the same" if policy.overdue.value == "go" else "is given up"
    left_s = max(0.0, wait.left_s)
    sentence += f"; otherwise it {then} after {span(left_s)} more."
    return {
        "doing": "waiting",
        "before": looked.phase.value,
        "reason": wait.reason.value,
        "reasons": [
            {
                "kind": each.kind.value,
                "text": each.text,
                "ends": each.ends,
                "until_s": each.until_s,
            }
            for each in wait.hindrances
        ],
        "waited_s": round(waited_s, 1),
        "until": until,
        "left_s": round(left_s, 1),
        "overdue": policy.overdue.value,
        "sentence": sentence,
    }


def _queued(name: str, other: Journal | None) -> dict[str, Any]:
    if other is None:
        sentence = f"{name} is next."
    else:
        sentence = f"{name} waits until {other.deployment} ({other.component}) is done."
    return {"doing": "queued", "sentence": sentence}


def _troubled(name: str, trouble: Trouble, mono_s: float) -> dict[str, Any]:
    again_s = max(0.0, trouble.again_mono - mono_s)
    because = explain(trouble.reason).removesuffix(".")
    sentence = (
        f"{name} cannot be fetched now: {because[:1].lower()}{because[1:]} ({trouble.detail}). It "
        f"is tried again in {span(again_s)}, or as soon as the link is back."
    )
    return {
        "doing": "fetching",
        "reason": trouble.reason,
        "again_s": round(again_s, 1),
        "sentence": sentence,
    }


def _since_s(situation: Situation, deployment: str) -> float | None:
    """Return how long ago its last stage was reached, None if that was in another boot."""
    acks = list(situation.acks(deployment))
    if not acks or any(each.boot != situation.now.boot for each in acks):
        return None
    last_ms = max(each.boottime_ms for each in acks)
    return round((situation.now.boottime_ms - last_ms) / 1000, 1)


def span(seconds: float) -> str:
    """Return a duration as people say it: `41 s`, `3.5 min`, `2 d`."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"
