"""Serving neighbours: files by their digest, over plain HTTP on the local network.

Owns the port, and how much of this device's time and link strangers may take. Answers two questions
and no other: `GET` and `HEAD /api/v1/blobs/<sha256>`, as the hub does. Says nothing of what it has,
and takes nothing from anybody. Whoever fetches here believes nothing and checks everything.

Format: HTTP/1.1 with Range and If-Range (RFC 9110, sections 13.1.5 and 14.2). One request for each
connection.
"""

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from agent.log import say
from agent.settings import Settings
from agent.shared import Shared

logger = logging.getLogger(__name__)

HEAD_BYTES_MAX: Final = 8 * 1024
HEAD_S: Final = 10.0
"""Longest that the head of a request may take."""

STALL_S: Final = 30.0
"""Longest that a neighbour may take nothing."""

LEAST_BYTES_PER_S: Final = 4096
"""A neighbour that takes less on the average is let go."""

CHUNK_BYTES: Final = 64 * 1024

RETRY_S: Final = 60.0
"""Wait before a port that could not be opened is tried again: an address may come with its link."""

_REQUEST: Final = re.compile(r"(GET|HEAD) /api/v1/blobs/([0-9a-f]{64}) HTTP/1\.[01]")
_RANGE: Final = re.compile(r"bytes=(\d{1,18})-")


class Asked(NamedTuple):
    """What a neighbour wants."""

    sha256: str
    is_head: bool
    start: int
    """First byte; 0 for the whole file."""


class Sharing:
    """The port that neighbours ask."""

    def __init__(self, settings: Settings, shared: Shared) -> None:
        """Serve `shared` as `settings` say."""
        self._settings = settings
        self._shared = shared
        self._busy = 0
        self._port = settings.share_port
        self._pace = Pace(settings.share_bytes_per_s)
        self.served_count = 0
        """Answers with a file since the start."""

    async def run(self) -> None:
        """Serve until cancelled. A port that cannot be opened is tried again, and harms nothing."""
        host = self._settings.share_host
        while True:
            try:
                server = await asyncio.start_server(
                    self._serve, host, self._port, limit=HEAD_BYTES_MAX
                )
            except OSError as error:
                say(logger, "not_sharing", level=logging.WARNING, address=host, error=error)
                await asyncio.sleep(RETRY_S)
                continue
            say(logger, "sharing", address=host, port=self._port)
            async with server:
                await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            if self._busy >= self._settings.share_connections_max:
                return
            self._busy += 1
            try:
                await self._answer(reader, writer)
            except (OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
                return  # the neighbour went away, or is none
            finally:
                self._busy -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_S):
            head = await reader.readuntil(b"\r\n\r\n")
        asked = read_head(head)
        descriptor = self._shared.open(asked.sha256) if asked is not None else None
        if asked is None or descriptor is None:
            status = "400 Bad Request" if asked is None else "404 Not Found"
            writer.write(f"HTTP/1.1 {status}\r\n{_COMMON}Content-Length: 0\r\n\r\n".encode())
            await _drained(writer)
            return
        with os.fdopen(descriptor, "rb") as file:
            length_bytes = os.fstat(file.fileno()).st_size
            writer.write(head_of(asked, length_bytes))
            if asked.is_head or asked.start >= length_bytes > 0:
                await _drained(writer)
                return
            file.seek(asked.start)
            patience_s = STALL_S
            loop = asyncio.get_running_loop()
            while chunk := file.read(CHUNK_BYTES):
                await self._pace.wait(len(chunk))
                writer.write(chunk)
                begun_mono = loop.time()
                await _drained(writer)
                patience_s += len(chunk) / LEAST_BYTES_PER_S - (loop.time() - begun_mono)
                if patience_s < 0:
                    return  # it holds a place that others wait for
            self.served_count += 1


class Pace:
    """Spreads what all neighbours get together over time."""

    def __init__(self, bytes_per_s: int) -> None:
        """Allow `bytes_per_s`; 0 is no limit."""
        self._bytes_per_s = bytes_per_s
        self._free_mono = 0.0

    async def wait(self, count: int) -> None:
        """Wait until so many bytes more may go."""
        if not self._bytes_per_s:
            return
        now_mono = asyncio.get_running_loop().time()
        self._free_mono = max(self._free_mono, now_mono) + count / self._bytes_per_s
        await asyncio.sleep(self._free_mono - now_mono)


_COMMON: Final = "Connection: close\r\nServer: fieldfare-agent\r\n"


def read_head(head: bytes) -> Asked | None:
    """Return what a request asks for, None if it is none that is answered here."""
    line, *lines = head.decode("latin-1").split("\r\n")
    found = _REQUEST.fullmatch(line)
    if found is None:
        return None
    fields: dict[str, str] = {}
    for each in lines:
        name, _, value = each.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    sha256 = found[2]
    wanted = _RANGE.fullmatch(fields.get("range", ""))
    is_ours = fields.get("if-range", f'"{sha256}"') == f'"{sha256}"'
    start = int(wanted[1]) if wanted is not None and is_ours else 0
    return Asked(sha256, found[1] == "HEAD", start)


def head_of(asked: Asked, length_bytes: int) -> bytes:
    """Return the head of an answer about a file of `length_bytes`."""
    if asked.start and asked.start >= length_bytes:
        return (
            f"HTTP/1.1 416 Range Not Satisfiable\r\n{_COMMON}"
            f"Content-Range: bytes */{length_bytes}\r\nContent-Length: 0\r\n\r\n"
        ).encode()
    status, more = "200 OK", ""
    if asked.start:
        status = "206 Partial Content"
        more = f"Content-Range: bytes {asked.start}-{length_bytes - 1}/{length_bytes}\r\n"
    return (
        f"HTTP/1.1 {status}\r\n{_COMMON}{more}Accept-Ranges: bytes\r\n"
        f'ETag: "{asked.sha256}"\r\nContent-Type: application/octet-stream\r\n'
        f"Content-Length: {length_bytes - asked.start}\r\n\r\n"
    ).encode()


async def _drained(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(STALL_S):
        await writer.drain()


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(STALL_S):
                await writer.wait_closed()
