"""The two MQTT packets that make up the traffic, PUBLISH and PUBACK, as bytes.

This module owns their encoding and the splitting of the byte stream into packets.
It does no I/O, and every other packet passes through it unread (paho-mqtt reads those).
Its rule: nothing that the stream claims about its own length makes this hold more than a payload
of the permitted size.

Why not leave these two to paho-mqtt as well: measured with 200-byte payloads and a buffered socket
(so without its four `recv` calls a packet), paho-mqtt 2.2 takes 7 to 18 microseconds to read a
PUBLISH, 5 to 20 to send one, and it gathers any announced payload, up to 256 MB, before the program
is asked. Here it is about 1 microsecond each way, and too large a payload is never gathered.

Format: MQTT 3.1.1 (OASIS, 2014) and MQTT 5.0 (OASIS, 2019), sections 2.2, 3.3 and 3.4.
"""

# ruff: noqa: PLR2004 - the numbers are those of the format

import struct
from typing import Final, Protocol

PUBLISH: Final = 0x30
PUBACK: Final = 0x40
CONNACK: Final = 0x20
RETAIN: Final = 0x01
DUP: Final = 0x08
PINGREQ_PACKET: Final = b"\xc0\x00"

REST_MAX_BYTES: Final = 256 * 1024
"""Largest packet that is neither PUBLISH nor PUBACK. A SUBACK of 1000 filters has about 1 kB."""

LENGTH_MAX: Final = 268_435_455
"""Largest remaining length that MQTT can express (section 2.2.3)."""

_PUBACK: Final = struct.Struct("!BBH")


class Malformed(Exception):
    """The byte stream is not MQTT. The broker is to blame and the connection cannot go on."""


class Sink(Protocol):
    """Takes what `Splitter` finds, in the order of the stream."""

    def on_publish(self, topic: bytes, payload: bytes, flags: int, packet_id: int) -> None:
        """Take a message; `flags` is the packet's first byte, `packet_id` is 0 at QoS 0."""
        ...

    def on_oversize(self, packet_id: int) -> None:
        """Learn that a message was too large and is being skipped."""
        ...

    def on_puback(self, packet_id: int, reason_code: int | None) -> None:
        """Take an acknowledgement; the reason is None under MQTT 3.1.1."""
        ...

    def on_rest(self, packet: bytes) -> None:
        """Take any other packet, whole."""
        ...


def encode_length(length: int) -> bytes:
    """Return `length` as an MQTT variable byte integer."""
    if length < 0x80:
        return bytes((length,))
    out = bytearray()
    while True:
        length, low = divmod(length, 0x80)
        out.append(low | 0x80 if length else low)
        if not length:
            return bytes(out)


def encode_publish(
    topic: bytes, payload: bytes, *, qos: int, retain: bool, packet_id: int, version5: bool
) -> bytes:
    """Return a PUBLISH packet without properties; `packet_id` counts only at QoS 1."""
    middle = packet_id.to_bytes(2, "big") if qos else b""
    if version5:
        middle += b"\x00"  # no properties
    length = 2 + len(topic) + len(middle) + len(payload)
    return b"".join(
        (
            bytes((PUBLISH | qos << 1 | retain,)),
            encode_length(length),
            len(topic).to_bytes(2, "big"),
            topic,
            middle,
            payload,
        )
    )


def encode_puback(packet_id: int) -> bytes:
    """Return a PUBACK that says success; the short form is legal in both versions."""
    return _PUBACK.pack(PUBACK, 2, packet_id)


class Splitter:
    """Cuts a stream of bytes into packets and reads the two frequent kinds.

    Args:
        sink: Gets the packets.
        version5: Whether the connection speaks MQTT 5.
        payload_max_bytes: Largest payload that is gathered and handed over.
    """

    __slots__ = (
        "_need_bytes",
        "_partial",
        "_payload_max_bytes",
        "_sink",
        "_skip_bytes",
        "_version5",
    )

    def __init__(self, sink: Sink, *, version5: bool, payload_max_bytes: int) -> None:
        self._sink = sink
        self._version5 = version5
        self._payload_max_bytes = payload_max_bytes
        self._partial = bytearray()
        self._need_bytes = 0
        self._skip_bytes = 0

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished packet is held."""
        return len(self._partial)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream and hand every finished packet to the sink.

        Raises:
            Malformed: The stream is broken; packets before the break were handed over, and the
                splitter must not be used again.
        """
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(chunk))
            self._skip_bytes -= skipped
            if skipped == len(chunk):
                return
            chunk = chunk[skipped:]
        if self._partial:
            # A growing array, looked at again only once it can hold the packet: linear however
            # small the pieces are.
            self._partial += chunk
            if len(self._partial) < self._need_bytes:
                return
            chunk = bytes(self._partial)
            self._partial.clear()
        start = self._packets(chunk)
        if start < len(chunk):
            self._partial += chunk[start:]

    # One loop without a call per packet: a method for each kind was measured at twice the time.
    def _packets(self, chunk: bytes) -> int:  # noqa: C901, PLR0912, PLR0915
        """Hand over the whole packets in `chunk`; return where the unfinished one starts."""
        sink = self._sink
        version5 = self._version5
        payload_max = self._payload_max_bytes
        end = len(chunk)
        start = 0
        while end - start >= 2:
            first = chunk[start]
            length = chunk[start + 1]
            body = start + 2
            if length >= 0x80:
                length &= 0x7F
                shift = 7
                while True:
                    if body == end:
                        self._need_bytes = end - start + 1
                        return start
                    byte = chunk[body]
                    body += 1
                    length |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                    shift += 7
                    if shift > 21:
                        raise Malformed("a packet's length has more than four bytes")
            stop = body + length
            kind = first & 0xF0
            if kind == PUBLISH:
                if length > payload_max:
                    outcome = self._large(chunk, start, body, length)
                    if outcome is not None:
                        if outcome == start:
                            return start
                        start = outcome
                        continue
                if stop > end:
                    self._need_bytes = stop - start
                    return start
                if length < 2:
                    raise Malformed("a message has no topic")
                at = topic_end = body + 2 + (chunk[body] << 8 | chunk[body + 1])
                packet_id = 0
                if first & 0x06:
                    at += 2
                    if at > stop or first & 0x04:
                        raise Malformed("a message has a broken head or QoS 2")
                    packet_id = chunk[at - 2] << 8 | chunk[at - 1]
                    if not packet_id:
                        raise Malformed("a message has the packet identifier 0")
                if version5:
                    at = _skip_properties(chunk, at, stop)
                if at > stop or topic_end == body + 2:
                    raise Malformed("a message has a broken head")
                sink.on_publish(chunk[body + 2 : topic_end], chunk[at:stop], first, packet_id)
            else:
                if length > REST_MAX_BYTES or (kind == PUBACK and first != PUBACK):
                    raise Malformed(f"a packet starts with 0x{first:02x} and has {length} bytes")
                if stop > end:
                    self._need_bytes = stop - start
                    return start
                if kind == PUBACK:
                    if length < 2:
                        raise Malformed("a PUBACK has no packet identifier")
                    reason = (chunk[body + 2] if length > 2 else 0) if version5 else None
                    sink.on_puback(chunk[body] << 8 | chunk[body + 1], reason)
                else:
                    sink.on_rest(chunk[start:stop])
            start = stop
        self._need_bytes = 2
        return start

    def _large(self, chunk: bytes, start: int, body: int, length: int) -> int | None:
        """Deal with a message that may be too large, from its first bytes.

        Returns:
            None if it is not too large after all; `start` if more bytes are needed to tell; else
            where the next packet starts, having arranged for the rest of this one to be skipped.
        """
        end = len(chunk)
        if end < body + 2:
            self._need_bytes = body + 2 - start
            return start
        qos = chunk[start] >> 1 & 3
        head = 2 + (chunk[body] << 8 | chunk[body + 1]) + (2 if qos else 0)
        # MQTT 5 puts properties before the payload, at least their length. They count towards the
        # limit except for that one byte, so that a plain message has the same limit in both.
        if length - head - self._version5 <= self._payload_max_bytes:
            return None
        if end < body + head:
            self._need_bytes = body + head - start
            return start
        packet_id = chunk[body + head - 2] << 8 | chunk[body + head - 1] if qos else 0
        self._sink.on_oversize(packet_id)
        stop = body + length
        self._skip_bytes = max(0, stop - end)
        return min(stop, end)


def _skip_properties(chunk: bytes, at: int, stop: int) -> int:
    """Return where the properties that start at `at` end."""
    length = 0
    for shift in (0, 7, 14, 21):
        if at >= stop:
            break
        byte = chunk[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return at + length
    raise Malformed("a message has broken properties")
