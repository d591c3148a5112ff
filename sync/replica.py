"""One replica of one document, and the only module that knows the CRDT engine.

Owns loading, applying, diffs, values, rolls and the translation of every engine failure, panics
included, into `Refused`. Never decides who may write (`sync.gate`) or what to send
(`sync.session`), and never keeps a subscription open: a document with a live observer leaks.

Engine facts this rests on (pycrdt 0.14.13, yrs 0.28): `get_update` leaves pending structs out;
state vector bytes come in hash order; integers come back as floats, so values are bytes; a
transaction cannot be rolled back, so values are checked before it opens; a panic is a
`BaseException` and leaves the document unusable.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

import pycrdt
from pycrdt._pycrdt import Doc as EngineDoc
from pycrdt._pycrdt import Map as EngineMap

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
        self._doc: pycrdt.Doc[pycrdt.Map[object]] = pycrdt.Doc(client_id=client_id)
        if state:
            with _engine():
                self._doc.apply_update(state)
        self._root: pycrdt.Map[object] = self._doc.get(ROOT, type=pycrdt.Map)

    def state(self) -> bytes:
        """Return everything as one update."""
        with _engine():
            return self._doc.get_update()

    def diff(self, since: Vector) -> bytes:
        """Return everything that a replica with vector `since` lacks, as one update."""
        with _engine():
            update = self._doc.get_update(encode_vector(since))
        return without_deletes(update, since)

    def vector(self) -> dict[int, int]:
        """Return what this replica has seen."""
        with _engine():
            return decode_vector(self._doc.get_state())

    def apply(self, update: bytes) -> None:
        """Merge an update that the gate has admitted.

        Raises:
            Refused: The engine failed; drop this object, it may be unusable.
        """
        with _engine():
            self._doc.apply_update(update)

    def values(self) -> dict[str, bytes]:
        """Return the live values. Entries that are not bytes are left out, whoever wrote them."""
        with _engine(), self._doc.transaction():
            generation = self._generation()
            if generation is None:
                return {}
            return {
                key: bytes(value)
                for key in generation.keys()  # noqa: SIM118 - the engine's map is no mapping
                if isinstance(value := generation[key], (bytes, bytearray))
            }

    def read(self, keys: Iterable[str]) -> tuple[bytes, dict[int, int], dict[str, bytes | None]]:
        """Return state, vector and the values of `keys`, in one transaction: a third cheaper."""
        with _engine(), self._doc.transaction():
            generation = self._generation()
            values: dict[str, bytes | None] = {}
            for key in keys:
                value = generation.get(key) if generation is not None else None
                values[key] = bytes(value) if isinstance(value, (bytes, bytearray)) else None
            return self._doc.get_update(), decode_vector(self._doc.get_state()), values

    def entries_count(self) -> int | None:
        """Return how many entries the generation has, whatever they hold.

        None if something other than a map stands in its place, which no writer ever puts there.
        """
        with _engine(), self._doc.transaction():
            generation = self._generation()
            if generation is None:
                return None if len(self._root) else 0
            return len(generation)

    def _generation(self) -> "pycrdt.Map[object] | None":
        generation = self._root.get(GENERATION)
        return generation if isinstance(generation, pycrdt.Map) else None

    def write(self, entries: Mapping[str, bytes]) -> None:
        """Set `entries` in one transaction.

        Raises:
            ValueError: A key or value is out of bounds: the caller is to blame; nothing is written.
        """
        _check(entries)
        with _engine(), self._doc.transaction():
            generation = self._generation()
            if generation is None:
                generation = self._new_generation()
            for key, value in entries.items():
                generation[key] = value

    def roll(self, values: Mapping[str, bytes]) -> None:
        """Start a new generation that holds exactly `values`; the old one becomes collectable.

        Raises:
            ValueError: A key or value is out of bounds: the caller is to blame; nothing is written.
        """
        _check(values)
        with _engine(), self._doc.transaction():
            generation = self._new_generation()
            for key in sorted(values):
                generation[key] = values[key]

    def _new_generation(self) -> "pycrdt.Map[object]":
        # Empty at first: the engine would write the entries of a full one in random order, and the
        # same history would then end in documents of different sizes.
        generation: pycrdt.Map[object] = pycrdt.Map()
        self._root[GENERATION] = generation
        return generation


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

    This is what nearly every message to a hub is, an acknowledgement. It speaks to the compiled
    engine directly: going through the library's Python classes took 36 instead of 19 microseconds.
    """
    with _engine():
        document = EngineDoc(1, None, None)
        for part in (state, update):
            if part:
                transaction = document.create_transaction()
                document.apply_update(transaction, part)
                transaction.commit()
                transaction.drop()
        transaction = document.create_transaction()
        root = document.get_or_insert_map(transaction, ROOT)
        # Asking for a key that is not there raises; a document may have no generation yet.
        generation = (
            root.get(transaction, GENERATION) if root.has(transaction, GENERATION) else None
        )
        values: dict[str, bytes | None] = {}
        for key in keys:
            value = (
                generation.get(transaction, key)
                if isinstance(generation, EngineMap) and generation.has(transaction, key)
                else None
            )
            values[key] = bytes(value) if isinstance(value, bytes | bytearray) else None
        merged = document.get_update(transaction, _FROM_THE_START)
        vector = decode_vector(document.get_state(transaction))
        transaction.drop()
    return merged, vector, values


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


class _engine:  # noqa: N801 - reads as the statement it makes
    """Turn every failure of the engine into `Refused`, its panics included.

    A class and not a generator: entering and leaving costs a third, six times a message.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Panics derive from BaseException only. What is no failure of the engine passes through.
        if error is None or isinstance(error, Refused | MemoryError):
            return
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise Refused(Refusal.ENGINE, f"{type(error).__name__}: {str(error)[:120]}") from None
