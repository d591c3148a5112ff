"""One replica of one document, and the only module that knows the CRDT engine.

Owns loading, applying, diffs, values, rolls and the translation of every engine failure, panics
included, into `Refused`. Never decides who may write (`sync.gate`) or what to send
(`sync.session`), and never keeps a subscription open: a document with a live observer leaks.

Engine facts this rests on (pycrdt 0.14.13, yrs 0.28): `get_update` leaves pending structs out;
state vector bytes come in hash order; integers come back as floats, so values are bytes; a
transaction cannot be rolled back, so values are checked before it opens; a panic is a
`BaseException` and leaves the document unusable. The compiled engine is spoken to directly: the
library's Python classes cost as much time again for each message, and 6 MB (an anyio lock for each
document, which loads that library's event loop backend).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pycrdt._pycrdt import Doc as EngineDoc
from pycrdt._pycrdt import Map as EngineMap
from pycrdt._pycrdt import Transaction as EngineTransaction

from sync.documents import KEY_BYTES_MAX
from sync.gate import GENERATION, ROOT, Admission, Refusal, Refused, without_deletes
from sync.records import VALUE_BYTES_MAX
from sync.vector import Vector, covers, decode_vector, encode_vector

DOCUMENT_BYTES_MAX = 96 * 1024
"""A follower keeps no larger replica. Writers reset the epoch at a third of it."""

DIGEST_BYTES = 8

Absorbed = tuple[tuple[int, Vector], ...]
"""Earlier epochs that the writer had seen, each with how much of it, newest last."""

ABSORBED_MAX = 8
"""Epochs remembered in `Absorbed`; a follower further behind is fetched from first."""

EPOCH_LEAP_MAX = 2**32
"""How far ahead of its writer a follower can honestly be, even where epochs count seconds and the
writer has lost its disk. Writers go no higher, so that no lie can use up the epochs there are."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a replica durably has of a document; the same value on disk, in memory, in a backup."""

    epoch: int
    state: bytes
    vector: Vector
    absorbed: Absorbed = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of merging an update into a holding."""

    holding: Holding
    changed: Mapping[str, bytes | None]
    """Keys whose value differs from before, with the new value; None where it is gone."""


class Replica:
    """A document in memory. The writer of a document keeps one; followers make one per message."""

    def __init__(self, *, client_id: int, state: bytes = b"") -> None:
        """Load `state` (empty for a new document) to write as `client_id`.

        Raises:
            Refused: `state` cannot be read by the engine.
        """
        self._doc = EngineDoc(client_id, None, None)
        if state:
            self.apply(state)

    def state(self) -> bytes:
        """Return everything as one update."""
        with _transaction(self._doc) as open_:
            return self._doc.get_update(open_, _FROM_THE_START)

    def diff(self, since: Vector) -> bytes:
        """Return everything that a replica with vector `since` lacks, as one update."""
        with _transaction(self._doc) as open_:
            update = self._doc.get_update(open_, encode_vector(since))
        return without_deletes(update, since)

    def vector(self) -> dict[int, int]:
        """Return what this replica has seen."""
        with _transaction(self._doc) as open_:
            return decode_vector(self._doc.get_state(open_))

    def apply(self, *updates: bytes) -> None:
        """Merge updates that the gate has admitted, in one transaction.

        Raises:
            Refused: The engine failed; drop this object, it may be unusable.
        """
        with _transaction(self._doc) as open_:
            for update in updates:
                self._doc.apply_update(open_, update)

    def values(self) -> dict[str, bytes]:
        """Return the live values. Entries that are not bytes are left out, whoever wrote them."""
        with _transaction(self._doc) as open_:
            generation = _generation(self._root(open_), open_)
            if generation is None:
                return {}
            return {
                key: bytes(value)
                for key in generation.keys(open_)
                if isinstance(value := generation.get(open_, key), bytes | bytearray)
            }

    def read(self, keys: Iterable[str]) -> tuple[bytes, dict[int, int], dict[str, bytes | None]]:
        """Return state, vector and the values of `keys`, in one transaction: a third cheaper."""
        with _transaction(self._doc) as open_:
            generation = _generation(self._root(open_), open_)
            values: dict[str, bytes | None] = {}
            for key in keys:
                # Asking for a key that is not there raises.
                value = (
                    generation.get(open_, key)
                    if generation is not None and generation.has(open_, key)
                    else None
                )
                values[key] = bytes(value) if isinstance(value, bytes | bytearray) else None
            state = self._doc.get_update(open_, _FROM_THE_START)
            return state, decode_vector(self._doc.get_state(open_)), values

    def entries_count(self) -> int | None:
        """Return how many entries the generation has, whatever they hold.

        None if something other than a map stands in its place, which no writer ever puts there.
        """
        with _transaction(self._doc) as open_:
            root = self._root(open_)
            generation = _generation(root, open_)
            if generation is None:
                return None if root.len(open_) else 0
            return int(generation.len(open_))

    def write(self, entries: Mapping[str, bytes]) -> None:
        """Set `entries` in one transaction.

        Raises:
            ValueError: A key or value is out of bounds: the caller is to blame; nothing is written.
        """
        _check(entries)
        with _transaction(self._doc) as open_:
            root = self._root(open_)
            generation = _generation(root, open_)
            if generation is None:
                generation = root.insert_map_prelim(open_, GENERATION)
            for key, value in entries.items():
                generation.insert(open_, key, value)

    def roll(self, values: Mapping[str, bytes]) -> None:
        """Start a new generation that holds exactly `values`; the old one becomes collectable.

        Raises:
            ValueError: A key or value is out of bounds: the caller is to blame; nothing is written.
        """
        _check(values)
        with _transaction(self._doc) as open_:
            # Empty at first: the engine would write the entries of a full one in random order, and
            # the same history would then end in documents of different sizes.
            generation = self._root(open_).insert_map_prelim(open_, GENERATION)
            for key in sorted(values):
                generation.insert(open_, key, values[key])

    def _root(self, open_: EngineTransaction) -> Any:
        return self._doc.get_or_insert_map(open_, ROOT)


def _generation(root: Any, open_: EngineTransaction) -> Any:
    """Return the map under the generation's key, None if there is none or it is no map."""
    found = root.get(open_, GENERATION) if root.has(open_, GENERATION) else None
    return found if isinstance(found, EngineMap) else None


def _check(entries: Mapping[str, bytes]) -> None:
    for key, value in entries.items():
        if not 0 < len(key.encode()) <= KEY_BYTES_MAX:
            raise ValueError(f"key {key[:40]!r} must have 1 to {KEY_BYTES_MAX} bytes")
        if len(value) > VALUE_BYTES_MAX:
            raise ValueError(f"value of {key!r} must be bytes, at most {VALUE_BYTES_MAX}")


def fresh(values: Mapping[str, bytes], *, client_id: int) -> Replica:
    """Return a new document that holds `values`, written by `client_id`."""
    replica = Replica(client_id=client_id)
    replica.roll(values)
    return replica


def values_of(holding: Holding | None) -> dict[str, bytes]:
    """Return the live values of a holding; none for None."""
    if holding is None or not holding.state:
        return {}
    return Replica(client_id=1, state=holding.state).values()


def diff_of(holding: Holding, since: Vector) -> bytes:
    """Return what a replica with vector `since` lacks of `holding`, without loading it twice."""
    return Replica(client_id=1, state=holding.state).diff(since)


def digest_of(values: Mapping[str, bytes]) -> bytes:
    """Return a short fingerprint of live values, equal exactly when (barring chance) they are."""
    digest = hashlib.blake2s(digest_size=DIGEST_BYTES)
    for key in sorted(values):
        for part in (key.encode(), values[key]):
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
    return digest.digest()


def merge(holding: Holding, update: bytes, admission: Admission) -> Applied:
    """Return `holding` with an admitted `update` merged in; `holding` itself stays as it is.

    Raises:
        Refused: The engine failed, or did not end where the gate said it would.
    """
    if admission.overwrites:
        state, vector, changed = _overwrite(holding.state, update)
    else:
        state, vector, changed = _append(holding.state, update, admission.fresh_keys)
    if vector != admission.forecast:
        raise Refused(Refusal.FORECAST, "the engine ended at another state than the gate foresaw")
    if len(state) > DOCUMENT_BYTES_MAX:
        raise Refused(Refusal.TOO_LARGE, f"the document would have {len(state)} bytes")
    return Applied(Holding(holding.epoch, state, vector, holding.absorbed), changed)


_Merged = tuple[bytes, dict[int, int], dict[str, bytes | None]]
"""State, vector, and the keys that changed with their values."""


def _overwrite(state: bytes, update: bytes) -> _Merged:
    """Merge an update that may have changed any key."""
    scratch = Replica(client_id=1, state=state)
    before = scratch.values()
    scratch.apply(update)
    after = scratch.values()
    if scratch.entries_count() != len(after):
        raise Refused(Refusal.NOT_A_MAP, "the generation would hold something other than bytes")
    merged, vector, _ = scratch.read(())
    return merged, vector, _changes(before, after)


def _append(state: bytes, update: bytes, keys: Iterable[str]) -> _Merged:
    """Merge an update of which the gate knows that it only adds `keys`.

    This is what nearly every message to a hub is, an acknowledgement.
    """
    scratch = Replica(client_id=1)
    scratch.apply(*filter(None, (state, update)))
    return scratch.read(keys)


_FROM_THE_START = b"\0"
"""The empty state vector."""


def adopt(
    held: Holding | None, epoch: int, update: bytes, admission: Admission, absorbed: Absorbed
) -> Applied:
    """Return the holding that an admitted full state makes, in place of `held`.

    Raises:
        Refused: The engine failed, or did not end where the gate said it would.
    """
    applied = merge(Holding(epoch, b"", {}, absorbed), update, admission)
    after = {key: value for key, value in applied.changed.items() if value is not None}
    return Applied(applied.holding, _changes(values_of(held), after))


def _changes(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> dict[str, bytes | None]:
    changed: dict[str, bytes | None] = {
        key: value for key, value in after.items() if before.get(key) != value
    }
    changed.update(dict.fromkeys(before.keys() - after.keys()))
    return changed


def is_believable(epoch: int, own_epoch: int) -> bool:
    """Tell whether a follower can have `epoch` from a writer that is now at `own_epoch`."""
    return epoch <= own_epoch + EPOCH_LEAP_MAX


def absorbed_with(absorbed: Absorbed, *more: tuple[int, Vector]) -> Absorbed:
    """Return `absorbed` with `more`, newest last and bounded."""
    return (*absorbed, *more)[-ABSORBED_MAX:]


def is_absorbed(absorbed: Iterable[tuple[int, Vector]], epoch: int, vector: Vector) -> bool:
    """Tell whether a replica at (`epoch`, `vector`) holds nothing that the writer had not seen."""
    return not vector or any(known == epoch and covers(seen, vector) for known, seen in absorbed)


class _transaction:  # noqa: N801 - reads as the statement it makes
    """A transaction of the engine, which turns its failures into `Refused`, panics included.

    A class and not a generator: entering and leaving costs a third, six times a message.
    """

    __slots__ = ("_doc", "_open")

    def __init__(self, doc: EngineDoc) -> None:
        self._doc = doc

    def __enter__(self) -> EngineTransaction:
        self._open = self._doc.create_transaction()
        return self._open

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            try:
                self._open.commit()
            finally:
                self._open.drop()
        except BaseException as failed:  # a panic of pycrdt is one
            # A panic derives from BaseException only. After one, ending may fail as well.
            _refuse(error or failed)
            if error is None:
                raise
        if error is not None:
            _refuse(error)


def _refuse(error: BaseException) -> None:
    """Raise `Refused` if `error` is a failure of the engine; what is not one passes through."""
    if isinstance(error, Refused | MemoryError):
        return
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        raise Refused(Refusal.ENGINE, f"{type(error).__name__}: {str(error)[:120]}") from None
