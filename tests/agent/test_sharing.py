"""Devices that serve each other: what is kept, what is answered, and what strangers get."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from random import Random

import pytest

from agent.fetch import Fetcher, FetchLimits
from agent.settings import Settings
from agent.shared import FOLDER, Shared
from agent.sharing import HEAD_BYTES_MAX, Sharing, read_head
from hub.demo.ground import free_port
from tests.fakes.bad_link import Asked, Link, linked

CONTENT = Random(7).randbytes(1_300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


def kept(folder: Path, bytes_max: int = 10_000_000) -> Shared:
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    (downloads / DIGEST).write_bytes(CONTENT)
    shared = Shared(folder / FOLDER, bytes_max)
    shared.take(downloads)
    return shared


@asynccontextmanager
async def serving(folder: Path, shared: Shared, **more: object) -> AsyncIterator[str]:
    """Serve `shared`; give the address."""
    port = free_port()
    settings = Settings.model_validate(
        {"device": "lamp-1", "state_dir": folder, "share_host": "127.0.0.1", "share_port": port}
        | more
    )
    task = asyncio.create_task(Sharing(settings, shared).run())
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        task.cancel()
        await asyncio.wait({task})


async def said(url: str, request: bytes) -> bytes:
    """Return the whole answer to `request`."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(20):
        with contextlib.suppress(OSError):
            writer.write(request)
            await writer.drain()
        answer = b""
        with contextlib.suppress(OSError):
            answer = await reader.read()
    writer.close()
    return answer


def get(sha256: str, *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} /api/v1/blobs/{sha256} HTTP/1.1", "Host: lamp-1", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def test_a_device_gets_from_its_neighbour_what_the_hub_need_not_send(tmp_path: Path) -> None:
    def refuses(asked: Asked) -> None:
        asked.head(HTTPStatus.SERVICE_UNAVAILABLE, 0)

    async with serving(tmp_path, kept(tmp_path)) as neighbour:
        with linked(Link(CONTENT, refuses)) as hub:
            limits = FetchLimits(
                attempts_max=2, stall_s=5.0, disk_reserve_bytes=0, neighbours=(neighbour,)
            )
            fetcher = Fetcher(hub.url, tmp_path / "here", limits)
            path = await fetcher.fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert hub.requests_count == 0


async def test_a_download_goes_on_where_it_was(tmp_path: Path) -> None:
    async with serving(tmp_path, kept(tmp_path)) as url:
        answer = await said(url, get(DIGEST, "Range: bytes=1299990-", f'If-Range: "{DIGEST}"'))
        other = await said(url, get(DIGEST, "Range: bytes=1299990-", 'If-Range: "another"'))
        behind = await said(url, get(DIGEST, "Range: bytes=1300000-"))
        head = await said(url, get(DIGEST, method="HEAD"))

    start, _, body = answer.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 206")
    assert b"Content-Range: bytes 1299990-1299999/1300000" in start
    assert body == CONTENT[1299990:]
    assert other.startswith(b"HTTP/1.1 200")
    assert other.endswith(CONTENT)
    assert behind.startswith(b"HTTP/1.1 416")
    assert head.endswith(b"Content-Length: 1300000\r\n\r\n")


@pytest.mark.parametrize(
    "request_",
    [
        get(OTHER),
        get(DIGEST.upper()),
        get(DIGEST[:-1]),
        get("../" + DIGEST),
        get(DIGEST, method="PUT"),
        get(DIGEST, method="DELETE"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /api/v1/blobs/ HTTP/1.1\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
        b"\xff\x00" * 40 + b"\r\n\r\n",
    ],
)
async def test_nothing_but_a_file_by_its_digest_is_answered(
    request_: bytes, tmp_path: Path
) -> None:
    async with serving(tmp_path, kept(tmp_path)) as url:
        answer = await said(url, request_)

    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert answer.endswith(b"Content-Length: 0\r\n\r\n")


async def test_a_head_without_an_end_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path, kept(tmp_path)) as url:
        assert await said(url, b"GET " + b"x" * (3 * HEAD_BYTES_MAX)) == b""
        assert (await said(url, get(DIGEST))).endswith(CONTENT)


async def test_more_neighbours_than_may_be_are_turned_away(tmp_path: Path) -> None:
    async with serving(tmp_path, kept(tmp_path), share_connections_max=1) as url:
        host, port = url.removeprefix("http://").split(":")
        _, first = await asyncio.open_connection(host, int(port))
        first.write(b"GET ")
        await first.drain()
        async with asyncio.timeout(20):
            while await said(url, get(DIGEST)):
                pass
        first.close()
        async with asyncio.timeout(20):
            while not (await said(url, get(DIGEST))).endswith(CONTENT):
                pass


def test_what_was_unused_longest_goes_first_and_the_bound_holds(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    shared = Shared(tmp_path / FOLDER, 250)
    names = [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)]
    for name in names[:2]:
        (downloads / name).write_bytes(bytes(100))
        shared.take(downloads)
    descriptor = shared.open(names[0])
    assert descriptor is not None
    os.close(descriptor)
    for name in names[2:]:
        (downloads / name).write_bytes(bytes(75))
        shared.take(downloads)

    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == sorted(
        [names[0], *names[2:]]
    )


def test_only_complete_files_are_taken_and_none_that_is_too_long(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name in (f"{OTHER}.part", f"{OTHER}.blocks", "readme"):
        (downloads / name).write_bytes(b"x")
    (downloads / DIGEST).write_bytes(CONTENT)

    Shared(tmp_path / FOLDER, 1_000_000).take(downloads)

    assert not (tmp_path / FOLDER).exists()
    assert (downloads / DIGEST).exists()


def test_a_device_that_keeps_nothing_drops_what_it_had(tmp_path: Path) -> None:
    kept(tmp_path)

    Shared(tmp_path / FOLDER, 0).take(tmp_path / "downloads")

    assert list((tmp_path / FOLDER).iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / OTHER).symlink_to("/etc/passwd")

    assert Shared(tmp_path / FOLDER, 1000).open(OTHER) is None


def test_a_head_is_read_or_refused() -> None:
    whole = read_head(get(DIGEST))
    assert whole is not None
    assert (whole.sha256, whole.is_head, whole.start) == (DIGEST, False, 0)
    several = read_head(get(DIGEST, "Range: bytes=0-5,7-9"))
    assert several is not None
    assert several.start == 0
