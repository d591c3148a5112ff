"""What an author should do next for one follower, given what both hold.

Owns one pure decision, `next_move`. Never sends, stores or remembers (`sync.session`).
"""

from dataclasses import dataclass
from enum import StrEnum

from sync.documents import DocumentName, Side
from sync.replica import Holding, is_absorbed, is_believable
from sync.vector import Vector, covers


class Role(StrEnum):
    """What this side is to a document."""

    AUTHOR = "author"
    FOLLOWER = "follower"
    CARRIER = "carrier"
    """Holds a document that neither side of the line writes, and passes it on: a hub to a hub."""


class Move(StrEnum):
    """What an author should do next for one follower."""

    REST = "rest"
    OPEN = "open"
    DIFF = "diff"
    FULL = "full"
    FETCH = "fetch"
    RESET = "reset"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Peer:
    """What the follower last said it holds of one document."""

    epoch: int
    vector: Vector
    digest: bytes = b""


def next_move(document: DocumentName, own: Holding, peer: Peer | None, role: Role) -> Move:
    """Decide what a follower at `peer` needs, given what we hold.

    Pure; `Move.REST` means that it holds exactly what we do.
    """
    if peer is None:
        return Move.OPEN
    if peer.epoch == own.epoch and covers(own.vector, peer.vector):
        return Move.REST if covers(peer.vector, own.vector) else Move.DIFF
    if peer.epoch != own.epoch and is_absorbed(own.absorbed, peer.epoch, peer.vector):
        return Move.FULL
    if document.writer is Side.HUB and (peer.epoch < own.epoch or is_lie(own, peer)):
        return Move.FULL
    # The follower holds writes that we lack: a disk was rolled back, a card cloned, a backup
    # restored. A device takes them in; a hub is the authority and starts anew; others stay out.
    if role is Role.CARRIER:
        return Move.WAIT
    return Move.RESET if document.writer is Side.HUB else Move.FETCH


def is_lie(own: Holding, peer: Peer) -> bool:
    """Tell whether `peer` names an epoch that a writer at `own` never reached.

    Whoever put it there, the hub need not outbid it: it declares it taken in.
    """
    return not is_believable(peer.epoch, own.epoch)
