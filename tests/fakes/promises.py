"""What devices were told is durable, and whether it still is.

Owns the ledger of promises that the convergence tests keep. Never looks at how a promise is kept.

A promise about an acknowledgement: its key never goes missing.
A promise about a setting: it never goes back to an older clock.
"""

from collections.abc import Mapping

import msgspec

from sync.documents import ACK, LOCAL, DocumentName
from sync.replica import Holding, values_of
from sync.vector import Vector, covers


class Promises:
    """The ledger."""

    def __init__(self) -> None:
        self._history: dict[DocumentName, list[tuple[int, Vector, dict[str, int]]]] = {}
        self._promises: dict[DocumentName, dict[tuple[str, int], set[str]]] = {}
        """By document, then by key and clock: the hubs that said they hold it."""
        self._restored: dict[str, int] = {}
        self._written: dict[DocumentName, set[tuple[str, bytes]]] = {}

    def wrote(self, document: DocumentName, entries: Mapping[str, bytes]) -> None:
        """Note what the writer of `document` wrote: under its key, no other value counts."""
        self._written.setdefault(document, set()).update(entries.items())

    def kept(self, document: DocumentName, holding: Holding) -> None:
        """Note what the writer of `document` has on disk now."""
        entry = (holding.epoch, holding.vector, self._clocks(document, values_of(holding)))
        self._history.setdefault(document, []).append(entry)

    def told(
        self, document: DocumentName, hub: str, epoch: int, vector: Vector, event: int
    ) -> None:
        """Note that `hub` said at `event` that it durably holds (`epoch`, `vector`).

        What it said before its disk was replaced is no promise: it is about a disk that is gone.
        """
        if event <= self._restored.get(hub, -1):
            return
        promises = self._promises.setdefault(document, {})
        for known_epoch, known, clocks in self._history.get(document, ()):
            if known_epoch == epoch and covers(vector, known):
                for key, clock in clocks.items():
                    promises.setdefault((key, clock), set()).add(hub)

    def restored(self, name: str, event: int) -> None:
        """Note that the disk of `name` was put back: what it claimed before counts no more."""
        self._restored[name] = event
        for promises in self._promises.values():
            for claims in promises.values():
                claims.discard(name)

    def missing(self, document: DocumentName, values: Mapping[str, bytes]) -> list[str]:
        """Return the keys of promises that `values` breaks."""
        clocks = self._clocks(document, values)
        return [
            key for (key, clock) in self._promises.get(document, {}) if clocks.get(key, -1) < clock
        ]

    def outlive(
        self,
        name: str,
        left: Mapping[DocumentName, Holding],
        others: Mapping[str, Mapping[DocumentName, Holding]],
    ) -> bool:
        """Tell whether every promise would survive if `name` had only `left` on its disk.

        Another disk counts if the promise is on it, or if its hub has said so: whoever says it
        must mean it.
        """
        for document, promises in self._promises.items():
            shelves = [left, *others.values()]
            found = [self._clocks(document, values_of(shelf.get(document))) for shelf in shelves]
            for (key, clock), claims in promises.items():
                if not claims - {name} and all(clocks.get(key, -1) < clock for clocks in found):
                    return False
        return True

    def _clocks(self, document: DocumentName, values: Mapping[str, bytes]) -> dict[str, int]:
        """Return the keys that promises are about and that are as written, each with its clock."""
        written = self._written.get(document, set())
        clocks = {}
        for key, value in values.items():
            if (key, value) not in written:
                continue
            if key.startswith(ACK):
                clocks[key] = 0
            elif key.startswith(LOCAL):
                clocks[key] = msgspec.msgpack.decode(value)[0]
        return clocks
