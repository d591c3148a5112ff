"""A small world in memory: devices, two hubs, and lines that lose, repeat, delay and reorder.

Owns the frames in flight, what must hold at every moment, and what must hold in the end. Never
sleeps and never draws a random number: the test decides what happens next, so that a failure can be
replayed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sync.client_ids import client_id
from sync.documents import DocumentName, Kind, Side
from sync.messages import Have, Message, decode_frame, in_frames, vector_of
from sync.moves import Role
from sync.replica import Holding, values_of
from sync.vector import encode_vector
from tests.fakes.machine import UPKEEP, Line, Machine, Steps
from tests.fakes.promises import Promises

HUBS = ("hub-a", "hub-b")

SENDS_MAX = 12
"""Most messages that one event may lead to on one line."""

ANSWERS_MAX = 20
"""Most frames that one frame may lead to, with all that follows from it."""

ENTRY_BYTES = 32
"""What the engine needs around one live entry, at most."""

LEFTOVER_BYTES = 10
"""What the engine keeps of one overwritten entry, at most."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A frame on its way."""

    sender: str
    receiver: str
    device: str
    payload: bytes
    event: int
    """When it was sent."""
    forged: bool = False


class World:
    """Devices `d1`, `d2`, ... and two hubs, what is in flight between them, and what must hold.

    Hub A writes one desired document for each device. Both hubs follow every device's document and
    pass it on to each other.
    """

    machine = Machine
    checks_always = True
    """Whether to check at every commit; without, a test sees only what is left in the end."""

    def __init__(self, devices_count: int) -> None:
        self.now_s = 0.0
        self.event = 0
        self.serial = 0
        self.flying: list[Flight] = []
        self.offences: list[tuple[str, Line, Exception]] = []
        self.forged_count = 0
        self.history: dict[tuple[DocumentName, int, bytes], dict[str, bytes]] = {}
        """Every state that the writer of a document ever had on disk, by epoch and vector."""
        self.promises = Promises()
        self.devices = [f"d{number + 1}" for number in range(devices_count)]
        self.machines: dict[str, Machine] = {}
        for device in self.devices:
            self._add_device(device)
        for hub in HUBS:
            self._add_hub(hub)
        for name in self.machines:
            self.start(name)

    def _add_device(self, device: str) -> None:
        own, desired = device_document(device), desired_document(device)
        lines = {
            (hub, device): ({own: Role.AUTHOR}, [desired] if hub == HUBS[0] else []) for hub in HUBS
        }
        self.machines[device] = self.machine(self, device, Side.DEVICE, [own], lines)

    def _add_hub(self, hub: str) -> None:
        (other,) = set(HUBS) - {hub}
        lines: dict[Line, tuple[Mapping[DocumentName, Role], Iterable[DocumentName]]] = {}
        desired = [desired_document(device) for device in self.devices if hub == HUBS[0]]
        for device in self.devices:
            own = device_document(device)
            sends = {desired_document(device): Role.AUTHOR} if desired else {}
            lines[device, device] = (sends, [own])
            lines[other, device] = ({own: Role.CARRIER}, [own])
        self.machines[hub] = self.machine(self, hub, Side.HUB, desired, lines)

    def client_id(self, machine: Machine, counter: int) -> int:
        """Return an id with low bits that no other start had, in no particular order."""
        self.serial += 1
        return client_id(machine.side, counter, self.serial * 40503 % 2**16)

    # ------------------------------------------------------------------------ what a test does
    def run(self, machine: Machine, steps: Steps, cut: int | None = None) -> None:
        """Let `machine` go through `steps`, or kill it at stop number `cut`."""
        self.event += 1
        for number, _ in enumerate(steps):
            if number == cut:
                machine.kill()
                return

    def start(self, name: str, cut: int | None = None) -> None:
        machine = self.machines[name]
        if not machine.is_up:
            self.run(machine, machine.start(), cut)

    def kill(self, name: str) -> None:
        self.machines[name].kill()

    def write(
        self,
        name: str,
        document: DocumentName,
        entries: Mapping[str, bytes],
        cut: int | None = None,
    ) -> None:
        machine = self.machines[name]
        if machine.is_up:
            self.run(machine, machine.write(document, entries), cut)

    def connect(self, name: str, line: Line, cut: int | None = None) -> None:
        machine = self.machines[name]
        if machine.is_up:
            self.run(machine, machine.connect(line), cut)

    def disconnect(self, name: str, line: Line) -> None:
        machine = self.machines[name]
        if machine.is_up:
            machine.sessions[line].closed()

    def deliver(self, number: int, cut: int | None = None, *, keep: bool = False) -> None:
        """Hand over frame `number` in flight; with `keep` it stays in flight, as a duplicate."""
        flight = self.flying[number] if keep else self.flying.pop(number)
        machine = self.machines[flight.receiver]
        if not machine.is_up:
            return  # a frame for a dead machine is lost
        if flight.forged:
            self.forged_count += 1
        else:
            self._note_promises(flight)
        line = (flight.sender, flight.device)
        self.run(machine, machine.receive(line, flight.payload), cut)

    def deliver_all(self) -> None:
        """Hand over everything in order, answers included."""
        for _ in range(ANSWERS_MAX * (len(self.flying) + ANSWERS_MAX)):
            if not self.flying:
                return
            self.deliver(0)
        raise AssertionError(f"they never stop talking: {self.flying[:4]}")

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        for machine in list(self.machines.values()):
            if machine.is_up:
                self.run(machine, machine.repeat())

    def roll_back(self, name: str, number: int) -> bool:
        """Put an earlier image on a disk, unless it takes the last copy of something promised.

        A promise outlives the loss of any one disk; nothing outlives the loss of all.
        """
        machine = self.machines[name]
        image = machine.disk.images[number]
        others = {
            other.name: other.disk.image.holdings
            for other in self.machines.values()
            if other is not machine
        }
        if not self.promises.outlive(name, image.holdings, others):
            return False
        machine.kill()
        machine.disk.restore(number)
        self.event += 1
        self.promises.restored(name, self.event)
        return True

    def forge(self, hub: str, document: DocumentName, message: Message) -> None:
        """Let a stranger speak to `hub` on the line of the other hub."""
        (other,) = set(HUBS) - {hub}
        (payload,) = in_frames([message], sender=b"forged", sent_ms=0)
        self.flying.append(Flight(other, hub, document.about, payload, self.event, forged=True))

    # ------------------------------------------------------------------------ what machines tell
    def send(self, sender: str, line: Line, messages: list[Message]) -> None:
        receiver, device = line
        assert len(messages) <= SENDS_MAX, f"{sender} sends {len(messages)} messages at once"
        for payload in in_frames(messages, sender=b"sender", sent_ms=self.event):
            self.flying.append(Flight(sender, receiver, device, payload, self.event))

    def wrote(self, document: DocumentName, entries: Mapping[str, bytes]) -> None:
        self.promises.wrote(document, entries)

    def committed(self, machine: Machine, document: DocumentName, holding: Holding) -> None:
        """Check what must hold of every holding at the moment it becomes durable."""
        values = values_of(holding)
        at = (document, holding.epoch, encode_vector(holding.vector))
        if document in machine.writes:
            self.history[at] = values
            if document.kind is Kind.DEVICE:
                self.promises.kept(document, holding)
        if not self.checks_always:
            return
        known = self.history.get(at)
        assert known is not None, f"{machine.name} holds what no disk of the writer ever held"
        assert values == known, f"{machine.name} holds other values than the writer had"
        self._check_bounds(machine, document, holding, values)

    def _check_bounds(
        self, machine: Machine, document: DocumentName, holding: Holding, values: dict[str, bytes]
    ) -> None:
        live_bytes = sum(len(key) + len(value) + ENTRY_BYTES for key, value in values.items())
        leftover_bytes = UPKEEP.writes_per_generation * LEFTOVER_BYTES
        bound_bytes = live_bytes + leftover_bytes + 24 * (UPKEEP.client_ids_max + 1)
        ids_count = len(holding.vector)
        assert len(holding.state) <= bound_bytes, f"{machine.name}: {document} grew too large"
        assert ids_count <= UPKEEP.client_ids_max + 1, f"{machine.name}: {document} has many ids"

    def _note_promises(self, flight: Flight) -> None:
        """A device that reads what a hub durably holds may rely on it from then on."""
        if flight.receiver not in self.devices:
            return
        own = device_document(flight.device)
        for message in decode_frame(flight.payload).messages:
            if isinstance(message, Have) and message.document == Kind.DEVICE.value:
                seen = vector_of(message.vector)
                self.promises.told(own, flight.sender, message.epoch, seen, flight.event)

    # ------------------------------------------------------------------------ the end
    def quiesce(self) -> None:
        """Repair everything, lose nothing any more, and let all of them talk until they rest."""
        for name in self.machines:
            self.start(name)
        self.deliver_all()
        for name, machine in self.machines.items():
            for line in machine.lines:
                self.connect(name, line)
        for _ in range(20):
            self.deliver_all()
            self.pass_time(1000.0)
            if not self.flying:
                break
        else:
            raise AssertionError("the machines never come to rest")

    def check_equality(self) -> None:
        """Check that every replica of each document is equal."""
        for device in self.devices:
            self._check_equal(device_document(device), (device, *HUBS))
            self._check_equal(desired_document(device), (device, HUBS[0]))

    def check_agreement(self) -> None:
        """Check that every replica of each document is equal and that no promise was broken."""
        self.check_equality()
        for device in self.devices:
            own = device_document(device)
            for name in (device, *HUBS):
                values = values_of(self.machines[name].shelf(own))
                missing = self.promises.missing(own, values)
                assert not missing, f"{name} lacks what {device} was told is durable: {missing}"
        for machine in self.machines.values():
            for line, session in machine.sessions.items():
                for document in set(machine.lines[line][0]) & set(machine.writes):
                    assert session.is_settled(document, machine.shelf), (machine.name, line)

    def _check_equal(self, document: DocumentName, names: Iterable[str]) -> None:
        replicas = {name: self.machines[name].shelf(document) for name in names}
        seen = [
            (held.epoch, dict(held.vector), values_of(held)) if held is not None else None
            for held in replicas.values()
        ]
        assert all(each == seen[0] for each in seen), f"{document} differs: {replicas}"
        for name, author in ((name, self.machines[name].authors.get(document)) for name in names):
            if author is not None and (held := replicas[name]) is not None:
                assert author.values() == values_of(held), f"{name}: memory differs from disk"


def device_document(device: str) -> DocumentName:
    return DocumentName(Kind.DEVICE, device)


def desired_document(device: str) -> DocumentName:
    return DocumentName(Kind.DESIRED, device)
