"""What a device's state vector proves: that it holds a deployment, or that it does not.

Owns that decision. Never stores, and never looks at what a broker acknowledged.
"""

from collections.abc import Iterable
from typing import NamedTuple

from hub.store.receipts import Written
from sync.moves import Peer
from sync.replica import Holding
from sync.vector import Vector, covers


class Evidence(NamedTuple):
    """What one statement of a device says about the deployments in a document."""

    covered: list[str]
    """Deployments that the device is proven to hold."""
    missed: list[str]
    """Deployments that it is proven not to hold."""


def is_covered(written: Written, epoch: int, vector: Vector) -> bool:
    """Tell whether a replica at (`epoch`, `vector`) holds what was written there.

    A later epoch holds all that was live when it began, up to the one that left it out.
    """
    if epoch == written.epoch:
        return vector.get(written.client, 0) >= written.clock
    if epoch < written.epoch:
        return False
    return written.gone_epoch is None or epoch < written.gone_epoch


def is_credible(own: Holding, peer: Peer) -> bool:
    """Tell whether a device can have come to `peer` by following what this hub wrote.

    If not, the hub was restored from a backup, or the device lies; either way it proves nothing.
    """
    if peer.epoch == own.epoch:
        return covers(own.vector, peer.vector)
    return peer.epoch < own.epoch


def judge(own: Holding, peer: Peer, written: Iterable[Written]) -> Evidence:
    """Return what it says about the deployments in `own` that the device holds `peer` of it."""
    evidence = Evidence([], [])
    if not is_credible(own, peer):
        return evidence
    for each in written:
        if is_covered(each, peer.epoch, peer.vector):
            evidence.covered.append(each.deployment)
        elif each.gone_epoch is None:
            evidence.missed.append(each.deployment)
    return evidence
