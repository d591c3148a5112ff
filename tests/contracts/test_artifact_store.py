"""What every store of artifacts keeps: a folder, a bucket, and a bucket with copies in a folder."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hub.artifact_store import ArtifactStore
from hub.artifacts import BLOCK_BYTES, Artifacts
from hub.bucket_store import BucketStore
from hub.errors import TooLarge, WrongContent
from tests.hub.stores import (
    BLOB_MAX_BYTES,
    all_of,
    bucket_settings,
    bucket_store,
    chunks,
    digest_of,
    settled,
)
from tests.system.bucket_server import BucketServer

LONG = Random(3).randbytes(9_000_000)
"""Goes to a bucket in two parts, and is 35 blocks long, the last one short."""


class Shelf:
    """A store that can be started again on what it has."""

    def __init__(self, kind: str, folder: Path, server: BucketServer | None) -> None:
        self._folder = folder
        self._settings: Any = None
        if server is not None:
            keep_bytes = 0 if kind == "bucket" else 10**9
            self._settings = bucket_settings(
                folder, server.url, server.new_place(), artifact_store_keep_bytes=keep_bytes
            )

    def open(self) -> ArtifactStore:
        """Return the store as a new start of the hub makes it."""
        if self._settings is None:
            return Artifacts(self._folder, blob_max_bytes=BLOB_MAX_BYTES)
        return bucket_store(self._settings)


@pytest.fixture(params=["folder", "bucket", "bucket with copies"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    is_bucket = request.param != "folder"
    server = request.getfixturevalue("bucket_server") if is_bucket else None
    return Shelf(request.param, tmp_path, server)


async def rest(store: ArtifactStore) -> None:
    """Let everything come to its place."""
    if isinstance(store, BucketStore):
        await settled(store)


@pytest.mark.parametrize("content", [b"", b"x", LONG[:BLOCK_BYTES], LONG], ids=len)
async def test_what_was_received_is_there_before_and_after_it_came_to_its_place(
    shelf: Shelf, content: bytes
) -> None:
    store, digest = shelf.open(), digest_of(content)
    assert store.length_bytes(digest) is None
    assert await store.receive(digest, chunks(content[:7], content[7:], b""))
    assert store.length_bytes(digest) == len(content)
    assert await all_of(store, digest) == content
    await rest(store)
    assert store.length_bytes(digest) == len(content)
    assert await all_of(store, digest) == content


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (5, len(LONG) - 5),
        (BLOCK_BYTES - 1, BLOCK_BYTES + 1),
        (BLOCK_BYTES, 2 * BLOCK_BYTES),
        (len(LONG) - 1, len(LONG)),
    ],
)
async def test_any_part_of_it_can_be_read(shelf: Shelf, start: int, stop: int) -> None:
    store, digest = shelf.open(), digest_of(LONG)
    await store.receive(digest, chunks(LONG))
    await rest(store)
    assert b"".join([each async for each in store.read(digest, start, stop)]) == LONG[start:stop]


async def test_it_is_there_after_the_hub_was_started_again(shelf: Shelf) -> None:
    store, digest = shelf.open(), digest_of(LONG)
    await store.receive(digest, chunks(LONG))
    assert await all_of(shelf.open(), digest) == LONG
    await rest(store)
    again = shelf.open()
    await rest(again)
    assert again.length_bytes(digest) == len(LONG)
    assert await all_of(again, digest) == LONG


async def test_receiving_it_twice_is_fine_also_at_once(shelf: Shelf) -> None:
    store, digest = shelf.open(), digest_of(LONG)
    await asyncio.gather(*(store.receive(digest, chunks(LONG)) for _ in range(3)))
    assert not await store.receive(digest, chunks(LONG))
    await rest(store)
    assert not await store.receive(digest, chunks(LONG))
    await rest(store)
    assert await all_of(store, digest) == LONG


async def test_other_content_than_the_name_says_is_nowhere(shelf: Shelf) -> None:
    store = shelf.open()
    with pytest.raises(WrongContent, match=digest_of(b"other")):
        await store.receive(digest_of(b"this"), chunks(b"other"))
    await rest(store)
    for digest in (digest_of(b"this"), digest_of(b"other")):
        assert store.length_bytes(digest) is None
        assert shelf.open().length_bytes(digest) is None


async def test_content_beyond_the_limit_is_nowhere(shelf: Shelf) -> None:
    store = shelf.open()
    content = bytes(BLOB_MAX_BYTES)
    with pytest.raises(TooLarge, match="blob_max_bytes"):
        await store.receive(digest_of(content + b"x"), chunks(content, b"x"))
    assert store.length_bytes(digest_of(content + b"x")) is None


async def test_an_upload_that_breaks_off_is_nowhere(shelf: Shelf) -> None:
    store, begun = shelf.open(), asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield LONG
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(store.receive(digest_of(LONG), stuck()))
    await begun.wait()
    assert store.length_bytes(digest_of(LONG)) is None
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert store.length_bytes(digest_of(LONG)) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 65])
async def test_what_is_no_digest_is_not_there(shelf: Shelf, name: str) -> None:
    assert shelf.open().length_bytes(name) is None


async def test_something_small_can_be_kept_from_memory(shelf: Shelf) -> None:
    store = shelf.open()
    digest = await store.keep(b"manifest")
    await rest(store)
    assert digest == await store.keep(b"manifest") == digest_of(b"manifest")
    assert await all_of(store, digest) == b"manifest"


async def test_the_list_of_blocks_is_that_of_the_content(shelf: Shelf) -> None:
    store, digest = shelf.open(), digest_of(LONG)
    await store.receive(digest, chunks(LONG))
    expected = b"".join(
        hashlib.sha256(LONG[at : at + BLOCK_BYTES]).digest()
        for at in range(0, len(LONG), BLOCK_BYTES)
    )
    assert await store.blocks(digest) == expected
    await rest(store)
    assert await shelf.open().blocks(digest) == expected


async def test_it_can_be_had_as_a_file_which_stays_while_it_is_needed(shelf: Shelf) -> None:
    store, digest = shelf.open(), digest_of(LONG)
    await store.receive(digest, chunks(LONG))
    await rest(store)
    async with store.on_disk(digest) as path:
        await rest(store)
        assert path.read_bytes() == LONG
    await rest(store)
    assert await all_of(store, digest) == LONG


async def test_what_was_removed_is_gone_for_good_and_can_come_again(shelf: Shelf) -> None:
    store, digest = shelf.open(), digest_of(LONG)
    await store.receive(digest, chunks(LONG))
    await rest(store)
    await store.remove(digest)
    assert store.length_bytes(digest) is None
    again = shelf.open()
    await rest(again)
    assert again.length_bytes(digest) is None
    assert await again.receive(digest, chunks(LONG))
    await rest(again)
    assert await all_of(again, digest) == LONG


async def test_what_comes_again_while_it_is_being_removed_stays(shelf: Shelf) -> None:
    store, digest = shelf.open(), digest_of(LONG)
    await store.receive(digest, chunks(LONG))
    await rest(store)
    await store.remove(digest)
    assert await store.receive(digest, chunks(LONG))
    await rest(store)
    assert await all_of(shelf.open(), digest) == LONG
