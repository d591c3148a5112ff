"""What a key of a device's document means for the tables that queries read.

Owns one pure function from (device, key, value) to a row. Never reads or writes a table.
Acknowledgements have no row: they go into the journal, which outlives the document.
"""

from typing import NamedTuple

from msgspec.structs import astuple

from sync import documents
from sync.records import (
    Ack,
    BadRecord,
    Case,
    Conflict,
    Event,
    Exposure,
    Fact,
    Local,
    Measure,
    Obeyed,
    Running,
    Waiting,
    decode,
    decode_as,
)
from sync.series import BadSeries, check, parse_key


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
    documents.WAITING: "p_waiting",
    documents.CONFLICT: "p_conflict",
    documents.EXPOSURE: "p_exposure",
    documents.OBEYED: "p_obeyed",
}

_TELEMETRY_TABLE_OF = {
    documents.MEASURE: "p_measure",
    documents.EVENT: "p_event",
    documents.CASE: "p_case",
}

NO_TABLE = ""


def row_of(device: int, key: str, value: bytes | None) -> Row:
    """Return the row that `key` with `value` (None: it is gone) stands for.

    A value that cannot be read has no row, whatever was there before.

    Args:
        device: Number of the device.
        key: Key inside its document.
        value: The record's bytes.
    """
    table = _TABLE_OF.get(key[:2])
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
        case Waiting():
            columns = (
                device,
                name,
                record.boot,
                record.boottime_ms,
                record.wall_ms,
                record.reason,
                record.detail,
                record.until_ms,
                record.left_s,
                record.overdue,
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
        case Exposure() | Obeyed():
            columns = (device, name, *astuple(record))
        case _:
            return Row(table, identity, None, f"{key[:40]!r} holds a {type(record).__name__}")
    return Row(table, identity, columns)


def row_of_telemetry(device: int, key: str, value: bytes | None) -> Row:
    """Return the row that `key` of a device's telemetry stands for, as `row_of` does."""
    table = _TELEMETRY_TABLE_OF.get(key[:2])
    if table is None:
        return Row(NO_TABLE, (), None, f"{key[:40]!r} is no key of a device's telemetry")
    name = key[2:]
    identity = (device, name)
    if value is None:
        return Row(table, identity, None)
    try:
        record = decode(key, value)
        if isinstance(record, Measure):
            series = parse_key(key)
            check(record)
            columns: tuple[object, ...] = (
                device,
                name,
                *series,
                record.kind,
                record.count,
                float(record.total),
                value,
            )
            return Row(table, identity, columns)
    except (BadRecord, BadSeries) as error:
        return Row(table, identity, None, str(error))
    assert isinstance(record, Event | Case)  # noqa: S101 - by its prefix
    return Row(table, identity, (device, name, *astuple(record)))


def decode_ack(record: bytes) -> Ack:
    """Return an acknowledgement from its bytes.

    Raises:
        BadRecord: It is none.
    """
    return decode_as(Ack, documents.ACK, record)
