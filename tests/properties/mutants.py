"""Mutants: worlds and patches that each switch one rule of the documents off.

Owns nothing but the damage. What it leads to is in `test_rules_are_needed`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import sync.author
import sync.follower
import sync.replica
import sync.session
import tests.properties.test_convergence
from sync.client_ids import client_id
from sync.documents import DocumentName, Side
from sync.gate import Admission
from sync.replica import Applied, Holding, Replica, diff_of
from sync.vector import Vector
from tests.fakes.machine import Machine, Steps
from tests.fakes.world import World


class OneIdWorld(World):
    """Rule 1 off: every start of a machine writes under the same client id."""

    def client_id(self, machine: Machine, counter: int) -> int:
        return client_id(machine.side, 1, 1)


class HastyDevice(Machine):
    """Rule 2 off on devices: publishes, then stores."""

    @property
    def persists_first(self) -> bool:  # type: ignore[override]
        return self.side is Side.HUB


class HastyHub(Machine):
    """Rule 2 off on hubs: answers, then stores."""

    @property
    def persists_first(self) -> bool:  # type: ignore[override]
        return self.side is Side.DEVICE


class ProudMachine(Machine):
    """Rule 5 off: what a follower holds and the writer lacks is none of the writer's business."""

    def rebase(self, document: DocumentName, theirs: Holding) -> Steps:
        yield "ignored"


class HastyDeviceWorld(World):
    machine = HastyDevice


class HastyHubWorld(World):
    machine = HastyHub


class ProudWorld(World):
    machine = ProudMachine


@contextmanager
def last_event_only() -> Iterator[None]:
    """Rule 3 off: a diff holds what the last write changed, not what the follower lacks."""
    events: dict[bytes, bytes] = {}
    commit = Machine.commit

    def remember(self: Machine, document: DocumentName, holding: Holding) -> None:
        before = self.shelf(document)
        is_next = before is not None and before.epoch == holding.epoch
        since = before.vector if before is not None and is_next else {}
        events.setdefault(holding.state, diff_of(holding, since))
        commit(self, document, holding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "commit", remember)
        patch.setattr(sync.session, "diff_of", lambda own, _: events[own.state])
        yield


@contextmanager
def forks_merged() -> Iterator[None]:
    """Rule 4 in part off: a diff is merged whatever it makes of what is held."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sync.session, sync.follower, tests.properties.test_convergence):
            patch.setattr(module, "tag_of", lambda _: b"")
        yield


@contextmanager
def no_gate() -> Iterator[None]:
    """Rule 4 off: everything is admitted, and believed to do what it says."""
    with forks_merged(), pytest.MonkeyPatch.context() as patch:
        for module in (sync.session, sync.follower):
            patch.setattr(module, "admit", admit_blindly)
        for module in (sync.replica, sync.follower):
            patch.setattr(module, "merge", merge_blindly)
        yield


def admit_blindly(update: bytes, held: Vector, writer: Side) -> Admission:
    vector = {**held, 0: 1} if held else Replica(client_id=1, state=update).vector()
    return Admission(vector, (), overwrites=True)


def merge_blindly(holding: Holding, update: bytes, admission: Admission) -> Applied:
    scratch = Replica(client_id=1, state=holding.state)
    scratch.apply(update)
    merged = Holding(holding.epoch, scratch.state(), scratch.vector(), holding.absorbed)
    return Applied(merged, dict(scratch.values()))


@contextmanager
def no_upkeep() -> Iterator[None]:
    """Rule 6 off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync.author.Author, "upkeep", lambda _: False)
        yield
