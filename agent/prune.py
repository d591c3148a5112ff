"""What a new generation of the device's document keeps.

Owns one pure choice. The hub keeps a journal of every acknowledgement it was told of, so a device
need not carry old ones for ever.
"""

from collections.abc import Collection, Mapping
from typing import Final

from sync import documents, records
from sync.records import Ack, BadRecord, Conflict, Exposure, Local, Obeyed, Waiting
from sync.stages import is_final, stage_of

DEPLOYMENTS_MAX: Final = 40
"""Finished deployments whose acknowledgements stay, newest first; and as many of those that were
never finished here and that the hub's documents no longer hold."""

TOLD_MAX: Final = 200
"""Readings of flags, and orders obeyed, that stay, newest first."""


def prune(values: Mapping[str, bytes], *, wished: Collection[str] = ()) -> dict[str, bytes]:
    """Return the values to keep: all but what is settled, has ended, or is old and told.

    Of a deployment in `wished`, which is still in a document of the hub, the end stays, or the
    deployment would look new.
    """
    newest: dict[str, int] = {}
    finished: set[str] = set()
    for key, value in values.items():
        parsed = documents.parse_ack_key(key)
        if parsed is None:
            continue
        deployment, code = parsed
        try:
            made_ms = records.decode_as(Ack, key, value).wall_ms
        except BadRecord:
            made_ms = 0
        newest[deployment] = max(newest.get(deployment, 0), made_ms)
        if _is_end(code):
            finished.add(deployment)
    left = newest.keys() - finished - set(wished)
    told = _old_told(Exposure, documents.EXPOSURE, values)
    told |= _old_told(Obeyed, documents.OBEYED, values)
    old = _oldest(finished, newest) | _oldest(left, newest)
    return {
        key: value
        for key, value in values.items()
        if not _is_settled(key, value)
        and key not in told
        and not _is_dropped(key, old, wished)
        and key.removeprefix(documents.WAITING) not in old
    }


def _old_told(
    kind: type[Exposure] | type[Obeyed], prefix: str, values: Mapping[str, bytes]
) -> set[str]:
    found = records.select(kind, prefix, values)
    by_age = sorted(found, key=lambda name: (-found[name].wall_ms, name))
    return {prefix + name for name in by_age[TOLD_MAX:]}


def _oldest(deployments: Collection[str], newest: Mapping[str, int]) -> set[str]:
    by_age = sorted(deployments, key=lambda deployment: (-newest[deployment], deployment))
    return set(by_age[DEPLOYMENTS_MAX:])


def _is_dropped(key: str, old: Collection[str], wished: Collection[str]) -> bool:
    parsed = documents.parse_ack_key(key)
    if parsed is None or parsed[0] not in old:
        return False
    return parsed[0] not in wished or not _is_end(parsed[1])


def _is_end(code: str) -> bool:
    stage = stage_of(code)
    return stage is not None and is_final(stage)


def _is_settled(key: str, value: bytes) -> bool:
    try:
        if key.startswith(documents.LOCAL):
            return records.decode_as(Local, key, value).value is None
        if key.startswith(documents.CONFLICT):
            return not records.decode_as(Conflict, key, value).winner
        if key.startswith(documents.WAITING):
            return not records.decode_as(Waiting, key, value).reason
    except BadRecord:
        return True
    return False
