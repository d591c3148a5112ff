"""What a new generation of the device's document keeps.

Owns one pure choice. The hub keeps a journal of every acknowledgement it was told of, so a device
need not carry old ones for ever.
"""

from collections.abc import Collection, Mapping
from typing import Final

from sync import documents, records
from sync.records import Ack, BadRecord, Conflict, Local
from sync.stages import is_final, stage_of

DEPLOYMENTS_MAX: Final = 40
"""Finished deployments whose acknowledgements stay, newest first."""


def prune(values: Mapping[str, bytes], *, wished: Collection[str] = ()) -> dict[str, bytes]:
    """Return the values to keep: everything but old finished deployments and settled settings.

    Deployments in `wished` are still in a document of the hub and stay, or they would look new.
    """
    newest: dict[str, int] = {}
    finished: set[str] = set()
    for key, value in values.items():
        parsed = documents.parse_ack_key(key)
        if parsed is None:
            continue
        deployment, code = parsed
        stage = stage_of(code)
        try:
            made_ms = records.decode_as(Ack, key, value).wall_ms
        except BadRecord:
            made_ms = 0
        newest[deployment] = max(newest.get(deployment, 0), made_ms)
        if stage is not None and is_final(stage):
            finished.add(deployment)
    by_age = sorted(finished, key=lambda deployment: (-newest[deployment], deployment))
    dropped = set(by_age[DEPLOYMENTS_MAX:]) - set(wished)
    return {
        key: value
        for key, value in values.items()
        if not _is_settled(key, value)
        and not ((parsed := documents.parse_ack_key(key)) and parsed[0] in dropped)
    }


def _is_settled(key: str, value: bytes) -> bool:
    try:
        if key.startswith(documents.LOCAL):
            return records.decode_as(Local, key, value).value is None
        if key.startswith(documents.CONFLICT):
            return not records.decode_as(Conflict, key, value).winner
    except BadRecord:
        return True
    return False
