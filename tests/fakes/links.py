"""What transport tests share: one way to make clients, and to do harm, over each kind of broker.

A `Bench` is a broker with clients; `MemoryBench` and `RealBench` are the kinds.
Each client of a real broker goes through a proxy of its own, so that its link alone can be spoiled.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, Protocol

from hub.link_proxy import LinkProxy
from sync.transport.memory import MemoryTransport
from sync.transport.memory_broker import MemoryBroker
from sync.transport.mqtt import MqttTransport
from sync.transport.port import (
    Birth,
    Connected,
    Delivery,
    Disconnected,
    Event,
    Link,
    Presence,
    Subscription,
    Transport,
)
from tests.system.brokers import RealBroker

PATIENCE_S = 30.0
"""A test that waits longer for an event has failed; none depends on how fast one comes."""


class Bench(Protocol):
    """A broker with clients."""

    redelivers_at_reconnect: bool
    """Whether an unacknowledged message comes again as soon as the client is back."""

    async def client(
        self,
        client_id: str,
        *,
        subscriptions: Sequence[Subscription] = (),
        presence: Presence | None = None,
        **settings: Any,
    ) -> Transport: ...
    def cut(self, client_id: str) -> None: ...
    def keep_out(self, client_id: str) -> None: ...
    def let_in(self, client_id: str) -> None: ...
    def kill(self) -> None: ...
    async def restart(self, *, forget: bool) -> None: ...


class MemoryBench:
    """Clients of a broker in memory."""

    redelivers_at_reconnect = True

    def __init__(self) -> None:
        self.broker = MemoryBroker()

    async def client(
        self,
        client_id: str,
        *,
        subscriptions: Sequence[Subscription] = (),
        presence: Presence | None = None,
        **settings: Any,
    ) -> Transport:
        link = Link(client_id=client_id, **settings)
        return MemoryTransport(self.broker, link, subscriptions=subscriptions, presence=presence)

    def cut(self, client_id: str) -> None:
        self.broker.cut(client_id)

    def keep_out(self, client_id: str) -> None:
        self.broker.partition(client_id)

    def let_in(self, client_id: str) -> None:
        self.broker.heal(client_id)

    def kill(self) -> None:
        self.broker.stop()

    async def restart(self, *, forget: bool) -> None:
        self.broker.stop(forget=forget)
        self.broker.start()


class RealBench:
    """Clients of a real broker, each through a proxy of its own."""

    def __init__(
        self,
        broker: RealBroker,
        version: Literal["auto", "3.1.1", "5"],
        stack: AsyncExitStack,
        *,
        redelivers_at_reconnect: bool,
    ) -> None:
        self.redelivers_at_reconnect = redelivers_at_reconnect
        self.broker = broker
        self.proxies: dict[str, LinkProxy] = {}
        self._version: Literal["auto", "3.1.1", "5"] = version
        self._stack = stack

    async def client(
        self,
        client_id: str,
        *,
        subscriptions: Sequence[Subscription] = (),
        presence: Presence | None = None,
        **settings: Any,
    ) -> Transport:
        proxy = await self._stack.enter_async_context(LinkProxy(self.broker.port))
        self.proxies[client_id] = proxy
        quick = {"reconnect_min_s": 0.02, "reconnect_max_s": 0.1, "will_delay_s": 0}
        link = Link(
            client_id=client_id, port=proxy.port, version=self._version, **(quick | settings)
        )
        return MqttTransport(link, subscriptions=subscriptions, presence=presence)

    def cut(self, client_id: str) -> None:
        self.proxies[client_id].cut()
        self.proxies[client_id].restore()

    def keep_out(self, client_id: str) -> None:
        self.proxies[client_id].cut()

    def let_in(self, client_id: str) -> None:
        self.proxies[client_id].restore()

    def kill(self) -> None:
        self.broker.kill()

    async def restart(self, *, forget: bool) -> None:
        await self.broker.restart(forget=forget)


@asynccontextmanager
async def running(*transports: Transport) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Run transports, each until its `Connected`, and stop them in the end."""
    tasks = [asyncio.create_task(each.run()) for each in transports]
    try:
        for each in transports:
            await until(each, is_connected)
        yield tasks
    finally:
        for task in tasks:
            await stop(task)


async def stop(task: "asyncio.Task[None]") -> None:
    """Cancel a running transport and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until(
    transport: Transport, last: Callable[[Event], bool], *, acknowledge: bool = True
) -> list[Event]:
    """Receive until an event for which `last` holds; return all, that one included.

    Events are taken one by one, so none behind the last is lost.
    """
    seen: list[Event] = []
    async with asyncio.timeout(PATIENCE_S):
        while not seen or not last(seen[-1]):
            (event,) = await transport.receive(1)
            seen.append(event)
            if isinstance(event, Delivery) and acknowledge:
                transport.acknowledge(event)
    return seen


async def stands(transport: Transport, topic: str) -> None:
    """Wait until the broker delivers on `topic` to a transport that has subscribed to it.

    What is published while a subscription is being made, some brokers lose.
    """
    await transport.publish(topic, b"stands")
    await until(transport, carries(b"stands"))


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds that no event reports, such as a counter or another process."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def is_connected(event: Event) -> bool:
    return isinstance(event, Connected)


def is_disconnected(event: Event) -> bool:
    return isinstance(event, Disconnected)


def carries(payload: bytes) -> Callable[[Event], bool]:
    """Return a test for a delivery of this payload."""
    return lambda event: isinstance(event, Delivery) and event.payload == payload


def payloads(events: Sequence[Event], topic: str | None = None) -> list[bytes]:
    """Return the payloads of the deliveries (on one topic)."""
    return [
        event.payload
        for event in events
        if isinstance(event, Delivery) and topic in (None, event.topic)
    ]


class Births:
    """Numbered births, as a program makes them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Birth:
        self.count += 1
        number = str(self.count).encode()
        return Birth(b"online " + number, b"offline " + number, b"stopped " + number)
