"""A stranger on the wire: publishes any bytes to any topic with a bare MQTT 3.1.1 client.

Packets by MQTT 3.1.1 sections 3.1, 3.3 and 3.14.
"""

import asyncio
import secrets


def _length(count: int) -> bytes:
    out = bytearray()
    while True:
        count, low = divmod(count, 128)
        out.append(low | (128 if count else 0))
        if not count:
            return bytes(out)


def _text(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


async def publish_raw(port: int, topic: str, payload: bytes) -> None:
    """Publish at QoS 1 and wait until the broker has taken it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        client = _text(f"stranger-{secrets.token_hex(4)}".encode())
        connect = _text(b"MQTT") + b"\x04\x02\x00\x1e" + client
        writer.write(b"\x10" + _length(len(connect)) + connect)
        assert (await reader.readexactly(4))[3] == 0
        publish = _text(topic.encode()) + b"\x00\x01" + payload
        writer.write(b"\x32" + _length(len(publish)) + publish)
        assert await reader.readexactly(4) == b"\x40\x02\x00\x01"
        writer.write(b"\xe0\x00")
        await writer.drain()
    finally:
        writer.close()
