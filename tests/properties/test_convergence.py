"""Every replica ends equal, and nothing that a device was told is durable ever goes missing.

Hypothesis plays the network, the power supply and the disks against `tests.fakes.world`.
What must hold at every moment is asserted by the world itself; what must hold in the end is
asserted after everything was repaired and has come to rest.
"""

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sync.documents import DocumentName
from sync.hlc import tick
from sync.messages import Diff
from sync.replica import Holding, Replica
from sync.vector import tag_of
from tests.fakes.world import HUBS, World, desired_document, device_document

pytestmark = pytest.mark.timeout(3600)  # a failure is made small, and a soak takes long

GAMES_MIN = 300
STEPS_MIN = 60

PROFILE = settings()
"""What the run asks for: a soak wants more of both."""

SETTINGS = settings(
    max_examples=max(GAMES_MIN, PROFILE.max_examples),
    stateful_step_count=max(STEPS_MIN, PROFILE.stateful_step_count),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

which = st.integers(0, 2**16)
"""Chooses one of however many there are, by remainder."""

cuts = st.one_of(st.none(), st.integers(0, 7))
"""At which stop between two durable steps the power fails; None for never."""


def forged_diff(document: DocumentName, held: Holding, *, client_id: int) -> Diff:
    """Return a well-formed diff of `held`, written by somebody who may not."""
    forger = Replica(client_id=client_id, state=held.state)
    forger.write({"a/d0/K": b"forged"})
    result = tag_of(forger.vector())
    return Diff(str(document), held.epoch, forger.diff(held.vector), result)


class Convergence(RuleBasedStateMachine):
    """Anything may happen, in any order, that can happen to real machines."""

    world_class = World

    @initialize(devices_count=st.integers(1, 3))
    def begin(self, devices_count: int) -> None:
        self.world = self.world_class(devices_count)
        for name, machine in self.world.machines.items():
            for line in machine.lines:
                self.world.connect(name, line)

    def _device(self, number: int) -> str:
        return self.world.devices[number % len(self.world.devices)]

    def _machine(self, number: int) -> str:
        return list(self.world.machines)[number % len(self.world.machines)]

    # ------------------------------------------------------------------------ work
    @rule(device=which, stage=st.integers(0, 11), cut=cuts, flows=st.booleans())
    def device_acknowledges(self, device: int, stage: int, cut: int | None, flows: bool) -> None:
        name = self._device(device)
        document = device_document(name)
        key = f"a/d{stage // 3}/{'DVI'[stage % 3]}"
        author = self.world.machines[name].authors.get(document)
        if author is not None and key not in author.values():
            self.world.write(name, document, {key: self._value()}, cut)
        self._flow(flows)

    @rule(
        device=which,
        key=st.sampled_from("kl"),
        wall_s=st.integers(0, 100),
        cut=cuts,
        flows=st.booleans(),
    )
    def application_sets(
        self, device: int, key: str, wall_s: int, cut: int | None, flows: bool
    ) -> None:
        name = self._device(device)
        document = device_document(name)
        author = self.world.machines[name].authors.get(document)
        if author is not None:
            held = author.values().get(f"c/{key}")
            last = msgspec.msgpack.decode(held)[0] if held is not None else 0
            record = msgspec.msgpack.encode([tick(last, wall_s * 1000), self.world.event])
            self.world.write(name, document, {f"c/{key}": record}, cut)
        self._flow(flows)

    @rule(device=which, writes=st.integers(1, 30), cut=cuts, flows=st.booleans())
    def device_is_busy(self, device: int, writes: int, cut: int | None, flows: bool) -> None:
        name = self._device(device)
        for number in range(writes):
            entry = {f"s/{'mno'[number % 3]}": self._value()}
            is_last = number == writes - 1
            self.world.write(name, device_document(name), entry, cut if is_last else None)
        self._flow(flows)

    @rule(device=which, writes=st.integers(1, 10), cut=cuts, flows=st.booleans())
    def operator_wishes(self, device: int, writes: int, cut: int | None, flows: bool) -> None:
        document = desired_document(self._device(device))
        for number in range(writes):
            self.world.write(HUBS[0], document, {f"d/{'kl'[number % 2]}": self._value()}, cut)
        self._flow(flows)

    def _value(self) -> bytes:
        return f"{self.world.event}".encode()

    def _flow(self, flows: bool) -> None:
        """Let the network be perfect for a moment, or leave what was sent on its way."""
        if flows:
            self.world.deliver_all()

    # ------------------------------------------------------------------------ network
    @precondition(lambda self: self.world.flying)
    @rule(number=which, cut=cuts, again=st.booleans())
    def a_frame_arrives(self, number: int, cut: int | None, again: bool) -> None:
        """Any of those on their way; with `again` it is a duplicate, and the original follows."""
        self.world.deliver(number % len(self.world.flying), cut, keep=again)

    @precondition(lambda self: self.world.flying)
    @rule(count=st.integers(1, 12))
    def frames_arrive_in_order(self, count: int) -> None:
        for _ in range(count):
            if self.world.flying:
                self.world.deliver(0)

    @precondition(lambda self: self.world.flying)
    @rule(number=which, count=st.integers(1, 4))
    def frames_are_lost(self, number: int, count: int) -> None:
        first = number % len(self.world.flying)
        del self.world.flying[first : first + count]

    @rule(machine=which, line=which, cut=cuts)
    def a_line_comes_up(self, machine: int, line: int, cut: int | None) -> None:
        name = self._machine(machine)
        lines = list(self.world.machines[name].lines)
        self.world.connect(name, lines[line % len(lines)], cut)

    @rule(machine=which, line=which)
    def a_line_goes_down(self, machine: int, line: int) -> None:
        name = self._machine(machine)
        lines = list(self.world.machines[name].lines)
        self.world.disconnect(name, lines[line % len(lines)])

    @rule(seconds=st.sampled_from([3.0, 30.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    # ------------------------------------------------------------------------ power and disks
    @rule(machine=which, returns=st.booleans())
    def power_fails(self, machine: int, returns: bool) -> None:
        name = self._machine(machine)
        self.world.kill(name)
        if returns:
            self._come_up(name)

    @rule(cut=cuts, flows=st.booleans())
    def power_returns(self, cut: int | None, flows: bool) -> None:
        for name in self.world.machines:
            self._come_up(name, cut)
        self._flow(flows)

    def _come_up(self, name: str, cut: int | None = None) -> None:
        if self.world.machines[name].is_up:
            return
        self.world.start(name, cut)
        for line in self.world.machines[name].lines:
            self.world.connect(name, line)

    @rule(machine=which, back=st.integers(1, 40), starts=st.booleans(), flows=st.booleans())
    def an_older_disk_image_comes_back(
        self, machine: int, back: int, starts: bool, flows: bool
    ) -> None:
        """A device's disk is rolled back, a hub is restored from a backup."""
        name = self._machine(machine)
        self.world.roll_back(name, max(0, len(self.world.machines[name].disk.images) - 1 - back))
        if starts:
            self._come_up(name)
        self._flow(flows)

    # ------------------------------------------------------------------------ malice
    @rule(device=which, hub=st.sampled_from(HUBS))
    def a_stranger_writes(self, device: int, hub: str) -> None:
        """Somebody who may not write a device's document sends a well-formed diff of it."""
        document = device_document(self._device(device))
        held = self.world.machines[hub].shelf(document)
        if held is not None:
            diff = forged_diff(document, held, client_id=2**41 + self.world.event)
            self.world.forge(hub, document, diff)

    # ------------------------------------------------------------------------ the end
    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.quiesce()
        self.world.check_agreement()
        honest = len(self.world.offences) <= self.world.forged_count
        assert honest, f"an honest machine was refused: {self.world.offences}"


TestConvergence = Convergence.TestCase
TestConvergence.settings = SETTINGS
