"""What a key of a device's document means for the tables that queries read.

Owns one pure function from (device, key, value) to a row. Never reads or writes a table.
"""

from typing import NamedTuple

from sync import documents
from sync.records import Ack, BadRecord, Conflict, Fact, Local, Running, decode


class Row(NamedTuple):
    """A row that should be there with these columns, or should not be there (None)."""

    table: str
    identity: tuple[object, ...]
    columns: tuple[object, ...] | None
    fault: str = ""
    """What is wrong with the value, for the device's count of offences; empty if nothing is."""


_TABLE_OF = {
    documents.FACT: "p_fact",
    documents.VERSION: "p_version",
    documents.LOCAL: "p_setting",
    documents.CONFLICT: "p_conflict",
}

NO_TABLE = ""


def row_of(device: int, key: str, value: bytes | None, seen_at_ms: int) -> Row:
    """Return the row that `key` with `value` (None: it is gone) stands for.

    A value that cannot be read has no row, whatever was there before.

    Args:
        device: Number of the device.
        key: Key inside its document.
        value: The record's bytes.
        seen_at_ms: Hub UTC when it was first held; kept for acknowledgements only.
    """
    prefix = key[:2]
    if prefix == documents.ACK:
        return _stage(device, key, value, seen_at_ms)
    table = _TABLE_OF.get(prefix)
    if table is None:
        return Row(NO_TABLE, (), None, f"{key[:40]!r} is no key of a device's document")
    name = key[2:]
    identity = (device, name)
    if value is None:
        return Row(table, identity, None)
    try:
        record = decode(key, value)
    except BadRecord as error:
        return Row(table, identity, None, str(error))
    match record:
        case Fact():
            return Row(table, identity, (device, name, record.value))
        case Running():
            columns: tuple[object, ...] = (
                device,
                name,
                record.version,
                record.release,
                record.boot,
                record.boottime_ms,
                int(record.healthy),
                record.deployment,
                record.reason,
            )
        case Local():
            columns = (
                device,
                name,
                record.clock,
                record.value,
                record.saw,
                record.writer,
            )
        case Conflict():
            columns = (
                device,
                name,
                record.clock,
                record.local,
                record.desired,
                record.effective,
                record.winner,
                record.local_clock,
                record.desired_clock,
            )
        case _:
            return Row(table, identity, None, f"{key[:40]!r} holds a {type(record).__name__}")
    return Row(table, identity, columns)


def _stage(device: int, key: str, value: bytes | None, seen_at_ms: int) -> Row:
    # An acknowledgement that a device has pruned stays in the journal, and so in the projection.
    found = documents.parse_ack_key(key)
    if found is None:
        return Row(NO_TABLE, (), None, f"{key[:40]!r} is no key of an acknowledgement")
    deployment, stage = found
    if value is None:
        return Row(NO_TABLE, (), None)
    try:
        ack = decode(key, value)
    except BadRecord as error:
        return Row(NO_TABLE, (), None, str(error))
    if not isinstance(ack, Ack):
        return Row(NO_TABLE, (), None, f"{key[:40]!r} holds a {type(ack).__name__}")
    return Row(
        "p_stage",
        (deployment, device, stage),
        (
            deployment,
            device,
            stage,
            ack.boot,
            ack.boottime_ms,
            ack.wall_ms,
            ack.sync,
            ack.reason,
            ack.detail,
            seen_at_ms,
        ),
    )
