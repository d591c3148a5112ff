"""The structural gate: what an update must look like before the CRDT engine may see it.

Owns the decision accept, gap or refuse, from bytes alone. Never applies anything.
The engine panics, hangs or crashes the process on hostile bytes (11 to 18 bytes are enough), loses
updates that arrive over a gap in the clocks, and checks no authorship at all. What passes here is
written by one writer, contiguous with what is held, made of map entries only, and bounded.

Format: Yjs update encoding version 1 (yjs/src/utils/UpdateEncoder.js and structs/*.js).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sync.documents import KEY_BYTES_MAX, Side, client_id_allowed
from sync.lib0 import Malformed, Reader
from sync.records import VALUE_BYTES_MAX
from sync.vector import VECTOR_CLIENTS_MAX, Vector

UPDATE_BYTES_MAX = 192 * 1024
"""Longest update. An honest writer resets its document long before it is a third of this."""

BLOCKS_MAX = 50_000
"""Most structs and delete ranges in one update; parsing that many takes about 50 ms."""

CLOCK_MAX = 2**31 - 1
"""Highest clock of one client id. Ids change at every start, so an honest clock stays in the
thousands; engines compute with 32 bits."""

MAPS_MAX = 4
"""Most maps that one update may make. An honest one makes one, the generation it ends with: those
before it are gone when it is written. Maps put into maps can be nested deep enough to overflow a
stack when they are deleted."""

ROOT = "r"
GENERATION = "g"

_HAS_ORIGIN = 0x80
_HAS_RIGHT_ORIGIN = 0x40
_HAS_PARENT_SUB = 0x20
_CONTENT_GC = 0
_CONTENT_DELETED = 1
_CONTENT_TYPE = 7
_CONTENT_ANY = 8
_TYPE_MAP = 1
_ANY_BUFFER = 116


class Refusal(StrEnum):
    """Why an update is refused. Values are transmitted and stored; never reuse one."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    FOREIGN_WRITER = "foreign_writer"
    NOT_A_MAP = "not_a_map"
    BAD_REFERENCE = "bad_reference"
    FORECAST = "forecast"
    ENGINE = "engine"


class Refused(ValueError):
    """The update may not be applied. Its sender is to blame; the replica is unchanged."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        """Carry the code that goes on the wire and one line for a person."""
        super().__init__(f"{refusal.value}: {detail}")
        self.refusal = refusal
        self.detail = detail


class Gap(ValueError):
    """The update needs something that is not held: answer with the held vector.

    Nobody is to blame. It may have been made for another state, or have overtaken what it needs.
    """


@dataclass(frozen=True, slots=True)
class Admission:
    """What the gate read in an update that may be applied."""

    forecast: Mapping[int, int]
    """The state vector that the replica must have afterwards; anything else means that the engine
    read something different from what the gate read."""
    fresh_keys: tuple[str, ...]
    """Keys that appear for the first time in their generation."""
    overwrites: bool
    """Whether there is anything else, so that the changed keys must be found by comparing."""


def admit(update: bytes, held: Vector, writer: Side) -> Admission:
    """Decide whether `update` may be applied to a replica that holds `held`.

    Raises:
        Gap: It starts later than `held` ends, or builds on or deletes what is not held.
        Refused: It is not what `writer` could honestly have sent.
    """
    if len(update) > UPDATE_BYTES_MAX:
        raise Refused(Refusal.TOO_LARGE, f"{len(update)} bytes, at most {UPDATE_BYTES_MAX} allowed")
    try:
        return _Parse(update, held, writer).run()
    except Malformed as error:
        raise Refused(Refusal.MALFORMED, str(error)) from None


def without_deletes(update: bytes, since: Vector) -> bytes:
    """Return a diff since `since` without its delete set.

    Engines put the delete set of the whole document into every diff: 120 to 580 bytes besides the
    57 of an acknowledgement, the more the more often the device has started. It says nothing new.
    Writers only ever overwrite, entries as well as generations, and an overwriting struct deletes
    what it replaces wherever it is merged.
    """
    parse = _Parse(update, since, writer=None)
    try:
        parse.structs()
    except (Gap, Malformed, Refused):  # not of our making: passed on as it is, for others to judge
        return update
    return update[: parse.reader.position] + b"\0"


class _Parse:
    """One pass over one update, of `writer` or, for None, of anybody."""

    def __init__(self, update: bytes, held: Vector, writer: Side | None) -> None:
        self.reader = Reader(update)
        self.held = held
        self.writer = writer
        self.forecast = dict(held)
        self.references: list[tuple[int, int]] = []
        self.fresh_keys: list[str] = []
        self.overwrites = False
        self.budget = BLOCKS_MAX
        self.maps_left = MAPS_MAX

    def run(self) -> Admission:
        self.structs()
        self._deletes()
        if not self.reader.at_end():
            raise Refused(Refusal.MALFORMED, "bytes after the update")
        if len(self.forecast) > VECTOR_CLIENTS_MAX:
            raise Refused(Refusal.TOO_LARGE, f"more than {VECTOR_CLIENTS_MAX} client ids")
        forecast = self.forecast
        for client, clock in self.references:
            if clock >= forecast.get(client, 0):
                raise Gap(f"refers to clock {clock} of client {client}, which is not held")
        return Admission(forecast, tuple(self.fresh_keys), self.overwrites)

    def structs(self) -> None:
        """Read everything before the delete set."""
        clients = self.reader.uint()
        if clients > VECTOR_CLIENTS_MAX:
            raise Refused(Refusal.TOO_LARGE, f"{clients} client ids in one update")
        seen: set[int] = set()
        for _ in range(clients):
            self._client(seen)

    def _client(self, seen: set[int]) -> None:
        """Read the structs of one client id."""
        reader = self.reader
        blocks = reader.uint()
        client = reader.uint()
        clock = reader.uint()
        if client in seen:
            raise Refused(Refusal.MALFORMED, "a client id appears twice")
        seen.add(client)
        if self.writer is not None and not client_id_allowed(self.writer, client):
            raise Refused(
                Refusal.FOREIGN_WRITER, f"client id {client} is not one of a {self.writer}"
            )
        held = self.held.get(client, 0)
        if clock > held:
            raise Gap(f"starts at {clock} of client {client}, held: {held}")
        if blocks == 0:  # the engine panics
            raise Refused(Refusal.MALFORMED, "a client id without structs")
        self._spend(blocks)
        for _ in range(blocks):
            clock += self._block(client, clock)
            if clock > CLOCK_MAX:
                raise Refused(Refusal.TOO_LARGE, f"clock beyond {CLOCK_MAX}")
        if clock > held:
            self.forecast[client] = clock

    def _spend(self, blocks: int) -> None:
        self.budget -= blocks
        if self.budget < 0:
            raise Refused(Refusal.TOO_LARGE, f"more than {BLOCKS_MAX} structs")

    def _block(self, client: int, clock: int) -> int:
        """Read one struct and return how many clocks it takes."""
        reader = self.reader
        info = reader.byte()
        content = info & 0x1F
        if content == _CONTENT_GC:
            if info:
                raise Refused(Refusal.MALFORMED, "a collected struct with flags")
            self.overwrites = True
            return self._length()
        if info & _HAS_RIGHT_ORIGIN:
            raise Refused(Refusal.NOT_A_MAP, "a map entry has no right neighbour")
        key: str | None = None
        in_root = False
        if info & _HAS_ORIGIN:
            self._reference(client, clock)
            self.overwrites = True
        else:
            in_root = self._parent(client, clock)
            if not info & _HAS_PARENT_SUB:
                raise Refused(Refusal.NOT_A_MAP, "an entry without a key")
            key = self._key()
            if in_root and key != GENERATION:
                raise Refused(Refusal.NOT_A_MAP, f"the root holds {GENERATION!r} only")
        return self._content(content, key, in_root=in_root)

    def _content(self, content: int, key: str | None, *, in_root: bool) -> int:
        reader = self.reader
        if content == _CONTENT_ANY:
            if in_root:
                raise Refused(Refusal.NOT_A_MAP, "the generation must be a map")
            self._value()
            if key is not None:
                self.fresh_keys.append(key)
            return 1
        self.overwrites = True
        if content == _CONTENT_DELETED:
            return self._length()
        if content == _CONTENT_TYPE:
            if key is not None and not in_root:
                raise Refused(Refusal.NOT_A_MAP, "a generation holds values, not maps")
            if reader.uint() != _TYPE_MAP:
                raise Refused(Refusal.NOT_A_MAP, "only maps are allowed")
            self.maps_left -= 1
            if self.maps_left < 0:
                raise Refused(Refusal.NOT_A_MAP, f"more than {MAPS_MAX} maps")
            return 1
        raise Refused(Refusal.NOT_A_MAP, f"content kind {content} is not allowed")

    def _value(self) -> None:
        reader = self.reader
        if reader.uint() != 1:
            raise Refused(Refusal.NOT_A_MAP, "an entry holds exactly one value")
        if reader.byte() != _ANY_BUFFER:
            raise Refused(Refusal.NOT_A_MAP, "values are bytes")
        length_bytes = reader.uint()
        if length_bytes > VALUE_BYTES_MAX:
            raise Refused(Refusal.TOO_LARGE, f"a value of {length_bytes} bytes")
        reader.take(length_bytes)

    def _length(self) -> int:
        length = self.reader.uint()
        if not 0 < length <= CLOCK_MAX:
            raise Refused(Refusal.MALFORMED, "a struct of no or absurd length")
        return length

    def _reference(self, client: int, clock: int) -> None:
        """Read an origin or parent id; it must lie before the struct that names it.

        Ids of one writer only grow, so an older struct never names a newer id, and no chain of
        references can run in a circle.
        """
        to_client = self.reader.uint()
        to_clock = self.reader.uint()
        if to_client > client or (to_client == client and to_clock >= clock):
            raise Refused(Refusal.BAD_REFERENCE, "refers to something later than itself")
        self.references.append((to_client, to_clock))

    def _parent(self, client: int, clock: int) -> bool:
        """Read the parent and tell whether it is the root."""
        form = self.reader.uint()
        if form == 1:
            if self._key() != ROOT:
                raise Refused(Refusal.NOT_A_MAP, f"the only root is {ROOT!r}")
            return True
        if form != 0:
            raise Refused(Refusal.MALFORMED, "unknown form of parent")
        self._reference(client, clock)
        return False

    def _key(self) -> str:
        length_bytes = self.reader.uint()
        if not 0 < length_bytes <= KEY_BYTES_MAX:
            raise Refused(Refusal.TOO_LARGE, f"a key of {length_bytes} bytes")
        try:
            return self.reader.take(length_bytes).decode()
        except UnicodeDecodeError:
            raise Refused(Refusal.MALFORMED, "a key that is not UTF-8") from None

    def _deletes(self) -> None:
        reader = self.reader
        clients = reader.uint()
        if clients > VECTOR_CLIENTS_MAX:
            raise Refused(Refusal.TOO_LARGE, f"deletes of {clients} client ids")
        seen: set[int] = set()
        for _ in range(clients):
            client = reader.uint()
            if client in seen:
                raise Refused(Refusal.MALFORMED, "a client id appears twice in the deletes")
            seen.add(client)
            ranges = reader.uint()
            self._spend(ranges)
            end = self.forecast.get(client, 0)
            for _ in range(ranges):
                clock = reader.uint()
                length = reader.uint()
                if length == 0:
                    raise Refused(Refusal.MALFORMED, "deletes a range of no length")
                if clock + length > end:
                    raise Gap(f"deletes up to {clock + length} of client {client}, held: {end}")
            if ranges:
                self.overwrites = True
