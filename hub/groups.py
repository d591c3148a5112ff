"""What the hub holds of each group's document, in memory, and what a device's word on it proves.

Owns that cache (a few KB a group), when a group was last published, and how often a device that
lacks it is sent it directly. Lives on the writer's thread. Never writes a document
(`hub.desired`).

A group document goes out whole, retained, on the group's topic; its devices answer with what they
hold. The broker may forget it, so it is published again on every connect, and a device that says
that it holds less is sent it on its own line.
"""

from collections.abc import Iterable
from typing import Final

from hub.desired import is_possible_epoch
from hub.receipts import Evidence, is_credible, judge
from hub.store import documents, receipts
from hub.store.database import Connection
from hub.store.receipts import Written
from sync.documents import DocumentName, Kind
from sync.messages import Full
from sync.moves import Peer
from sync.replica import Holding
from sync.vector import covers

HEAL_AFTER_S: Final = 10.0
"""Time that a publication has to arrive before a device is sent the document directly."""

HEAL_EVERY_S: Final = 60.0
"""Least time between two direct sendings to one device."""

HEALED_MAX: Final = 50_000

RESET_EVERY_S: Final = 60.0
"""Least time between two new epochs that devices make necessary: one device must not make the hub
send a document to all others again and again."""


class Groups:
    """The group documents."""

    def __init__(self) -> None:
        self._held: dict[str, Holding] = {}
        self._written: dict[str, list[Written]] = {}
        self._published_mono: dict[str, float] = {}
        self._published: dict[str, Holding] = {}
        self._healed_mono: dict[tuple[int, str], float] = {}
        self._reset_mono: dict[str, float] = {}

    def load(self, connection: Connection, names: Iterable[DocumentName] | None = None) -> None:
        """Take in what is stored of `names`, or of every group."""
        for document in documents.names(connection, Kind.GROUP) if names is None else names:
            holding = documents.load(connection, document)
            if holding is not None:
                name = str(document)
                self._held[name] = holding
                self._written[name] = receipts.load_written(connection, name)

    def recall(self, connection: Connection) -> None:
        """Take in everything anew: a transaction has failed, and what is here may be ahead."""
        self._held.clear()
        self._written.clear()
        self._healed_mono.clear()
        self._reset_mono.clear()
        self.load(connection)

    def names(self) -> list[str]:
        """Return the names of the group documents."""
        return list(self._held)

    def count(self) -> int:
        """Return how many group documents there are."""
        return len(self._held)

    def holding(self, name: str) -> Holding | None:
        """Return what is held of a group document."""
        return self._held.get(name)

    def published(self, name: str, holding: Holding, now_mono: float) -> None:
        """Note that the document was handed to the broker as it is in `holding`."""
        self._published_mono[name] = now_mono
        self._published[name] = holding

    def unpublished(self) -> list[str]:
        """Return the documents of which the broker was not given what is held now."""
        return [name for name, own in self._held.items() if self._published.get(name) != own]

    def judge(self, name: str, peer: Peer) -> Evidence:
        """Return what a device's word on a group document proves."""
        own = self._held.get(name)
        if own is None:
            return Evidence([], [])
        return judge(own, peer, self._written.get(name, ()))

    def heal(self, name: str, device: int, peer: Peer, now_mono: float) -> Full | None:
        """Return the document for a device that lacks it, None if it is not time for that."""
        own = self._held.get(name)
        published_mono = self._published_mono.get(name)
        if own is None or published_mono is None or now_mono - published_mono < HEAL_AFTER_S:
            return None
        if not is_credible(own, peer):
            return None
        if peer.epoch == own.epoch and covers(peer.vector, own.vector):
            return None
        healed_mono = self._healed_mono.get((device, name))
        if healed_mono is not None and now_mono - healed_mono < HEAL_EVERY_S:
            return None
        if len(self._healed_mono) >= HEALED_MAX:
            self._healed_mono.clear()
        self._healed_mono[device, name] = now_mono
        return full_of(name, own)

    def must_reset(self, name: str, peer: Peer, now_mono: float) -> bool:
        """Tell whether what a device holds makes a new epoch necessary.

        It does if the device holds what this hub never wrote, as after a restore from a backup.
        """
        own = self._held.get(name)
        if own is None or is_credible(own, peer) or not is_possible_epoch(peer.epoch):
            return False
        reset_mono = self._reset_mono.get(name)
        if reset_mono is not None and now_mono - reset_mono < RESET_EVERY_S:
            return False
        self._reset_mono[name] = now_mono
        return True


def full_of(name: str, holding: Holding) -> Full:
    """Return the message that carries a whole document of the hub.

    Without the list of absorbed epochs: of a hub's document the newest epoch counts, whatever came
    before.
    """
    return Full(name, holding.epoch, holding.state)
