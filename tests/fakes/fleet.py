"""Many simulated devices on one connection to a real broker: real documents, real sessions.

Owns the devices' side of the protocol, as plain as the real agent's: what a device holds is in
memory and survives anything that happens to hub and broker. Which device speaks is decided by the
topic alone, so thousands share one connection, and one core feeds a hub.

Used by the crash and system tests, and by the benchmarks.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import Iterable, Mapping
from random import Random
from typing import Self

from agent.kills import read_orders
from sync import topics
from sync.author import Author, Upkeep
from sync.client_ids import client_id
from sync.documents import (
    ACK,
    DEPLOYMENT,
    FACT,
    KILL,
    OBEYED,
    VERSION,
    DocumentName,
    Kind,
    Side,
    ack_key,
)
from sync.messages import Message, decode_frame, in_frames
from sync.moves import Role
from sync.records import Ack, Deployment, Fact, Kill, Obeyed, Running, encode, select
from sync.replica import Holding, values_of
from sync.session import Retry, Session, Step
from sync.topics import TopicKind, parse_topic, presence_topic, up_topic
from sync.transport.mqtt import MqttTransport
from sync.transport.port import Congested, Connected, Delivery, Link, Subscription

RETRY = Retry(first_s=1.0, longest_s=5.0)
TICK_S = 0.25

ACKS_KEPT = 5

UPKEEP = Upkeep(writes_per_generation=200, client_ids_max=8)
"""Small, so that a short test meets rolls and resets."""


class FleetDevice:
    """One device: its document, what it follows, and its conversation with the hub."""

    def __init__(
        self,
        name: str,
        number: int,
        *,
        groups: Iterable[str] = ("all",),
        obeys: bool = False,
        kind: Kind = Kind.DEVICE,
    ) -> None:
        """`kind` is that of its one document; telemetry takes a second device of its name."""
        self.name = name
        self.document = DocumentName(kind, name)
        self.boot = secrets.token_bytes(6)
        self.obeys = obeys
        self.held: dict[DocumentName, Holding] = {}
        self.done: set[str] = set()
        self.killed: dict[str, int] = {}
        """Clock of each kill order that it has told the hub it holds to."""
        self.written_acks: set[str] = set()
        """Keys of every acknowledgement that this device ever wrote."""
        self.confirmed_acks: set[str] = set()
        """Those of them that the hub said are durable; all but the last few may be pruned."""
        self.last_hub: tuple[int, int] | None = None
        self._starts = 1
        self._random = Random(number)
        self._follows = [
            DocumentName(Kind.DESIRED, name),
            *(DocumentName(Kind.GROUP, group) for group in groups),
        ]
        self.author = self._new_author(None)
        self.session = self._new_session()
        self.up = up_topic(name)

    def _new_id(self) -> int:
        return client_id(Side.DEVICE, self._starts, self._random.getrandbits(16))

    def _new_author(self, holding: Holding | None) -> Author:
        return Author(holding, client_id=self._new_id(), upkeep=UPKEEP, prune=self._prune)

    def _prune(self, values: Mapping[str, bytes]) -> dict[str, bytes]:
        acks = [key for key in values if key.startswith(ACK)]
        dropped = set(acks[:-ACKS_KEPT]) & self.confirmed_acks
        return {key: value for key, value in values.items() if key not in dropped}

    def _new_session(self) -> Session:
        return Session(
            self.name,
            sends={self.document: Role.AUTHOR},
            follows=self._follows,
            retry=RETRY,
            random=self._random,
        )

    def restart(self) -> None:
        """Start anew from what is held: a new client id, a new boot."""
        self._starts += 1
        self.boot = secrets.token_bytes(6)
        self.author = self._new_author(self.author.holding())
        self.session = self._new_session()

    def shelf(self, document: DocumentName) -> Holding | None:
        return self.author.holding() if document == self.document else self.held.get(document)

    def is_settled(self) -> bool:
        """Whether the hub said that it durably holds all that this device has written."""
        return self.session.is_settled(self.document, self.shelf)

    def opened(self, now_s: float) -> list[Message]:
        return self._obey(self.session.opened(self.shelf, now_s), now_s)

    def write(self, entries: Mapping[str, bytes], now_s: float) -> list[Message]:
        self.written_acks.update(key for key in entries if key.startswith(ACK))
        self.author.write(entries)
        self.author.upkeep()
        return self._obey(self.session.changed(self.document, self.shelf, now_s), now_s)

    def receive(self, message: Message, now_s: float) -> list[Message]:
        return self._obey(self.session.receive(message, self.shelf, now_s), now_s)

    def due(self, now_s: float) -> list[Message]:
        return self._obey(self.session.due(self.shelf, now_s), now_s)

    def ack(self, deployment: str, stage: str, reason: str = "") -> dict[str, bytes]:
        stamp = Ack(self.boot, boottime_ms(), time.time_ns() // 1_000_000, 2, reason)
        return {ack_key(deployment, stage): encode(stamp)}

    def _obey(self, step: Step, now_s: float) -> list[Message]:
        send = list(step.send)
        if self.document in step.heard and self.is_settled():
            self.confirmed_acks |= self.written_acks
        for document, followed in step.store.items():
            if followed.holding is not None:
                self.held[document] = followed.holding
                if self.obeys:
                    send += self._deploy(followed.holding, now_s)
                    kills = select(Kill, KILL, values_of(followed.holding))
                    send += self.kill(kills, now_s)
        for document, theirs in step.rebase.items():
            self._starts += 1
            self.author.rebase(theirs, client_id=self._new_id())
            send += self.session.changed(document, self.shelf, now_s).send
        for document, above in step.reset.items():
            self.author.reset(above=above)
            send += self.session.changed(document, self.shelf, now_s).send
        return send

    def kill(self, orders: Mapping[str, Kill], now_s: float) -> list[Message]:
        """Hold to what is new of these orders, and say so."""
        entries: dict[str, bytes] = {}
        for what, order in orders.items():
            if order.clock > self.killed.get(what, -1):
                self.killed[what] = order.clock
                wall_ms = time.time_ns() // 1_000_000
                how = "order" if order.is_killed else "back"
                entries[OBEYED + what] = encode(
                    Obeyed(self.boot, boottime_ms(), wall_ms, 2, order.clock, how)
                )
        return self.write(entries, now_s) if entries else []

    def _deploy(self, holding: Holding, now_s: float) -> list[Message]:
        """Go through every stage at once, as a device with nothing to install would."""
        send: list[Message] = []
        for deployment, record in select(Deployment, DEPLOYMENT, values_of(holding)).items():
            if deployment in self.done or record.cancelled:
                continue
            self.done.add(deployment)
            entries: dict[str, bytes] = {}
            for stage in "DVIHK":
                entries |= self.ack(deployment, stage)
            entries |= runs(record.component, record.version, record.manifest, self.boot)
            send += self.write(entries, now_s)
        return send


def runs(component: str, version: str, manifest: bytes, boot: bytes) -> dict[str, bytes]:
    """Return the entry that says what runs, proven healthy."""
    running = Running(version, manifest, boot, boottime_ms(), healthy=True)
    return {VERSION + component: encode(running)}


def fact(name: str, value: object) -> dict[str, bytes]:
    """Return the entry of a fact."""
    return {FACT + name: encode(Fact(json.dumps(value)))}


def boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Fleet:
    """Devices and their one connection. Use it with `async with`; it runs a task of its own.

    With `hears` it takes in what goes to that one device alone, for fleets of many connections.
    """

    def __init__(
        self,
        port: int,
        *,
        name: str = "fleet",
        qos: int = 1,
        tick_s: float = TICK_S,
        hears: str = "+",
    ) -> None:
        self.devices: dict[str, FleetDevice] = {}
        self.heard_count = 0
        self.deaf: set[str] = set()
        """Devices that take nothing from the hub, though they are connected."""
        self._qos = qos
        self._tick_s = tick_s
        self._hub_run = ""
        self._transport = MqttTransport(
            Link(
                client_id=f"{name}-{secrets.token_hex(4)}",
                port=port,
                reconnect_min_s=0.05,
                reconnect_max_s=0.5,
                inflight_max_count=1000,
                inbound_max_count=10_000,
                outbound_max_count=100_000,
            ),
            subscriptions=(
                Subscription(f"ff/1/{hears}/down"),
                Subscription("ff/1/group/+"),
                Subscription("ff/1/kill/+"),
                Subscription(topics.HUB_PRESENCE),
            ),
        )
        self._sent: deque[tuple[str, bytes]] = deque(maxlen=200)
        self._tasks: list[asyncio.Task[None]] = []
        self.connected = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._transport.run()),
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._keep_time()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def add(
        self, name: str, *, groups: Iterable[str] = ("all",), obeys: bool = False
    ) -> FleetDevice:
        device = FleetDevice(name, len(self.devices), groups=groups, obeys=obeys)
        self.devices[name] = device
        if self._transport.connected:
            self._open(device)
        return device

    def write(self, name: str, entries: Mapping[str, bytes]) -> None:
        device = self.devices[name]
        self._send(device, device.write(entries, time.monotonic()))

    def restart(self, name: str) -> None:
        device = self.devices[name]
        device.restart()
        if self._transport.connected:
            self._open(device)

    def announce(self, name: str, *, birth: int, online: bool = True) -> None:
        """Publish the device's presence."""
        said = json.dumps({"online": online, "birth": birth, "keepalive_s": 1}).encode()
        self._transport.publish_soon(presence_topic(name), said, retain=True)

    def is_settled(self) -> bool:
        return all(device.is_settled() for device in self.devices.values())

    def unsettled(self) -> list[str]:
        return [name for name, device in self.devices.items() if not device.is_settled()]

    # ------------------------------------------------------------------------------ inside
    def _open(self, device: FleetDevice) -> None:
        self._send(device, device.opened(time.monotonic()))

    def _send(self, device: FleetDevice, messages: list[Message]) -> None:
        if not messages:
            return
        for payload in in_frames(
            messages, sender=device.boot, sent_ms=boottime_ms(), anchor=device.last_hub
        ):
            with contextlib.suppress(Congested):
                self._transport.publish_soon(device.up, payload, qos=self._qos)
            self._sent.append((device.up, payload))
        device.last_hub = None

    def repeat_old(self, random: Random) -> None:
        """Send some frame once more, late and out of order, as a broker may."""
        if self._sent and self._transport.connected:
            topic, payload = random.choice(self._sent)
            with contextlib.suppress(Congested):
                self._transport.publish_soon(topic, payload, qos=self._qos)

    async def _listen(self) -> None:
        while True:
            for event in await self._transport.receive(1000):
                if isinstance(event, Delivery):
                    self._take(event)
                    self._transport.acknowledge(event)
                elif isinstance(event, Connected):
                    self.connected.set()
                    for device in self.devices.values():
                        device.session.closed()
                        self._open(device)
                else:
                    self.connected.clear()

    def _hear_hub(self, payload: bytes) -> None:
        """As an agent does: a hub that starts anew may have forgotten, so compare documents."""
        run = json.loads(payload)["run"] if payload else ""
        if run and run != self._hub_run:
            is_other, self._hub_run = bool(self._hub_run), run
            if is_other:
                for device in self.devices.values():
                    self._open(device)

    def _take(self, delivery: Delivery) -> None:
        if delivery.topic == topics.HUB_PRESENCE:
            self._hear_hub(delivery.payload)
            return
        topic = parse_topic(delivery.topic)
        self.heard_count += 1
        if topic.kind is TopicKind.KILL:
            self._take_kills(topic.name, delivery.payload)
            return
        if topic.kind is TopicKind.GROUP:
            about = DocumentName(Kind.GROUP, topic.name)
            listeners = [d for d in self.devices.values() if about in d.session._follows]
        else:
            listeners = [self.devices[topic.name]] if topic.name in self.devices else []
        if not listeners:
            return
        frame = decode_frame(delivery.payload)
        now_s, arrived_ms = time.monotonic(), boottime_ms()
        for device in listeners:
            if device.name in self.deaf:
                continue
            device.last_hub = (frame.sent_ms, arrived_ms)
            for message in frame.messages:
                self._send(device, device.receive(message, now_s))

    def _take_kills(self, group: str, payload: bytes) -> None:
        about, orders = DocumentName(Kind.GROUP, group), read_orders(payload)
        now_s = time.monotonic()
        for device in self.devices.values():
            if device.obeys and device.name not in self.deaf and about in device.session._follows:
                self._send(device, device.kill(orders, now_s))

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            if self._transport.connected:
                now_s = time.monotonic()
                for device in list(self.devices.values()):
                    self._send(device, device.due(now_s))
