"""The writer's part: one document in memory, its writes, its upkeep and its rebase.

Owns everything that changes a document we write. Never stores or sends: the caller makes each
result durable before anything of it is published, and keeps both steps under one lock.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sync.documents import union
from sync.replica import Holding, Replica, absorbed_with, fresh, is_believable, values_of
from sync.vector import Vector

WRITES_PER_GENERATION = 400
"""Interleaved overwrites cost about 5 bytes each for ever; a new generation gives them back. With
20 keys and the acknowledgements of 40 deployments a year peaks at 15 KB; at 1000 it is 19 KB, for
a sixth fewer bytes on the wire."""

CLIENT_IDS_MAX = 64
"""Each start adds about 16 bytes to the document and 5 to 7 to its vector."""

STATE_BYTES_MAX = 32 * 1024
"""A document larger than this after a roll starts a new epoch."""

TAKEN_BYTES_MAX = 48 * 1024
"""Most live bytes, ours included, up to which a rebase takes in what only the follower holds."""

ENTRY_BYTES = 16
"""What the engine keeps around the key and the value of one live entry."""

LEFTOVER_BYTES = 5
"""What it keeps of one overwritten entry."""

Prune = Callable[[Mapping[str, bytes]], dict[str, bytes]]
"""Chooses which live values a new generation keeps."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Limits at which a document is rolled or reset."""

    writes_per_generation: int = WRITES_PER_GENERATION
    client_ids_max: int = CLIENT_IDS_MAX
    state_bytes_max: int = STATE_BYTES_MAX


class Author:
    """A document that this process writes."""

    def __init__(
        self,
        holding: Holding | None,
        *,
        client_id: int,
        first_epoch: int = 1,
        upkeep: Upkeep = Upkeep(),
        prune: Prune = dict,
    ) -> None:
        """Go on from `holding` (None for a new document), writing as `client_id`.

        `client_id` must be new, durable, and above every id in `holding`.

        Raises:
            Refused: The stored state cannot be read; restore it or start a new epoch.
        """
        self.client_id = client_id
        self.epoch = holding.epoch if holding is not None else first_epoch
        self.absorbed = holding.absorbed if holding is not None else ()
        self._replica = Replica(client_id=client_id, state=holding.state if holding else b"")
        self._upkeep = upkeep
        self._prune = prune
        # Counting from zero at each start would never reach a roll on a device that starts daily.
        live_bytes = sum(
            len(key) + len(value) + ENTRY_BYTES for key, value in self.values().items()
        )
        leftover_bytes = max(0, len(holding.state) - live_bytes) if holding is not None else 0
        self._writes = leftover_bytes // LEFTOVER_BYTES

    def values(self) -> dict[str, bytes]:
        """Return the live values."""
        return self._replica.values()

    def vector(self) -> dict[int, int]:
        """Return what has been written and loaded so far."""
        return self._replica.vector()

    def holding(self) -> Holding:
        """Return the whole document as it is now."""
        return Holding(self.epoch, self._replica.state(), self._replica.vector(), self.absorbed)

    def write(self, entries: Mapping[str, bytes]) -> bytes:
        """Set `entries` in one transaction and return the update to be logged.

        Raises:
            ValueError: A key or value is out of bounds; nothing was written.
        """
        before = self._replica.vector()
        self._replica.write(entries)
        self._writes += len(entries)
        return self._replica.diff(before)

    def upkeep(self) -> bool:
        """Roll or reset the document if it is time; True if `holding()` must be stored anew.

        Call it after writes, never between an update and its log entry.
        """
        vector = self._replica.vector()
        if len(vector) > self._upkeep.client_ids_max:
            self.reset()
            return True
        if self._writes < self._upkeep.writes_per_generation:
            return False
        self._writes = 0
        self._replica.roll(self._prune(self.values()))
        # Only loading afresh lets the engine collect what the roll has replaced.
        self._replica = Replica(client_id=self.client_id, state=self._replica.state())
        if len(self._replica.state()) > self._upkeep.state_bytes_max:
            self.reset()
        return True

    def reset(self, *, above: int = 0) -> None:
        """Start a new epoch, higher than `above`, that holds the live values only."""
        self._begin(
            max(self.epoch, above) + 1, self._prune(self.values()), (self.epoch, self.vector())
        )

    def rebase(self, theirs: Holding, *, client_id: int) -> None:
        """Take in the writes that a follower holds and we lack, and re-assert our own.

        After it `holding()` covers `theirs`: in our epoch if theirs is an older one, otherwise in a
        new one above both, or above ours alone if theirs cannot be.

        Args:
            theirs: What the follower holds, already admitted by the gate.
            client_id: A new id for the new epoch, above every id in `theirs`.

        Raises:
            Refused: The engine cannot read `theirs`; nothing was changed.
        """
        own = self.values()
        merged = self._prune(_bounded(own, union(own, values_of(theirs))))
        theirs_seen: tuple[int, Vector] = (theirs.epoch, theirs.vector)
        if theirs.epoch < self.epoch:
            missing = {key: value for key, value in merged.items() if own.get(key) != value}
            if missing:
                self._replica.write(missing)
            self.absorbed = absorbed_with(self.absorbed, theirs_seen)
            return
        self.client_id = client_id
        reached = theirs.epoch if is_believable(theirs.epoch, self.epoch) else self.epoch
        self._begin(reached + 1, merged, (self.epoch, self.vector()), theirs_seen)

    def _begin(self, epoch: int, values: Mapping[str, bytes], *seen: tuple[int, Vector]) -> None:
        self._replica = fresh(values, client_id=self.client_id)
        self.absorbed = absorbed_with(self.absorbed, *seen)
        self.epoch = epoch
        self._writes = 0


def _bounded(own: Mapping[str, bytes], merged: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return `merged` without those of its keys that `own` lacks and that are too much together.

    What a follower holds of ours is no larger than what we once wrote, unless it lies.
    """
    bounded = {key: merged[key] for key in own}
    left_bytes = TAKEN_BYTES_MAX - sum(len(key) + len(own[key]) for key in own)
    for key in sorted(merged.keys() - own.keys()):
        left_bytes -= len(key) + len(merged[key]) + ENTRY_BYTES
        if left_bytes < 0:
            break
        bounded[key] = merged[key]
    return bounded
