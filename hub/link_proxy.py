"""A link that can be spoiled on purpose: a TCP proxy on loopback between a device and a broker.

This module owns the faults that the demo and the tests cause: cut, stall, slow down, deafen.
It never stands between real devices and a real broker.
Its rule: it forwards whole MQTT packets, so that a fault begins and ends between packets and what
it says itself never lands inside one.

Format: the fixed header and the PUBLISH and PUBACK packets are the same in MQTT 3.1.1 and 5 as far
as this module reads them (sections 2.2, 3.3.1 and 3.4).
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sync.transport.filters import matches
from sync.transport.packets import PUBLISH, encode_puback

LOOPBACK = "127.0.0.1"
READ_MAX_BYTES = 64 * 1024
PACKET_MAX_BYTES = 4 * 1024 * 1024
"""Largest packet that is forwarded; a larger one ends its connection."""

SETTLE_TURNS = 5
"""Turns of the event loop within which an accepted connection has reached its callback."""

_LENGTH_BYTES_MAX = 4
_QOS_1 = 0x02
_QOS_BITS = 0x06


class LinkProxy:
    """Forwards TCP connections to a broker and spoils them when told to.

    Use it with `async with`; `port` is then where a device connects to.

    Args:
        broker_port: TCP port of the broker on `broker_host`.
        broker_host: Name or address of the broker.
        port: TCP port on loopback to listen on; 0 takes a free one.
        tls: How to speak to the device and to the broker, where they speak TLS.
    """

    def __init__(
        self,
        broker_port: int,
        *,
        broker_host: str = LOOPBACK,
        port: int = 0,
        tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    ) -> None:
        self.port = port
        """Where it listens."""
        self.swallowed_count = 0
        """Messages that a deafened device never saw."""
        self.connection_count = 0
        """Connections that were passed on to the broker."""
        self._broker = (broker_host, broker_port)
        self._tls_in = None if tls is None else tls[0]
        self._tls_out = None if tls is None else tls[1]
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self._deaf_to: str | None = None
        self._bytes_per_s: int | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(
            self._serve, LOOPBACK, self.port, ssl=self._tls_in
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            await close_server(self._server)
        self.cut()
        self.resume()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    # Faults.

    def cut(self) -> None:
        """Break every connection (with a reset) and every new one, until `restore`."""
        self._is_cut = True
        for end in self._ends:
            end.transport.abort()

    def restore(self) -> None:
        """Pass new connections on again."""
        self._is_cut = False

    def stall(self) -> None:
        """Pass nothing on in either direction while connections stay up, until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass on what has gathered and what comes."""
        self._flowing.set()

    def limit(self, bytes_per_s: int | None) -> None:
        """Slow each direction of each connection down to this rate; None lifts the limit."""
        if bytes_per_s is not None and bytes_per_s <= 0:
            raise ValueError(f"bytes_per_s must be above 0, not {bytes_per_s}; use stall()")
        self._bytes_per_s = bytes_per_s

    def deafen(self, topic_filter: str = "#") -> None:
        """Keep the broker's messages on these topics from the device, until `undeafen`.

        QoS 1 messages are acknowledged in the device's name, so broker and hub see a device that
        is connected, answers pings, sends, and takes every message.
        """
        self._deaf_to = topic_filter

    def undeafen(self) -> None:
        """Let the device hear again what comes from now on; what was swallowed is gone."""
        self._deaf_to = None

    # Forwarding.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
        try:
            if not self._is_cut:
                await self._forward(reader, writer)
        except asyncio.CancelledError:
            pass  # this is the end of the task; asyncio logs an error for a cancelled one (3.11)
        finally:
            writer.transport.abort()
            if task is not None:
                self._serving.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_broker, to_broker = await asyncio.open_connection(*self._broker, ssl=self._tls_out)
        except OSError:
            return  # there is no broker: the device sees its connection closed
        ends = {writer, to_broker}
        self._ends |= ends
        self.connection_count += 1
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, to_broker, lambda packet: packet))
                pumps.create_task(
                    self._pump(from_broker, writer, lambda packet: self._hear(packet, to_broker))
                )
        except* (OSError, EOFError):
            pass  # one side is gone, and so is the other, below
        finally:
            self._ends -= ends
            to_broker.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Callable[[bytes], bytes],
    ) -> None:
        """Forward whole packets until one side is gone, which raises EOFError or OSError."""
        gathered = bytearray()
        while True:
            rate = self._bytes_per_s
            # A tenth of a second's worth at a time, or one packet if that is larger.
            chunk = await reader.read(max(1, rate // 10) if rate else READ_MAX_BYTES)
            if not chunk:
                await self._flowing.wait()
                # An end by the peer is an end, not a failure: what was written still leaves.
                with contextlib.suppress(OSError):
                    writer.close()
                    await writer.wait_closed()
                raise EOFError
            gathered += chunk
            await self._flowing.wait()
            out = b"".join([change(packet) for packet in take_packets(gathered)])
            if not out:
                continue
            if rate:
                await asyncio.sleep(len(out) / rate)
            writer.write(out)
            await writer.drain()

    def _hear(self, packet: bytes, to_broker: asyncio.StreamWriter) -> bytes:
        """Return what the device gets of a packet from the broker."""
        if self._deaf_to is None or packet[0] & 0xF0 != PUBLISH:
            return packet
        topic, packet_id = read_publish(packet)
        if not matches(self._deaf_to, topic):
            return packet
        self.swallowed_count += 1
        if packet_id:
            to_broker.write(encode_puback(packet_id))
        return b""


async def close_server(server: asyncio.Server) -> None:
    """Close a server without leaking a connection that it is about to serve.

    asyncio before 3.12 loses one that was accepted one turn of the loop before `close` (its
    transport fails half made), so accepting ends first.
    """
    for each in server.sockets:
        asyncio.get_running_loop().remove_reader(each.fileno())
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)
    server.close()


def take_packets(gathered: bytearray) -> list[bytes]:
    """Remove the whole packets from the front of `gathered` and return them.

    Raises:
        EOFError: This is not MQTT, or a packet is above `PACKET_MAX_BYTES`; give up.
    """
    packets: list[bytes] = []
    start = 0
    while (head := _head_bytes(gathered, start)) is not None:
        length = sum(
            (byte & 0x7F) << 7 * place
            for place, byte in enumerate(gathered[start + 1 : start + head])
        )
        if length > PACKET_MAX_BYTES:
            raise EOFError(f"a packet announces {length} bytes")
        stop = start + head + length
        if stop > len(gathered):
            break
        packets.append(bytes(gathered[start:stop]))
        start = stop
    del gathered[:start]
    return packets


def _head_bytes(gathered: bytearray, start: int) -> int | None:
    """Return the size of the fixed header at `start`, or None while it is incomplete."""
    for place in range(1, _LENGTH_BYTES_MAX + 1):
        if start + place >= len(gathered):
            return None
        if gathered[start + place] < 0x80:  # noqa: PLR2004 - the format's mark of the last byte
            return place + 1
    raise EOFError("a packet's length has more than four bytes")


def read_publish(packet: bytes) -> tuple[str, int]:
    """Return topic and packet identifier (0 at QoS 0) of a whole PUBLISH packet.

    Raises:
        EOFError: It is broken, or has QoS 2, which this program never asks for.
    """
    at = _head_bytes(bytearray(packet[:5]), 0) or len(packet)
    topic_end = at + 2 + int.from_bytes(packet[at : at + 2], "big")
    qos_bits = packet[0] & _QOS_BITS
    if topic_end + qos_bits > len(packet) or qos_bits not in (0, _QOS_1):
        raise EOFError("a message has a broken head or QoS 2")
    packet_id = int.from_bytes(packet[topic_end : topic_end + 2], "big") if qos_bits else 0
    return packet[at + 2 : topic_end].decode(errors="replace"), packet_id
