"""A broker inside the process, for tests and for trying things out.

This module owns what the port needs of an MQTT broker: retained messages, wills, persistent
sessions with redelivery, and faults on demand.
It opens no socket and uses no clock.
Its rule: given one seed and one order of calls, everything happens in one order; there are no
timers.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

from sync.transport.filters import matches

HELD_TURNS_MAX = 6
"""A reordered message arrives this many turns of the event loop late, at most."""

PACKET_ID_MAX = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How the way from the broker to a client misbehaves. Ratios are from 0 to 1, per message."""

    loss_ratio: float = 0.0
    duplicate_ratio: float = 0.0
    reorder_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message at the broker."""

    topic: str
    payload: bytes
    qos: int
    retained: bool = False
    duplicate: bool = False


class Client(Protocol):
    """What the broker asks of a connected client."""

    will: Message | None

    def takes(self, unacknowledged_count: int) -> bool:
        """Whether another message may be delivered now."""
        ...

    def deliver(self, message: Message, packet_id: int) -> None:
        """Take a message; the identifier is 0 at QoS 0."""
        ...

    def dropped(self, reason: str) -> None:
        """Learn that the connection is gone."""
        ...


class _Session:
    """What the broker keeps of one client, connected or not."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.filters: dict[str, int] = {}
        self.queue: deque[Message] = deque()
        self.unacknowledged: dict[int, Message] = {}
        self.packet_id = 0
        self.client: Client | None = None
        self.pump_planned = False


class MemoryBroker:
    """The broker. Clients are made with `MemoryTransport(broker, link, ...)`.

    Args:
        seed: Of the faults.
        faults: For every client that `spoil` does not name.
    """

    def __init__(self, *, seed: int = 0, faults: Faults | None = None) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - repeatable faults, not secrecy
        self._faults = faults or Faults()
        self._faults_of: dict[str, Faults] = {}
        self._running = True
        self._cut_off: set[str] = set()
        self._reachable = asyncio.Event()
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, Message] = {}

    # What a test does to it.

    def stop(self, *, forget: bool = False) -> None:
        """Die without a word; wills are not published. `forget` loses sessions and retained."""
        self._running = False
        for session in list(self._sessions.values()):
            self._drop(session, "the broker stopped")
        if forget:
            self._sessions.clear()
            self._retained.clear()

    def start(self) -> None:
        """Accept clients again."""
        self._running = True
        self._announce_reachable()

    def cut(self, client_id: str) -> None:
        """Break the client's connection once: its will is published, it may come back at once."""
        session = self._sessions.get(client_id)
        if session is None or session.client is None:
            return
        will = session.client.will
        self._drop(session, "the connection was cut")
        if will is not None:
            self.route(will)

    def partition(self, client_id: str) -> None:
        """Break the client's connection and keep the client away until `heal`."""
        self._cut_off.add(client_id)
        self.cut(client_id)

    def heal(self, client_id: str) -> None:
        """Let the client in again."""
        self._cut_off.discard(client_id)
        self._announce_reachable()

    def spoil(self, client_id: str, faults: Faults | None) -> None:
        """Set the faults on the way to one client; None takes the common ones again.

        `Faults(loss_ratio=1)` makes a client that is connected, acknowledges and hears nothing.
        """
        if faults is None:
            self._faults_of.pop(client_id, None)
        else:
            self._faults_of[client_id] = faults

    def retained(self) -> dict[str, bytes]:
        """Return the retained payloads by topic."""
        return {topic: message.payload for topic, message in self._retained.items()}

    # What a client does with it.

    async def admitted(self, client_id: str) -> None:
        """Wait until the broker takes this client."""
        while not self._running or client_id in self._cut_off:
            self._reachable.clear()
            await self._reachable.wait()

    def connect(self, client: Client, client_id: str) -> bool:
        """Attach a client, throwing out another of that name; tell whether a session was kept."""
        session = self._sessions.get(client_id)
        kept = session is not None
        if session is None:
            session = self._sessions[client_id] = _Session(client_id)
        elif session.client is not None:
            self._drop(session, "another client took over")
        session.client = client
        return kept

    def disconnect(self, client_id: str) -> None:
        """Detach a client that said goodbye: its will is forgotten."""
        session = self._sessions.get(client_id)
        if session is not None:
            self._drop(session, "stopped")

    def subscribe(self, client_id: str, topic_filter: str, qos: int) -> None:
        """Subscribe and queue the retained messages that match."""
        session = self._sessions[client_id]
        session.filters[topic_filter] = qos
        for message in self._retained.values():
            if matches(topic_filter, message.topic):
                self._enqueue(session, replace(message, retained=True, qos=min(qos, message.qos)))

    def unsubscribe(self, client_id: str, topic_filter: str) -> None:
        """End a subscription."""
        self._sessions[client_id].filters.pop(topic_filter, None)

    def acknowledge(self, client_id: str, packet_id: int) -> None:
        """Forget a delivered message and send what waited behind it."""
        session = self._sessions[client_id]
        session.unacknowledged.pop(packet_id, None)
        self.plan_pump(client_id)

    def route(self, message: Message, *, retain: bool = True) -> bool:
        """Store and pass on a message; tell whether anyone subscribed."""
        if retain:
            if message.payload:
                self._retained[message.topic] = message
            else:
                self._retained.pop(message.topic, None)
        heard = False
        for session in self._sessions.values():
            qos = max(
                (qos for each, qos in session.filters.items() if matches(each, message.topic)),
                default=-1,
            )
            if qos < 0:
                continue
            heard = True
            copy = replace(message, qos=min(qos, message.qos))
            if copy.qos or session.client is not None:
                self._enqueue_with_faults(session, copy)
        return heard

    def plan_pump(self, client_id: str) -> None:
        """Move what waits for this client, at the next turn of the loop."""
        session = self._sessions.get(client_id)
        if session is not None and session.client is not None and not session.pump_planned:
            session.pump_planned = True
            asyncio.get_running_loop().call_soon(self._pump, session)

    # Within.

    def _announce_reachable(self) -> None:
        self._reachable.set()

    def _enqueue_with_faults(self, session: _Session, message: Message) -> None:
        faults = self._faults_of.get(session.client_id, self._faults)
        if faults.loss_ratio and self._rng.random() < faults.loss_ratio:
            return
        count = 2 if faults.duplicate_ratio and self._rng.random() < faults.duplicate_ratio else 1
        for _ in range(count):
            if faults.reorder_ratio and self._rng.random() < faults.reorder_ratio:
                self._hold(session, message, self._rng.randint(1, HELD_TURNS_MAX))
            else:
                self._enqueue(session, message)

    def _hold(self, session: _Session, message: Message, turn_count: int) -> None:
        if self._sessions.get(session.client_id) is not session:
            return  # the broker forgot the session meanwhile
        if turn_count:
            asyncio.get_running_loop().call_soon(self._hold, session, message, turn_count - 1)
        else:
            self._enqueue(session, message)

    def _enqueue(self, session: _Session, message: Message) -> None:
        session.queue.append(message)
        self.plan_pump(session.client_id)

    def _pump(self, session: _Session) -> None:
        session.pump_planned = False
        while (
            session.queue
            and session.client is not None
            and session.client.takes(len(session.unacknowledged))
        ):
            message = session.queue.popleft()
            packet_id = 0
            if message.qos:
                while True:
                    session.packet_id = session.packet_id % PACKET_ID_MAX + 1
                    if session.packet_id not in session.unacknowledged:
                        break
                packet_id = session.packet_id
                session.unacknowledged[packet_id] = message
            session.client.deliver(message, packet_id)

    def _drop(self, session: _Session, reason: str) -> None:
        client, session.client = session.client, None
        again = [replace(each, duplicate=True) for each in session.unacknowledged.values()]
        session.unacknowledged.clear()
        session.queue = deque(each for each in (*again, *session.queue) if each.qos)
        if client is not None:
            client.dropped(reason)
