"""What the hub wants of this device: which deployment counts, and which settings.

Owns pure answers from the desired documents. Never acts on them.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from sync import documents, overlay, records
from sync.documents import DocumentName
from sync.manifest import COMPONENT_PATTERN, VERSION_PATTERN
from sync.records import Conflict, Deployment, Desired, Local
from sync.selector import BadSelector, matches


@dataclass(frozen=True, slots=True)
class Wish:
    """One deployment that is meant for this device."""

    deployment: str
    record: Deployment


def wishes(
    values: Mapping[DocumentName, Mapping[str, bytes]], labels: Mapping[str, str]
) -> list[Wish]:
    """Return the deployments that apply to a device with `labels`, oldest first."""
    found: dict[str, Wish] = {}
    for held in values.values():
        for deployment, record in records.select(Deployment, documents.DEPLOYMENT, held).items():
            if not _is_sound(deployment, record):
                continue
            try:
                applies = matches(record.where, labels)
            except BadSelector:
                applies = False  # a newer hub's grammar: better to leave it than to guess
            if applies:
                found[deployment] = Wish(deployment, record)
    return sorted(found.values(), key=lambda wish: (wish.record.order, wish.deployment))


def without(all_wishes: Sequence[Wish], killed: Collection[str]) -> list[Wish]:
    """Return the wishes; those that are killed as cancelled, whatever their records say."""
    return [
        Wish(wish.deployment, msgspec.structs.replace(wish.record, cancelled=True))
        if wish.deployment in killed
        else wish
        for wish in all_wishes
    ]


def _is_sound(deployment: str, record: Deployment) -> bool:
    """Tell whether names that become keys and paths are names; a stranger may have written them."""
    return (
        documents.ID_PATTERN.match(deployment) is not None
        and _COMPONENT.match(record.component) is not None
        and _VERSION.match(record.version) is not None
    )


_COMPONENT = re.compile(COMPONENT_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)


def standing(all_wishes: Sequence[Wish]) -> dict[str, Wish]:
    """Return the deployment that counts for each component: the latest that was not cancelled."""
    return {wish.record.component: wish for wish in all_wishes if not wish.record.cancelled}


def desired_settings(
    values: Mapping[DocumentName, Mapping[str, bytes]],
) -> dict[str, Desired]:
    """Return the operator's wish for each setting: the latest of those for device and groups."""
    by_key: dict[str, list[Desired]] = {}
    for held in values.values():
        for key, wish in records.select(Desired, documents.DESIRED, held).items():
            by_key.setdefault(key, []).append(wish)
    found: dict[str, Desired] = {}
    for key, candidates in by_key.items():
        latest = overlay.latest(candidates)
        if latest is not None:
            found[key] = latest
    return found


def conflicts(
    local: Mapping[str, Local],
    desired: Mapping[str, Desired],
    recorded: Mapping[str, Conflict],
    clock: int,
) -> dict[str, Conflict]:
    """Return the conflict records that must be written, so that they say what is so.

    `clock` is the hybrid logical clock of that write.
    """
    due: dict[str, Conflict] = {}
    for key in local.keys() | recorded.keys():
        mine, wish = local.get(key), desired.get(key)
        result = overlay.effective(mine, wish)
        known = recorded.get(key)
        if result.conflict and mine is not None and wish is not None:
            if known is None or (known.local_clock, known.desired_clock, bool(known.winner)) != (
                mine.clock,
                wish.clock,
                True,
            ):
                due[key] = Conflict(
                    clock,
                    mine.value,
                    wish.value,
                    result.value,
                    result.winner.value,
                    mine.clock,
                    wish.clock,
                )
        elif known is not None and known.winner:
            due[key] = Conflict(clock, None, None, result.value, "")
    return due
