"""The transport over a real broker: makes connections, one after the other, and keeps one up.

This module owns when to connect, which MQTT version to try, how long to wait in between, and the
goodbye at the end.
It never looks into a payload, and it promises nothing about delivery (see `port`).
Its rule: nothing here blocks the event loop, and cancelling `run` ends within
`Link.close_max_s`.

It needs nothing beyond MQTT 3.1.1.
Where the broker speaks MQTT 5 it also uses the will's delay, the session's expiry, the receive
maximum and reason codes, as improvements and hints.
"""

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import threading
from collections.abc import Sequence

from sync.transport.connection import Connection
from sync.transport.engine import ConnectRefused
from sync.transport.filters import check_filter, check_message
from sync.transport.inbox import Inbox
from sync.transport.port import (
    Birth,
    Counters,
    Delivery,
    Disconnected,
    Event,
    Link,
    LinkDown,
    Presence,
    Published,
    PublishTimedOut,
    Subscription,
    TransportError,
    Version,
)

logger = logging.getLogger(__name__)


class MqttTransport:
    """A link to an MQTT broker that mends itself; see `port.Transport` for every method.

    Args:
        link: Settings.
        subscriptions: Made on every connect; more can follow with `subscribe`.
        presence: Where and how this client announces itself, if it does.
        rng: Source of jitter; give a seeded one to a test.
    """

    def __init__(
        self,
        link: Link,
        *,
        subscriptions: Sequence[Subscription] = (),
        presence: Presence | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.last_failure = ""
        """Why there is no connection, for people; "" while there is one."""
        self._link = link
        for each in subscriptions:
            check_filter(each.topic_filter, each.qos)
        self._subscriptions = {each.topic_filter: each.qos for each in subscriptions}
        self._presence = presence
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrecy
        self._counters = Counters()
        self._inbox = Inbox(
            max_count=link.inbound_max_count,
            max_bytes=link.inbound_max_bytes,
            counters=self._counters,
        )
        self._inbox.on_room = self._on_room
        self._connection: Connection | None = None
        self._connection_number = 0
        self._running = False
        self._version: Version = "3.1.1" if link.version == "3.1.1" else "5"
        self._other_version_tried = False

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        return self._counters

    @property
    def connected(self) -> bool:
        """Whether there is an accepted connection at this moment."""
        return self._connection is not None and self._connection.live

    # Messages.

    async def receive(self, max_count: int) -> list[Event]:
        """Wait for at least one event, then return all that wait, up to `max_count`."""
        return await self._inbox.take(max_count)

    def acknowledge(self, delivery: Delivery) -> None:
        """Tell the broker that the message was dealt with."""
        if not delivery.receipt:
            return
        if self._connection is not None and self._connection.acknowledge(delivery.receipt):
            self._counters.acknowledged_count += 1
        else:
            self._counters.stale_acknowledge_count += 1

    def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> bool:
        """Hand a message to the link and return at once; False if there is no connection."""
        encoded = check_message(self._link, topic, payload, qos)
        connection = self._connection
        if connection is None or not connection.live:
            self._counters.dropped_not_connected_count += 1
            return False
        connection.outbox.publish(encoded, payload, retain=retain, qos=qos)
        return True

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        deadline_s: float = 10.0,
    ) -> Published:
        """Send a message and wait for the broker's PUBACK.

        While a full inbox keeps the socket from being read, no PUBACK arrives either; do not wait
        here from the task that receives.
        """
        encoded = check_message(self._link, topic, payload, qos)
        connection = self._connection
        if connection is None or not connection.live:
            raise LinkDown(f"no connection to the broker: {self.last_failure or 'not tried yet'}")
        done: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        connection.outbox.publish(encoded, payload, retain=retain, qos=qos, done=done)
        try:
            async with asyncio.timeout(deadline_s):
                return await done
        except TimeoutError:
            raise PublishTimedOut(
                f"the broker did not acknowledge a message on {topic} within {deadline_s} s"
            ) from None

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Want messages on `topic_filter` from now on and after every reconnect."""
        check_filter(topic_filter, qos)
        self._subscriptions[topic_filter] = qos
        if self._connection is not None and self._connection.live:
            self._connection.subscribe([(topic_filter, qos)])

    def unsubscribe(self, topic_filter: str) -> None:
        """Want no more messages on `topic_filter`."""
        if self._subscriptions.pop(topic_filter, None) is None:
            return
        if self._connection is not None and self._connection.live:
            self._connection.unsubscribe(topic_filter)

    def _on_room(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    # Running.

    async def run(self) -> None:
        """Keep the connection up until cancelled; then say goodbye within `Link.close_max_s`."""
        if self._running:
            raise RuntimeError("this transport runs already")
        self._running = True
        try:
            await self._keep_up()
        finally:
            self._running = False

    async def _keep_up(self) -> None:
        failure_count = 0
        while True:
            # A program that takes no events gets no new connection to fill: two events each
            # would gather without limit.
            await self._inbox.room()
            lived_s, try_other_version = await self._connect_and_stay()
            if try_other_version:
                continue
            failure_count = 0 if lived_s >= self._link.stable_s else failure_count + 1
            await asyncio.sleep(self._wait_s(failure_count))

    async def _connect_and_stay(self) -> tuple[float, bool]:
        """Run one connection from attempt to end.

        Returns:
            How long it stood, in seconds, and whether to try the other MQTT version at once.
        """
        loop = asyncio.get_running_loop()
        version = self._version
        birth = None if self._presence is None else self._presence.birth()
        self._connection_number += 1
        connection = Connection(
            self._link,
            version,
            self._connection_number,
            subscriptions=self._subscriptions,
            presence=self._announce(birth),
            inbox=self._inbox,
            counters=self._counters,
        )
        self._connection = connection
        try:
            try:
                async with asyncio.timeout(self._link.connect_max_s):
                    await self._open(connection)
                    accepted = await connection.accepted
            except (OSError, ConnectRefused) as failure:  # a TimeoutError is an OSError
                return 0.0, self._on_failed(failure)
            self._on_accepted(version, session_present=accepted.session_present)
            started_at = loop.time()
            reason = await asyncio.shield(connection.ended)
            self._on_lost(reason)
            return loop.time() - started_at, False
        except asyncio.CancelledError:
            await self._leave(connection)
            raise
        finally:
            connection.abort("given up")
            self._connection = None

    async def _open(self, connection: Connection) -> None:
        """Connect to the first address that answers."""
        loop = asyncio.get_running_loop()
        link = self._link
        failure: OSError = OSError(f"{link.host} has no address")
        for address in await _resolve(link.host, link.port):
            try:
                await loop.create_connection(
                    lambda: connection,
                    address,
                    link.port,
                    ssl=link.tls,
                    server_hostname=link.host if link.tls is not None else None,
                )
            except OSError as refused:
                failure = refused
            else:
                return
        raise failure

    async def _leave(self, connection: Connection) -> None:
        if not connection.live:
            return
        # Not `asyncio.timeout`: before Python 3.11.4 it does not end in a task that was cancelled,
        # and being cancelled is how one usually leaves.
        goodbye = asyncio.ensure_future(connection.farewell())
        try:
            await asyncio.wait({goodbye}, timeout=self._link.close_max_s)
        finally:
            answered = goodbye.done()
            goodbye.cancel()
        if answered:
            failure = goodbye.exception()
            if failure is None:
                return
            if not isinstance(failure, TransportError):
                raise failure
            why = str(failure)
        else:
            why = f"no answer within {self._link.close_max_s} s"
        logger.warning(
            "left the broker at %s:%d without a goodbye, its will is published instead: %s",
            self._link.host,
            self._link.port,
            why,
        )

    def _announce(self, birth: Birth | None) -> tuple[str, Birth] | None:
        if birth is None or self._presence is None:
            return None
        return self._presence.topic, birth

    def _wait_s(self, failure_count: int) -> float:
        """Return a wait with full jitter: anything from nothing to the scale, evenly."""
        doublings = min(failure_count, 32)
        scale_s = min(self._link.reconnect_max_s, self._link.reconnect_min_s * 2**doublings)
        return self._rng.uniform(0, scale_s)

    # What is remembered and logged: one line for each change.

    def _on_accepted(self, version: Version, *, session_present: bool) -> None:
        self._counters.connect_count += 1
        self.last_failure = ""
        self._other_version_tried = False
        logger.info(
            "connected to the broker at %s:%d as %s (MQTT %s, session %s)",
            self._link.host,
            self._link.port,
            self._link.client_id,
            version,
            "kept" if session_present else "new",
        )

    def _on_lost(self, reason: str) -> None:
        self._counters.disconnect_count += 1
        self.last_failure = reason
        self._inbox.add(Disconnected(asyncio.get_running_loop().time(), reason))
        logger.warning(
            "lost the broker at %s:%d, connecting again: %s",
            self._link.host,
            self._link.port,
            reason,
        )

    def _on_failed(self, failure: OSError | ConnectRefused) -> bool:
        """Count and log a failed attempt; return whether to try the other version at once."""
        self._counters.connect_failed_count += 1
        if self._other_version_may_do(failure):
            self._version = "3.1.1" if self._version == "5" else "5"
            self._other_version_tried = not self._other_version_tried
            if self._other_version_tried:
                return True
        text = str(failure) or f"no answer within {self._link.connect_max_s} s"
        if text != self.last_failure:
            logger.warning(
                "no connection to the broker at %s:%d, trying again: %s",
                self._link.host,
                self._link.port,
                text,
            )
        self.last_failure = text
        return False

    def _other_version_may_do(self, failure: OSError | ConnectRefused) -> bool:
        if self._link.version != "auto" or not isinstance(failure, ConnectRefused):
            return False
        # Closing without a word may mean the version, but only of a broker never seen to accept:
        # a broker that shuts down does the same.
        return failure.wrong_version and (failure.by_broker or not self._counters.connect_count)


async def _resolve(host: str, port: int) -> list[str]:
    """Return the addresses of `host`.

    A thread of its own does the lookup: asyncio's executor is waited for when the program ends,
    and a resolver without a network can take half a minute.

    Raises:
        OSError: There is no such name, or nobody to ask.
    """
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def look_up() -> None:
        answer: list[str] | OSError
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except OSError as failure:
            answer = failure
        except UnicodeError:
            answer = OSError(f"{host!r} is not a host name")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, answer)

    def finish(answer: list[str] | OSError) -> None:
        if found.done():
            return
        if isinstance(answer, OSError):
            found.set_exception(answer)
        else:
            found.set_result(answer)

    threading.Thread(target=look_up, name=f"lookup-{host}", daemon=True).start()
    return await found
