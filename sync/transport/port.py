"""The port between the program and the broker: what a transport promises, and what it reports.

This module owns the vocabulary that `mqtt` and `memory` share: the settings of a link, the events
that a transport reports, its counters and its errors.
It never does I/O.
Its rule: **a transport is a hint, not a promise.**
Nothing that a transport reports (not even a PUBACK) proves that the other side has a message.
Messages can be lost, repeated and reordered; the session above resends until the other side's
state vector says that it holds the writes.

How a program uses a transport:

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(transport.run(), name="transport")
        while True:
            events = await transport.receive(500)
            ...                                   # one durable commit for all of them
            for event in events:
                if isinstance(event, Delivery):
                    transport.acknowledge(event)
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final, Literal, NamedTuple, Protocol

Version = Literal["3.1.1", "5"]
"""A version of MQTT that a connection speaks."""

NO_SUBSCRIBER: Final = 0x10
"""MQTT 5 reason code of a PUBACK: nobody was subscribed. A hint only: a broker that keeps a session
for an absent client, or has any wildcard subscriber, does not say it."""

CLIENT_ID_MAX_CHARS: Final = 128
"""Longest client id; every broker takes 23, the measured ones far more."""

UINT16_MAX: Final = 65_535
"""Largest value of the 16-bit fields of MQTT: keepalive, receive maximum, TCP port."""

REFUSED_FROM: Final = 0x80
"""MQTT 5 reason codes from here on say that the broker did not take the message."""


class TransportError(Exception):
    """Base of everything a transport raises on purpose."""


class LinkDown(TransportError):
    """There is no connection, or it broke while waiting; nobody is to blame.

    The message may or may not have arrived: send again once `Connected` is reported.
    """


class PublishTimedOut(TransportError):
    """The broker did not acknowledge in time. The message is still on its way and may arrive."""


class Congested(TransportError):
    """The outbound queue is full: the caller is faster than the link.

    The message was not taken; everything queued before it still goes out.
    """


class PublishRefused(TransportError):
    """The broker took the message and says that it will not pass it on (access, quota, name)."""

    def __init__(self, topic: str, reason_code: int) -> None:
        """Name the topic and the MQTT 5 reason code (128 and above)."""
        super().__init__(
            f"the broker refused a message on {topic} (reason 0x{reason_code:02x}): "
            "check its access rules and limits for this client"
        )
        self.topic = topic
        self.reason_code = reason_code


class Delivery(NamedTuple):
    """One message from the broker.

    Delivered at least once, in the order in which the broker sent it.
    """

    topic: str
    payload: bytes
    retained: bool
    """It was stored at the broker before the subscription; says nothing about its age."""
    duplicate: bool
    """The broker says it sent this before. It may also repeat a message without saying so."""
    receipt: int
    """For `Transport.acknowledge`; 0 when there is nothing to acknowledge (QoS 0)."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection and confirmed the subscriptions, or delivers already.

    Every delivery of a connection comes after this event, and the answer to whatever is published
    after it finds the subscriptions in place.
    """

    at_mono: float
    """Seconds on the transport's monotonic clock."""
    session_present: bool
    """The broker says that it kept the session. A hint: it may have lost messages all the same."""
    version: Version


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection that `Connected` reported is gone; the transport already tries again.

    What was queued or unacknowledged for it was dropped (`Counters.dropped_link_lost_count`).
    """

    at_mono: float
    reason: str
    """One line for people."""


Event = Delivery | Connected | Disconnected


class Published(NamedTuple):
    """What the broker said about a message. Not a proof that anyone received it."""

    reason_code: int | None
    """MQTT 5 reason code of the PUBACK; None where there is none (QoS 0, MQTT 3.1.1)."""

    @property
    def nobody_listens(self) -> bool:
        """Whether the broker knew of no subscriber: an immediate hint of a silent failure."""
        return self.reason_code == NO_SUBSCRIBER


class Birth(NamedTuple):
    """Payloads of one connection's presence; they carry the same birth number."""

    online: bytes
    """Published, retained, as soon as the connection stands."""
    offline: bytes
    """The will: published, retained, by the broker when the connection dies."""
    stopped: bytes | None = None
    """Published, retained, by a clean stop; None means the same as `offline`."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Where this client announces itself, and with what."""

    topic: str
    birth: Callable[[], Birth]
    """Called before every attempt to connect, because a birth number is used only once."""


class Subscription(NamedTuple):
    """A topic filter, and the highest QoS (0 or 1) at which the broker may deliver."""

    topic_filter: str
    qos: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Settings of one link to a broker. Durations are in seconds, sizes in bytes.

    Raises:
        ValueError: A value makes no sense; the caller is to blame.
    """

    client_id: str
    """Name of this client at the broker; two clients with one name throw each other out."""
    host: str = "127.0.0.1"
    """Name or address of the broker."""
    port: int = 1883
    """TCP port of the broker."""
    username: str | None = None
    """Name to sign in with, where the broker wants one."""
    password: str | None = None
    """Password to sign in with."""
    tls: ssl.SSLContext | None = None
    """How to encrypt and whom to trust; None speaks plain TCP."""
    version: Literal["auto", "3.1.1", "5"] = "auto"
    """MQTT version; "auto" tries 5, falls back to 3.1.1 and remembers what worked."""
    keepalive_s: int = 60
    """Silence after which the link is probed; a dead link is noticed within twice this time."""
    connect_max_s: float = 10.0
    """Longest time for name lookup, TCP, TLS and the broker's answers together."""
    reconnect_min_s: float = 1.0
    """Scale of the first wait before another attempt; each wait is random between 0 and its scale,
    and the scale doubles with each failure."""
    reconnect_max_s: float = 60.0
    """Largest scale of a wait between two attempts."""
    stable_s: float = 10.0
    """A connection that lived this long resets the waits; a shorter one counts as a failure."""
    close_max_s: float = 2.0
    """Longest time that a clean stop may take to say goodbye."""
    session_expiry_s: int = 7 * 24 * 3600
    """How long the broker keeps the session after a disconnect (MQTT 5 only)."""
    will_delay_s: int = 10
    """How long the broker waits before it publishes the will (MQTT 5 only): a short cut stays
    unseen."""
    receive_maximum: int = 1000
    """Most unacknowledged QoS 1 messages the broker may send (MQTT 5 only)."""
    inflight_max_count: int = 20
    """Most QoS 1 messages of ours awaiting a PUBACK; a lower limit named by the broker wins."""
    puback_max_s: float = 30.0
    """With that many awaiting a PUBACK, silence of PUBACKs after which the link counts as dead."""
    outbound_max_count: int = 10_000
    """Most messages waiting to go out; beyond it `Congested` is raised."""
    outbound_max_bytes: int = 16 * 1024 * 1024
    """Most bytes waiting to go out; beyond it `Congested` is raised."""
    inbound_max_count: int = 2_000
    """Events waiting for `receive` at which the socket is no longer read."""
    inbound_max_bytes: int = 8 * 1024 * 1024
    """Payload bytes waiting for `receive` at which the socket is no longer read."""
    payload_max_bytes: int = 1024 * 1024
    """Largest payload taken from the broker; a larger one is acknowledged, dropped and counted,
    and never held in memory. Publishing a larger one is an error of the caller."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not self.client_id.isascii() or not 1 <= len(self.client_id) <= CLIENT_ID_MAX_CHARS:
            raise ValueError(
                f"client_id must be 1 to {CLIENT_ID_MAX_CHARS} ASCII characters, "
                f"not {self.client_id!r}"
            )
        for name in ("port", "keepalive_s", "receive_maximum"):
            if not 1 <= getattr(self, name) <= UINT16_MAX:
                raise ValueError(f"{name} must be 1 to {UINT16_MAX}, not {getattr(self, name)}")
        if not 0 < self.reconnect_min_s <= self.reconnect_max_s:
            raise ValueError("reconnect_min_s must be above 0 and at most reconnect_max_s")
        for name in (
            "connect_max_s",
            "close_max_s",
            "puback_max_s",
            "inflight_max_count",
            "outbound_max_count",
            "outbound_max_bytes",
            "inbound_max_count",
            "inbound_max_bytes",
            "payload_max_bytes",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


@dataclass(slots=True)
class Counters:
    """What a transport has seen since it was made. Every value only grows."""

    connect_count: int = 0
    """Connections that the broker accepted."""
    connect_failed_count: int = 0
    """Attempts that ended before the broker accepted."""
    disconnect_count: int = 0
    """Accepted connections that ended without our asking."""
    received_count: int = 0
    """Messages handed to the program."""
    received_bytes: int = 0
    """Payload bytes handed to the program."""
    acknowledged_count: int = 0
    """PUBACKs sent on behalf of the program."""
    stale_acknowledge_count: int = 0
    """Acknowledgements that came after their connection was gone; the broker sends again."""
    oversize_count: int = 0
    """Messages dropped because their payload was above `Link.payload_max_bytes`."""
    bad_topic_count: int = 0
    """Messages dropped because their topic was not UTF-8."""
    malformed_count: int = 0
    """Packets that broke the protocol; each ends its connection."""
    pause_count: int = 0
    """Times that reading stopped because the program was behind."""
    sent_count: int = 0
    """Messages written to a connection."""
    sent_bytes: int = 0
    """Payload bytes written to a connection."""
    puback_count: int = 0
    """Messages that the broker acknowledged."""
    nobody_listens_count: int = 0
    """Acknowledged messages that had no subscriber, where the broker says so."""
    publish_refused_count: int = 0
    """Messages that the broker answered with a refusal."""
    subscribe_refused_count: int = 0
    """Subscriptions that the broker answered with a refusal."""
    dropped_not_connected_count: int = 0
    """Messages given to `publish_soon` while there was no connection."""
    dropped_link_lost_count: int = 0
    """Messages queued or awaiting a PUBACK when their connection ended."""
    congested_count: int = 0
    """Messages refused because the outbound queue was full."""

    def as_dict(self) -> dict[str, int]:
        """Return name and value of each counter, for a log line or a metrics page."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


class Transport(Protocol):
    """A link to a broker that mends itself."""

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        ...

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as reported by `Connected`, at this moment."""
        ...

    async def run(self) -> None:
        """Keep the connection up until cancelled, waiting with full jitter between attempts.

        Call it in the caller's task group; once it has ended it may be called again.
        On cancellation it sends what is queued, publishes `Birth.stopped`, disconnects cleanly and
        closes, all within `Link.close_max_s`, and then re-raises the cancellation.

        Raises:
            RuntimeError: It runs already; the caller is to blame.
        """
        ...

    async def receive(self, max_count: int) -> list[Event]:
        """Wait for at least one event, then return all that are waiting, up to `max_count`.

        The events that gathered during one commit make the next: a natural group commit.
        While nobody calls this, a bounded number of events gathers and then the socket is no
        longer read.

        Raises:
            RuntimeError: Somebody else is already waiting; the caller is to blame.
        """
        ...

    def acknowledge(self, delivery: Delivery) -> None:
        """Tell the broker that the message was dealt with; call it after the durable commit.

        Acknowledge in the order of delivery, as MQTT asks.
        Without effect at QoS 0, and when the connection that brought the message is gone: the
        broker then delivers it again.
        """
        ...

    def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> bool:
        """Hand a message to the link and return at once.

        Messages of one QoS keep their order; QoS 0 does not wait behind QoS 1.

        Returns:
            False if there is no connection: the message is dropped and counted, because the
            session says everything again after `Connected`. True otherwise, which promises nothing.

        Raises:
            Congested: The outbound queue is full. Nothing was taken; back off.
            ValueError: The topic or payload can never be sent; the caller is to blame.
        """
        ...

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        deadline_s: float = 10.0,
    ) -> Published:
        """Send a message and wait for the broker's PUBACK (QoS 0: until it is handed over).

        Raises:
            LinkDown: No connection, or it broke while waiting.
            PublishTimedOut: No PUBACK within `deadline_s`; the message may still arrive.
            PublishRefused: The broker said that it will not pass the message on.
            Congested: The outbound queue is full.
            ValueError: The topic or payload can never be sent; the caller is to blame.
        """
        ...

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Want messages on `topic_filter` from now on and after every reconnect.

        Subscribing again asks the broker to send retained messages again.
        """
        ...

    def unsubscribe(self, topic_filter: str) -> None:
        """Want no more messages on `topic_filter`; some that are under way may still come."""
        ...
