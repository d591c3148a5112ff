"""The agent dies, by SIGKILL, at each step of writing, telling and receiving documents."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.store import open_store
from sync import documents as names
from sync.author import Author
from sync.client_ids import client_id
from sync.documents import DocumentName, Kind, Side
from sync.messages import Have, decode_frame, in_frames, vector_of
from sync.moves import Role
from sync.records import Deployment, encode
from sync.replica import Holding, is_absorbed, values_of
from sync.session import Session
from sync.stages import Stage, code_of
from sync.vector import Vector, covers
from tests.crash.agent_child import DEVICE

pytestmark = pytest.mark.timeout(600)

OWN = DocumentName(Kind.DEVICE, DEVICE)
MEASURED = DocumentName(Kind.TELEMETRY, DEVICE)
DESIRED = DocumentName(Kind.DESIRED, DEVICE)
HUB_BOOT = b"hubhub"
STRIDE = 7


class Died(Exception):
    """The agent is gone."""


@dataclass
class Hub:
    """A hub in this process that never forgets: the other end of the agent's pipe."""

    held: dict[DocumentName, Holding] = field(default_factory=dict)
    promised: tuple[int, Vector] | None = None
    """What the device last said that it durably holds of the document about it."""

    def __post_init__(self) -> None:
        self._author = Author(None, client_id=client_id(Side.HUB, 1, 1))
        self.held[DESIRED] = self._author.holding()
        self._now_s = 0.0
        self.session = self._new_session()
        self.offences: list[Exception] = []

    def _new_session(self) -> Session:
        sends = {DESIRED: Role.AUTHOR}
        return Session(DEVICE, sends=sends, follows={OWN, MEASURED}, random=Random(1))

    def wish(self, deployment: str) -> list[bytes]:
        order = len(values_of(self.held[DESIRED])) + 1
        record = Deployment(order, "lamp", f"1.{order}", bytes(32), 100)
        self._author.write({names.DEPLOYMENT + deployment: encode(record)})
        self.held[DESIRED] = self._author.holding()
        step = self.session.changed(DESIRED, self.held.get, self._now_s)
        return in_frames(step.send, sender=HUB_BOOT, sent_ms=1, anchor=None)

    def connected(self) -> list[bytes]:
        self.session.closed()
        step = self.session.opened(self.held.get, self._now_s)
        return in_frames(step.send, sender=HUB_BOOT, sent_ms=1, anchor=None)

    def take(self, payload: bytes) -> list[bytes]:
        replies = []
        for message in decode_frame(payload).messages:
            if isinstance(message, Have) and message.document == "des":
                self.promised = (message.epoch, vector_of(message.vector))
            step = self.session.receive(message, self.held.get, self._now_s)
            assert step.offence is None, step.offence
            for name, followed in step.store.items():
                if followed.holding is not None:
                    self.held[name] = followed.holding
            replies += step.send
        return in_frames(replies, sender=HUB_BOOT, sent_ms=1, anchor=None)


class Device:
    """The agent's process and the pipe to it."""

    def __init__(self, state_dir: Path, hub: Hub, kill_at: int = 0) -> None:
        self._hub = hub
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.sync_child", str(state_dir), str(kill_at)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def order(self, **command: Any) -> dict[str, Any]:
        """Have the agent obey a command, and carry frames to and fro until there are no more."""
        answer, to_device = self._one(command)
        self.carry(to_device)
        return answer

    def carry(self, to_device: list[bytes]) -> None:
        while to_device:
            frame = to_device.pop(0)
            to_device += self._one({"op": "frame", "hex": frame.hex()})[1]

    def _one(self, command: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        to_device: list[bytes] = []
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Died from None
        for line in self.process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if answer.pop("done", False):
                return answer, to_device
            to_device += self._hub.take(bytes.fromhex(answer["sent"]))
        raise Died

    def end(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(timeout=30)


@contextmanager
def device(state_dir: Path, hub: Hub, kill_at: int = 0) -> Iterator[Device]:
    there = Device(state_dir, hub, kill_at)
    try:
        yield there
    finally:
        there.end()


@dataclass
class Life:
    """What one life of the agent was told is durable."""

    facts: dict[str, int] = field(default_factory=dict)
    acks: set[str] = field(default_factory=set)


def script(there: Device, hub: Hub, life: Life) -> None:
    """Connect, write, be asked for something, acknowledge it; enough for rolls and checkpoints."""
    there.order(op="open")
    there.carry(hub.connected())
    for number in range(5):
        name = f"fact-{number % 3}"
        there.order(op="write", name=name, value=number)
        life.facts[name] = number
    for deployment in ("done", "dtwo"):
        there.carry(hub.wish(deployment))
        for stage in (Stage.DELIVERED, Stage.VERIFIED, Stage.APPLIED):
            there.order(op="ack", deployment=deployment, stage=stage.value)
            life.acks.add(names.ack_key(deployment, code_of(stage)))


def live(state_dir: Path, hub: Hub, life: Life, kill_at: int = 0) -> tuple[int, int]:
    """Live through the script; returns exit code and number of steps."""
    there = Device(state_dir, hub, kill_at)
    steps = 0
    try:
        script(there, hub, life)
        steps = there.order(op="report")["steps"]
    except Died:
        pass
    return there.end(), steps


async def holdings(state_dir: Path) -> dict[DocumentName, Holding]:
    async with await open_store(state_dir) as store:
        return await store.holdings()


def is_on_disk(held: Holding | None, published: tuple[int, Vector] | None) -> bool:
    if published is None or not published[1]:
        return True
    if held is None:
        return False
    same = held.epoch == published[0] and covers(held.vector, published[1])
    return same or is_absorbed(held.absorbed, *published)


def require_converged(state_dir: Path, hub: Hub, life: Life) -> None:
    with device(state_dir, hub) as there:
        there.order(op="open")
        there.carry(hub.connected())
        report = there.order(op="report")
    assert report["settled"]
    own = values_of(hub.held[OWN])
    assert {key: value.hex() for key, value in own.items()} == report["own"]
    assert life.acks <= set(own)
    assert {key: value.hex() for key, value in values_of(hub.held[DESIRED]).items()} == report[
        "wanted"
    ].get(str(DESIRED), {})


@pytest.mark.parametrize(
    ("first", "stride"), [(1, STRIDE), pytest.param(1, 1, marks=pytest.mark.soak)]
)
async def test_killed_at_any_step_nothing_was_said_that_is_not_on_disk_and_both_sides_end_equal(
    tmp_path: Path, first: int, stride: int
) -> None:
    code, steps = live(tmp_path / "whole", Hub(), Life())
    assert code == 0
    assert steps > 60

    for kill_at in range(first, steps, stride):
        state_dir, hub, life = tmp_path / f"case-{kill_at}", Hub(), Life()
        code, _ = live(state_dir, hub, life, kill_at)
        assert code == -signal.SIGKILL, kill_at

        if (state_dir / "agent.db").exists():
            disk = await holdings(state_dir)
            told = hub.held.get(OWN)
            assert is_on_disk(disk.get(OWN), (told.epoch, told.vector) if told else None), kill_at
            assert is_on_disk(disk.get(DESIRED), hub.promised), kill_at
            assert life.acks <= set(values_of(disk.get(OWN))), kill_at
        require_converged(state_dir, hub, life)
        shutil.rmtree(state_dir)


async def test_a_device_whose_disk_was_rolled_back_takes_back_what_it_had_told(
    tmp_path: Path,
) -> None:
    state_dir, backup, hub, life = tmp_path / "state", tmp_path / "backup", Hub(), Life()
    with device(state_dir, hub) as there:
        there.order(op="open")
        there.carry(hub.connected())
        there.order(op="write", name="fact-0", value=0)
    shutil.copytree(state_dir, backup)
    assert live(state_dir, hub, life)[0] == 0
    told = hub.held[OWN]
    shutil.rmtree(state_dir)
    shutil.copytree(backup, state_dir)

    require_converged(state_dir, hub, life)

    assert hub.held[OWN].epoch > told.epoch
    assert life.acks <= set(values_of((await holdings(state_dir))[OWN]))


async def test_a_device_with_a_new_empty_disk_takes_back_what_it_had_told(tmp_path: Path) -> None:
    hub, life = Hub(), Life()
    assert live(tmp_path / "old", hub, life)[0] == 0

    require_converged(tmp_path / "new", hub, life)

    assert life.acks <= set(values_of((await holdings(tmp_path / "new"))[OWN]))


async def test_killed_at_any_step_of_taking_back_nothing_is_lost(tmp_path: Path) -> None:
    origin, life = Hub(), Life()
    assert live(tmp_path / "old", origin, life)[0] == 0

    for kill_at in range(1, 14):
        hub = Hub()
        hub.held[OWN] = origin.held[OWN]
        state_dir = tmp_path / f"new-{kill_at}"
        there = Device(state_dir, hub, kill_at)
        try:
            there.order(op="open")
            there.order(op="report")
        except Died:
            pass
        there.end()
        require_converged(state_dir, hub, life)
