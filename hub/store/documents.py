"""The table of documents: what the hub durably holds of each.

Owns the rows' form, and the test whether what a row holds is still a document.
"""

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from hub.errors import DamagedDocument
from hub.store.database import Connection
from sync.documents import DocumentName, Kind
from sync.gate import Gap, Refused, admit
from sync.replica import Absorbed, Holding, values_of
from sync.vector import Vector

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_ABSORBED = msgspec.msgpack.Decoder(list[tuple[_Natural, dict[_Natural, _Natural]]])
_VECTOR = msgspec.msgpack.Decoder(dict[_Natural, _Natural])
_ENCODER = msgspec.msgpack.Encoder()


def load(connection: Connection, document: DocumentName) -> Holding | None:
    """Return what is held of `document`, None if nothing is.

    Raises:
        DamagedDocument: What is held of it cannot be read.
    """
    rows = connection.execute(
        "SELECT epoch, state, vector, absorbed FROM document WHERE name = ?", (str(document),)
    )
    # All of it: a statement that is not at its end would keep this transaction's view open.
    for epoch, state, vector, absorbed in list[Any](rows):
        holding = holding_of(str(document), epoch, state, vector, absorbed)
        check(document, holding)
        return holding
    return None


def check(document: DocumentName, holding: Holding) -> None:
    """Accept a stored holding that is whole.

    Raises:
        DamagedDocument: The disk has changed it.
    """
    try:
        # The gate first: the engine itself may crash on bytes that are no document.
        admission = admit(holding.state, {}, document.writer)
        values_of(holding)
    except (Refused, Gap) as fault:
        raise DamagedDocument(str(document), str(fault)) from None
    if admission.forecast != holding.vector:
        raise DamagedDocument(str(document), "its content is not what its state vector says")


def save(connection: Connection, document: DocumentName, holding: Holding, now_ms: int) -> None:
    """Keep `holding` in place of what was held of `document`."""
    connection.execute(
        "INSERT INTO document (name, epoch, state, vector, absorbed, stored_ms) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, "
        "state = excluded.state, vector = excluded.vector, absorbed = excluded.absorbed, "
        "stored_ms = excluded.stored_ms",
        (
            str(document),
            holding.epoch,
            holding.state,
            encode_column(holding.vector),
            encode_absorbed(holding.absorbed),
            now_ms,
        ),
    )


def update_many(
    connection: Connection, rows: Iterable[tuple[int, bytes, bytes, bytes, int, int]]
) -> None:
    """Keep (epoch, state, vector, absorbed, hub UTC) of documents given by their row."""
    connection.executemany(
        "UPDATE document SET epoch = ?, state = ?, vector = ?, absorbed = ?, stored_ms = ? "
        "WHERE n = ?",
        rows,
    )


def names(connection: Connection, kind: Kind) -> list[DocumentName]:
    """Return the documents of one kind, in order."""
    start = f"{kind.value}/"
    rows = connection.execute(
        "SELECT name FROM document WHERE name >= ? AND name < ? ORDER BY name",
        (start, f"{kind.value}0"),  # "0" follows "/"
    )
    return [DocumentName(kind, name[len(start) :]) for (name,) in rows]


def holding_of(name: str, epoch: int, state: bytes, vector: bytes, absorbed: bytes) -> Holding:
    """Return the holding in the columns of the row of a document, without looking into its state.

    Raises:
        DamagedDocument: A column cannot be read.
    """
    try:
        return Holding(epoch, state, decode_column(vector), decode_absorbed(absorbed))
    except msgspec.MsgspecError as error:
        raise DamagedDocument(name, str(error)) from None


def encode_column(vector: Vector) -> bytes:
    """Return the column's form of a vector, one form for each.

    Not that of the wire, because compiled code reads this one: 0.3 instead of 2 microseconds.
    """
    if len(vector) > 1:
        vector = dict(sorted(vector.items()))
    return _ENCODER.encode(vector)


def decode_column(column: bytes) -> dict[int, int]:
    """Return the vector in a column."""
    return _VECTOR.decode(column)


def encode_absorbed(absorbed: Absorbed) -> bytes:
    """Return the column's form of the epochs that a holding has absorbed."""
    if not absorbed:
        return b""
    return _ENCODER.encode([(epoch, dict(sorted(seen.items()))) for epoch, seen in absorbed])


def decode_absorbed(encoded: bytes) -> Absorbed:
    """Return the epochs in a column."""
    if not encoded:
        return ()
    return tuple(_ABSORBED.decode(encoded))
