"""A hub for one device, in memory: follows its document, wishes and deploys, and forgets all."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from sync import documents as names
from sync import records, topics
from sync.author import Author
from sync.client_ids import client_id
from sync.documents import DocumentName, Kind, Side
from sync.manifest import Manifest
from sync.messages import Full, Message, decode_frame, in_frames
from sync.moves import Role
from sync.records import (
    Ack,
    Deployment,
    Desired,
    Exposure,
    Flag,
    Kill,
    Obeyed,
    Running,
    Terms,
    Waiting,
)
from sync.replica import Holding, values_of
from sync.session import Retry, Session, Step
from sync.stages import Stage, stage_of
from sync.transport.memory import MemoryTransport
from sync.transport.memory_broker import MemoryBroker
from sync.transport.port import Connected, Delivery, Link

PATIENCE_S = 30.0
RUN = "0a0b0c0d0e0f"


class SmallHub:
    """One run of a hub. `holding` of an earlier run makes it the same hub, restarted."""

    def __init__(self, broker: MemoryBroker, device: str, held: Holding | None = None) -> None:
        self.broker = broker
        self.device = device
        self.own = DocumentName(Kind.DEVICE, device)
        self.desired = DocumentName(Kind.DESIRED, device)
        self.telemetry = DocumentName(Kind.TELEMETRY, device)
        self.held = held
        self.held_telemetry: Holding | None = None
        self.presence: list[dict[str, object]] = []
        self.frames_count = 0
        self.anchors: list[tuple[int, int]] = []
        self.now_ms = 1_800_000_000_000
        self._order = 0
        self._author = Author(None, client_id=client_id(Side.HUB, 1, 1), prune=self._unforgotten)
        self._forgotten: set[str] = set()
        self._group = Author(None, client_id=client_id(Side.HUB, 1, 1))
        self._session = Session(
            device,
            sends={self.desired: Role.AUTHOR},
            follows=[self.own, self.telemetry],
            retry=Retry(0.2, 1.0),
        )
        self._transport = MemoryTransport(broker, Link(client_id="hub"))
        for topic in (topics.EVERY_UP, topics.EVERY_PRESENCE):
            self._transport.subscribe(topic)
        self._news = asyncio.Event()

    # What an operator does.

    def deploy(
        self,
        deployment: str,
        manifest: Manifest,
        *,
        group: bool = False,
        cancelled: bool = False,
        expires_ms: int = 0,
        where: str = "",
        order: int | None = None,
    ) -> None:
        if order is None:
            self._order += 1
            order = self._order
        record = Deployment(
            order,
            manifest.component,
            manifest.version,
            manifest.digest(),
            len(manifest.canonical()),
            where=where,
            cancelled=cancelled,
            expires_ms=expires_ms,
        )
        self._write({names.DEPLOYMENT + deployment: records.encode(record)}, group=group)

    def wish(self, key: str, value: object, *, clock: int = 1, saw: int = 0) -> None:
        text = None if value is None else json.dumps(value)
        self._write({names.DESIRED + key: records.encode(Desired(clock, text, saw))}, group=False)

    def terms(self, deployment: str, **terms: Any) -> None:
        """Order how a device may wait with a deployment."""
        self._order += 1
        record = Terms(self._order, **terms)
        self._write({names.TERMS + deployment: records.encode(record)}, group=False)

    def flag(self, key: str, definition: str | None, *, clock: int = 1) -> None:
        """Define a flag for the group, or take it away."""
        self._write({names.FLAG + key: records.encode(Flag(clock, definition))}, group=True)

    def kill(self, what: str, *, clock: int, is_killed: bool = True, topic: bool = True) -> None:
        """Order that something is off, by the short topic or by the group's document."""
        if not topic:
            kill = records.encode(Kill(clock, is_killed))
            self._write({names.KILL + what: kill}, group=True)
            return
        orders = msgspec.msgpack.encode([1, self.now_ms, [[what, clock, is_killed, "why"]]])
        self._transport.publish_soon(topics.kill_topic("all"), orders, retain=True)

    def exposure(self, key: str) -> Exposure | None:
        """Return what the device said a flag came to."""
        return records.select(Exposure, names.EXPOSURE, self.values()).get(key)

    def obeyed(self, what: str) -> Obeyed | None:
        """Return what the device said of an order."""
        return records.select(Obeyed, names.OBEYED, self.values()).get(what)

    def waiting(self, deployment: str) -> Waiting | None:
        """Return what the device last said of its wait, None if it never waited."""
        return records.select(Waiting, names.WAITING, self.values()).get(deployment)

    def forget(self, *deployments: str) -> None:
        """Begin the device's desired document anew without these."""
        self._forgotten |= {names.DEPLOYMENT + each for each in deployments}
        self._author.reset()
        self._write({}, group=False)

    def _unforgotten(self, values: Mapping[str, bytes]) -> dict[str, bytes]:
        return {key: value for key, value in values.items() if key not in self._forgotten}

    def say_born(self, run: str = RUN) -> None:
        birth = json.dumps({"online": True, "birth": 1, "run": run}).encode()
        self._transport.publish_soon(topics.HUB_PRESENCE, birth, retain=True)

    def say(self, *messages: Message) -> None:
        """Send the device something, honest or not."""
        self._publish(list(messages))

    # What is known of the device.

    def values(self) -> dict[str, bytes]:
        return values_of(self.held)

    def stages(self, deployment: str) -> list[Stage]:
        found = [stage_of(key[-1]) for key in self.acks(deployment)]
        return [stage for stage in found if stage is not None]

    def acks(self, deployment: str) -> dict[str, Ack]:
        acks = records.select(Ack, names.ACK, self.values())
        mine = {key: ack for key, ack in acks.items() if key.startswith(f"{deployment}/")}
        # Within one millisecond in the order of the ladder: a document keeps none.
        return dict(sorted(mine.items(), key=lambda each: (each[1].boottime_ms, _rung(each[0]))))

    def running(self, component: str) -> Running | None:
        return records.select(Running, names.VERSION, self.values()).get(component)

    async def reached(self, deployment: str, stage: Stage = Stage.ACKNOWLEDGED) -> None:
        """Wait until the device says that a deployment reached a stage."""
        await self.until(lambda: stage in self.stages(deployment))

    async def deployed(self, deployment: str, manifest: Manifest, *, group: bool = False) -> None:
        """Deploy, and wait until the device has acknowledged it."""
        self.deploy(deployment, manifest, group=group)
        await self.reached(deployment)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that the device said makes `condition` true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                news = self._news
                await news.wait()

    # Within.

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator["SmallHub"]:
        """Be there for the length of the block."""
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._transport.run()),
                tasks.create_task(self._receive()),
                tasks.create_task(self._repeat()),
            ]
            try:
                # What is said to groups before would be lost: nobody says it again.
                while not self._transport.connected:
                    await asyncio.sleep(0)
                yield self
            finally:
                for task in running:
                    task.cancel()

    async def _receive(self) -> None:
        while True:
            for event in await self._transport.receive(100):
                match event:
                    case Connected():
                        self.say_born()
                    case Delivery():
                        self._take(event)
                        self._transport.acknowledge(event)

    def _take(self, event: Delivery) -> None:
        topic = topics.parse_topic(event.topic)
        if topic.kind is topics.TopicKind.PRESENCE:
            self.presence.append(json.loads(event.payload))
        elif topic.kind is topics.TopicKind.UP:
            frame = decode_frame(event.payload)
            self.frames_count += 1
            if frame.anchor is not None:
                self.anchors.append(frame.anchor)
            for message in frame.messages:
                step = self._session.receive(message, self._shelf, self._mono_s())
                assert step.offence is None, step.offence
                self._obey(step)
        told, self._news = self._news, asyncio.Event()
        told.set()

    def _obey(self, step: Step) -> None:
        for document, followed in step.store.items():
            if document == self.own and followed.holding is not None:
                self.held = followed.holding
            elif followed.holding is not None:
                self.held_telemetry = followed.holding
        for above in step.reset.values():
            self._author.reset(above=above)
            step.send += self._session.changed(self.desired, self._shelf, self._mono_s()).send
        self._publish(step.send)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self._publish(self._session.due(self._shelf, self._mono_s()).send)

    def _write(self, entries: dict[str, bytes], *, group: bool) -> None:
        if not group:
            if entries:
                self._author.write(entries)
            now = self._mono_s()
            if self._transport.connected:
                self._publish(self._session.opened(self._shelf, now).send)
            return
        self._group.write(entries)
        holding = self._group.holding()
        (frame,) = in_frames(
            [Full("grp/all", holding.epoch, holding.state, [])], sender=b"hub", sent_ms=self.now_ms
        )
        self._transport.publish_soon(topics.group_topic("all"), frame, retain=True)

    def _shelf(self, document: DocumentName) -> Holding | None:
        if document == self.telemetry:
            return self.held_telemetry
        return self.held if document == self.own else self._author.holding()

    def _publish(self, messages: list[Message]) -> None:
        for frame in in_frames(messages, sender=b"hub", sent_ms=self.now_ms):
            self._transport.publish_soon(topics.down_topic(self.device), frame)

    def _mono_s(self) -> float:
        return asyncio.get_running_loop().time()


def _rung(key: str) -> int:
    stage = stage_of(key[-1])
    return list(Stage).index(stage) if stage is not None else -1
