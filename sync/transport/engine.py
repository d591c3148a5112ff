"""paho-mqtt as the maker and reader of the rare packets of one connection.

This module owns the only use of paho-mqtt: CONNECT, CONNACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE,
DISCONNECT and PINGRESP with all their properties, return codes and versions.
It never sees a socket.
Its rule: paho-mqtt gets a pipe in memory, so name lookup, TCP, TLS, waiting and backpressure are
asyncio's and nothing in here can block the loop.

A fresh paho-mqtt client for each connection also means that none of its state outlives one: it
would otherwise send stale messages again and, at a CONNACK with code 1, fall back to MQTT 3.1 with
a blocking connect.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from sync.transport.packets import CONNACK, LENGTH_MAX
from sync.transport.paho import Client, ConnectFlags, DisconnectFlags
from sync.transport.port import REFUSED_FROM, Birth, Link, Version

UNSUPPORTED_VERSION = 0x84
"""MQTT 5 reason code; paho-mqtt reports code 1 of older brokers as this one, too."""


class ConnectRefused(Exception):
    """The broker, or the way to it, did not accept the connection."""

    def __init__(self, reason: str, *, wrong_version: bool = False, by_broker: bool = True) -> None:
        """Give the reason for people.

        Args:
            reason: One line.
            wrong_version: Another MQTT version may be accepted.
            by_broker: The broker said so; otherwise it is a guess.
        """
        super().__init__(reason)
        self.wrong_version = wrong_version
        self.by_broker = by_broker


class Accepted(NamedTuple):
    """What the broker's CONNACK grants."""

    session_present: bool
    keepalive_s: float
    window_count: int
    """Most QoS 1 messages that the broker takes before it acknowledged one."""
    packet_max_bytes: int


class _Pipe:
    """What paho-mqtt takes for a socket: received packets are put in, written ones come out."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.closed = False
        self._write = write
        self._received = b""
        self._at = 0

    def put(self, packet: bytes) -> None:
        self._received = packet
        self._at = 0

    def recv(self, buffer_size: int) -> bytes:
        piece = self._received[self._at : self._at + buffer_size]
        if not piece:
            raise BlockingIOError
        self._at += len(piece)
        return piece

    def send(self, buffer: bytes | bytearray) -> int:
        self._write(bytes(buffer))
        return len(buffer)

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the signature of a socket
        """Do nothing: a pipe in memory never blocks."""


class _Client(Client):
    """paho-mqtt on a pipe; `_create_socket` is the one private method that this replaces."""

    pipe: _Pipe

    def _create_socket(self) -> _Pipe:
        return self.pipe


class Engine:
    """The control side of one connection.

    Args:
        link: Settings.
        version: MQTT version to speak.
        presence: Topic and payloads of the presence; the offline payload becomes the will.
        write: Takes packets for the broker.
    """

    def __init__(
        self,
        link: Link,
        version: Version,
        presence: tuple[str, Birth] | None,
        write: Callable[[bytes], None],
    ) -> None:
        self.outcome: Accepted | ConnectRefused | None = None
        """The broker's answer to CONNECT, once it came."""
        self.close_reason = ""
        """Why the broker ended the connection, where it said so (MQTT 5)."""
        self.refused_filters: list[str] = []
        """Subscriptions that the broker refused; the reader empties it."""
        self._link = link
        self._version = version
        self._subscribing: dict[int, list[str]] = {}
        self._pipe = _Pipe(write)
        self._client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=link.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311,
            clean_session=None if version == "5" else False,
            manual_ack=True,
            # Without this a CONNACK with code 1 makes paho-mqtt reconnect on its own, as MQTT 3.1.
            reconnect_on_failure=False,
        )
        self._client.pipe = self._pipe
        if link.username is not None:
            self._client.username_pw_set(link.username, link.password)
        if presence is not None:
            self._set_will(*presence)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_disconnect = self._on_disconnect

    @property
    def closed(self) -> bool:
        """Whether the connection is over: the broker ended it, or broke the protocol."""
        return self._pipe.closed

    @property
    def subscribing(self) -> bool:
        """Whether a SUBSCRIBE was written that the broker has not answered."""
        return bool(self._subscribing)

    def connect(self) -> None:
        """Write CONNECT. The session is never started clean."""
        host, port, keepalive_s = self._link.host, self._link.port, self._link.keepalive_s
        if self._version == "3.1.1":
            self._client.connect(host, port, keepalive_s)
            return
        # No TopicAliasMaximum: neither paho-mqtt nor `packets` resolves aliases.
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._link.session_expiry_s
        properties.ReceiveMaximum = self._link.receive_maximum
        # paho-mqtt's own default would start clean on the first connect.
        self._client.connect(host, port, keepalive_s, clean_start=False, properties=properties)

    def read(self, packet: bytes) -> None:
        """Read one whole packet, with its effect on `outcome` and the other results."""
        old_broker = self._version == "3.1.1" and packet[0] == CONNACK and packet[3:] == b"\x01"
        if old_broker:  # paho-mqtt tells nobody about this one
            self.outcome = ConnectRefused(
                "the broker refused: it does not speak MQTT 3.1.1", wrong_version=True
            )
            return
        self._pipe.put(packet)
        self._client.loop_read()

    def subscribe(self, wanted: list[tuple[str, int]]) -> int:
        """Write SUBSCRIBE for these filters and return its packet identifier (0: not connected)."""
        _, packet_id = self._client.subscribe(wanted)
        if packet_id is None:
            return 0
        self._subscribing[packet_id] = [topic_filter for topic_filter, _ in wanted]
        return packet_id

    def unsubscribe(self, topic_filter: str) -> int:
        """Write UNSUBSCRIBE and return its packet identifier (0: not connected)."""
        _, packet_id = self._client.unsubscribe(topic_filter)
        return packet_id or 0

    def disconnect(self) -> None:
        """Write DISCONNECT: the broker keeps the session and forgets the will."""
        self._client.disconnect()

    def _set_will(self, topic: str, birth: Birth) -> None:
        properties = None
        if self._version == "5" and self._link.will_delay_s:
            properties = _properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = self._link.will_delay_s
        self._client.will_set(topic, birth.offline, qos=1, retain=True, properties=properties)

    def _on_connect(
        self, _: Client, __: Any, flags: ConnectFlags, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            wrong_version = reason.value == UNSUPPORTED_VERSION
            self.outcome = ConnectRefused(
                f"the broker refused: {str(reason).lower()}", wrong_version=wrong_version
            )
            return
        self.outcome = Accepted(
            session_present=flags.session_present,
            keepalive_s=float(getattr(properties, "ServerKeepAlive", self._link.keepalive_s)),
            window_count=min(
                self._link.inflight_max_count, getattr(properties, "ReceiveMaximum", 0xFFFF)
            ),
            packet_max_bytes=getattr(properties, "MaximumPacketSize", LENGTH_MAX),
        )

    def _on_subscribe(
        self, _: Client, __: Any, packet_id: int, reasons: list[ReasonCode], ___: Any
    ) -> None:
        filters = self._subscribing.pop(packet_id, [])
        self.refused_filters += [
            topic_filter
            for topic_filter, reason in zip(filters, reasons, strict=False)
            if reason.value >= REFUSED_FROM
        ]

    def _on_disconnect(
        self, _: Client, __: Any, flags: DisconnectFlags, reason: ReasonCode, ___: Any
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.close_reason = f"the broker ended the connection: {str(reason).lower()}"


def _properties(packet_type: int) -> Any:
    # paho-mqtt's Properties is untyped; its attributes appear when they are set.
    return cast("Any", Properties)(packet_type)
