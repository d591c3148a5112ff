"""The real HTTP server on a real socket, and clients that hold it up."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from hub.api.app import BODY_BYTES_MAX, build_api
from hub.artifacts import FOLDER, PARTS
from hub.http import OVERFLOW, HttpServer, bind
from hub.operators import Scope, Token, digest_of, new_token
from hub.store.operators import save
from tests.hub.core import Core
from tests.hub.web import BLOB, DIGEST, operations_of, status, trust_desk_of

STALL_S = 0.2
"""So short that a test need not wait for long; nothing here depends on how long it takes."""

SHOWN = new_token()
ADMIN = Token(
    id=SHOWN.id,
    name="ada",
    scope=Scope.ADMIN,
    digest=digest_of(SHOWN.secret),
    created_ms=0,
    expires_ms=2**60,
)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Connect:
    """Makes connections to a server."""

    server: HttpServer
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def __call__(self) -> Connection:
        made = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        self.writers.append(made[1])
        return made


@asynccontextmanager
async def serving(
    core: Core, state_dir: Path, *, connections_max_count: int = 50, stall_s: float = STALL_S
) -> AsyncIterator[Connect]:
    """Serve the API of `core`; give what makes a connection to it."""
    operations = operations_of(
        core, state_dir, http_stall_s=stall_s, http_min_bytes_per_s=1_000_000
    )
    core.database.transact(lambda db: save(db, ADMIN))
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = HttpServer(
        build_api(operations, status(), trust_desk_of(operations)),
        listening,
        connections_max_count=connections_max_count,
        stall_s=stall_s,
    )
    running = asyncio.create_task(server.run())
    await server.started()
    connect = Connect(server, port)
    try:
        yield connect
    finally:
        for writer in connect.writers:
            writer.close()
        server.stop()
        await running
        listening.close()


@pytest.fixture
async def connect(core: Core, tmp_path: Path) -> AsyncIterator[Connect]:
    async with serving(core, tmp_path / "hub") as connect:
        yield connect


def head(method: str, path: str, *more: str) -> bytes:
    shown = f"Authorization: Bearer {SHOWN.text()}"
    lines = [f"{method} /api/v1{path} HTTP/1.1", "Host: 127.0.0.1", shown, *more]
    return "\r\n".join([*lines, "", ""]).encode()


def files(tmp_path: Path) -> list[Path]:
    found = [*(tmp_path / "hub" / FOLDER).rglob("*"), *(tmp_path / "hub" / PARTS).iterdir()]
    return [path for path in found if path.is_file()]


async def refused(connection: Connection, code: int) -> str:
    """Return the detail of the refusal that ends the connection."""
    reader, _ = connection
    answer = await reader.read()
    assert answer.startswith(f"HTTP/1.1 {code} ".encode()), answer
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in top
    assert b"connection: close" in top.lower()
    detail: str = json.loads(body)["detail"]
    return detail


async def is_answered(connect: Connect) -> bool:
    reader, writer = await connect()
    writer.write(head("GET", "/hub", "Connection: close"))
    return (await reader.read()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("path", "length"),
    [(f"/blobs/{DIGEST}", 10**15), ("/releases", BODY_BYTES_MAX + 1)],
)
async def test_a_length_beyond_the_limit_is_refused_before_anything_is_read(
    connect: Connect, tmp_path: Path, path: str, length: int
) -> None:
    method = "PUT" if "blobs" in path else "POST"
    connection = await connect()
    connection[1].write(head(method, path, f"Content-Length: {length}"))
    assert "more than" in await refused(connection, 413)
    assert files(tmp_path) == []


@pytest.mark.parametrize("path", [f"/blobs/{DIGEST}", "/releases"])
async def test_a_body_that_stops_is_given_up_and_leaves_nothing(
    connect: Connect, tmp_path: Path, path: str
) -> None:
    connection = await connect()
    method = "PUT" if "blobs" in path else "POST"
    connection[1].write(head(method, path, f"Content-Length: {len(BLOB)}") + BLOB[:100])
    assert "http_stall_s" in await refused(connection, 408)
    assert files(tmp_path) == []
    assert await is_answered(connect)


async def test_a_body_that_drips_is_given_up_though_it_never_stops(
    connect: Connect, tmp_path: Path
) -> None:
    connection = await connect()
    connection[1].write(head("PUT", f"/blobs/{DIGEST}", f"Content-Length: {len(BLOB)}"))

    async def drip() -> None:
        for byte in BLOB:
            connection[1].write(bytes([byte]))
            await asyncio.sleep(STALL_S / 10)

    dripping = asyncio.create_task(drip())
    assert "http_min_bytes_per_s" in await refused(connection, 408)
    dripping.cancel()
    assert files(tmp_path) == []


async def test_a_body_that_never_ends_is_cut_off_at_the_limit(
    connect: Connect, tmp_path: Path
) -> None:
    connection = await connect()
    connection[1].write(head("PUT", f"/blobs/{DIGEST}", "Transfer-Encoding: chunked"))

    async def pour() -> None:
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        while True:
            connection[1].write(chunk)
            await connection[1].drain()

    pouring = asyncio.create_task(pour())
    reader, _ = connection
    # Whoever goes on pouring may have the answer swept away by the end of the connection.
    with contextlib.suppress(ConnectionResetError):
        assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
    pouring.cancel()
    await asyncio.wait([pouring])
    assert files(tmp_path) == []
    assert await is_answered(connect)


@pytest.mark.parametrize("said", [b"", b"GET /api/v1/hub HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
async def test_a_connection_that_never_comes_to_a_request_is_ended(
    connect: Connect, said: bytes
) -> None:
    reader, writer = await connect()
    writer.write(said)
    assert await reader.read() == b""


async def test_a_second_request_that_never_comes_whole_ends_the_connection(
    connect: Connect,
) -> None:
    reader, writer = await connect()
    writer.write(head("GET", "/hub"))
    assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200 ")
    writer.write(b"GET /api/v1/hub HTTP/1.1\r\n")
    assert await reader.read() == b""


async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(
    core: Core, tmp_path: Path
) -> None:
    async with serving(core, tmp_path / "hub") as connect:
        server = connect.server
        artifact = tmp_path / "hub" / FOLDER / DIGEST[:2] / DIGEST
        artifact.parent.mkdir(parents=True)
        with artifact.open("wb") as file:
            file.truncate(2**27)  # more than sockets buffer
        reader, writer = await connect()
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()
        writer.write(head("GET", f"/blobs/{DIGEST}"))
        while not server.connections_count:
            await asyncio.sleep(0.01)
        while server.connections_count:
            await asyncio.sleep(0.01)
        transport.resume_reading()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(2**27)


async def test_more_connections_than_are_served_are_told_to_come_again(
    core: Core, tmp_path: Path
) -> None:
    async with serving(core, tmp_path / "hub", connections_max_count=5, stall_s=60) as connect:
        idle = [await connect() for _ in range(5)]
        reader, writer = await connect()
        writer.write(head("GET", "/hub"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        more = [await connect() for _ in range(OVERFLOW * 5)]
        assert await more[-1][0].read() == b""
        for _, writer in [*idle, *more]:
            writer.close()
            await asyncio.wait([asyncio.create_task(writer.wait_closed())])
        while not await is_answered(connect):
            pass
