"""The bucket behind the hub's folder: what goes there, and what becomes of it when it is bad."""

import asyncio
import logging
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

import httpx
import obstore
import pytest

from hub.artifact_store import open_store
from hub.artifacts import Artifacts
from hub.bucket import BucketUnreachable, BucketUnusable
from hub.bucket_store import LOOKS_MAX, RELAYS_MAX, SMALL_BYTES, BucketStore
from hub.errors import BadSettings, StorageUnusable
from hub.settings import Settings
from tests.fakes.bad_bucket import Asked, BadBucket, linked_bucket
from tests.hub.stores import (
    BLOB_MAX_BYTES,
    all_of,
    bucket_settings,
    bucket_store,
    chunks,
    digest_of,
    settled,
    tended,
)
from tests.system.bucket_server import HUB, READER, BucketServer, Key

LONG = Random(4).randbytes(9_000_000)
LONG_DIGEST = digest_of(LONG)
OTHER = Random(5).randbytes(1_000_000)
POLL_S = 0.02


@pytest.fixture
def place(bucket_server: BucketServer) -> str:
    return bucket_server.new_place()


@pytest.fixture
def link(bucket_server: BucketServer) -> Iterator[BadBucket]:
    with linked_bucket(bucket_server.url) as link:
        yield link


@pytest.fixture
def settings(tmp_path: Path, link: BadBucket, place: str) -> Settings:
    return bucket_settings(
        tmp_path, link.url, place, artifact_store_keep_bytes=0, artifact_store_stall_s=2
    )


@pytest.fixture
async def store(settings: Settings) -> BucketStore:
    """A store whose bucket has LONG, and whose folder has not."""
    store = bucket_store(settings)
    await store.receive(LONG_DIGEST, chunks(LONG))
    await settled(store)
    return store


def files(tmp_path: Path) -> list[str]:
    found = (tmp_path / "blobs" / "sha256").glob("??/*")
    return sorted(path.name for path in found)


def objects(server: BucketServer, place: str) -> dict[str, int]:
    pages = obstore.list(server.store(place))
    return {each["path"]: each["size"] for page in pages for each in page}


# --------------------------------------------------------------------------- where things are


async def test_what_is_in_the_bucket_leaves_the_folder_and_small_things_stay(
    store: BucketStore, tmp_path: Path, bucket_server: BucketServer, place: str
) -> None:
    small = await store.keep(b"manifest")
    await settled(store)

    assert files(tmp_path) == [small]
    assert objects(bucket_server, place) == {
        f"sha256/{LONG_DIGEST}": len(LONG),
        f"sha256/{small}": 8,
    }
    assert await all_of(store, LONG_DIGEST) == LONG
    assert store.counters()["bucket_relay_bytes"] == len(LONG)
    assert store.counters()["bucket_waiting_count"] == 0


async def test_what_a_hub_without_a_bucket_had_goes_to_the_bucket_it_is_given(
    settings: Settings, bucket_server: BucketServer, place: str
) -> None:
    before = Artifacts(settings.state_dir, blob_max_bytes=BLOB_MAX_BYTES)
    await before.receive(LONG_DIGEST, chunks(LONG))

    store = bucket_store(settings)
    assert store.counters()["bucket_waiting_count"] == 1
    await settled(store)

    assert objects(bucket_server, place) == {f"sha256/{LONG_DIGEST}": len(LONG)}
    assert await all_of(store, LONG_DIGEST) == LONG


async def test_a_key_may_also_be_where_other_programs_look_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", HUB.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", HUB.secret)
    nothing = {"artifact_store_key_id": None, "artifact_store_secret": None}
    await open_store(settings.model_copy(update=nothing))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(BadSettings, match="SignatureDoesNotMatch"):
        await open_store(settings.model_copy(update=nothing))


async def test_copies_not_asked_for_the_longest_make_room(settings: Settings) -> None:
    room = settings.model_copy(update={"artifact_store_keep_bytes": len(LONG) + len(OTHER)})
    store = bucket_store(room)
    third = Random(6).randbytes(len(OTHER))
    for content in (LONG, OTHER):
        await store.receive(digest_of(content), chunks(content))
    await settled(store)
    assert len(files(room.state_dir)) == 2

    await all_of(store, LONG_DIGEST)
    await store.receive(digest_of(third), chunks(third))
    await settled(store)

    assert files(room.state_dir) == sorted([LONG_DIGEST, digest_of(third)])
    assert await all_of(store, digest_of(OTHER)) == OTHER


async def test_a_hub_that_lost_its_disk_finds_its_artifacts_in_the_bucket(
    store: BucketStore, settings: Settings, tmp_path: Path
) -> None:
    fresh = bucket_store(settings.model_copy(update={"state_dir": tmp_path / "new"}))
    assert fresh.length_bytes(LONG_DIGEST) is None
    await settled(fresh)
    assert fresh.length_bytes(LONG_DIGEST) == len(LONG)
    assert await fresh.blocks(LONG_DIGEST) == await store.blocks(LONG_DIGEST)
    assert await all_of(fresh, LONG_DIGEST) == LONG


async def test_a_hub_that_lost_its_disk_does_not_believe_a_wrong_object(
    store: BucketStore, settings: Settings, tmp_path: Path, bucket_server: BucketServer, place: str
) -> None:
    obstore.put(bucket_server.store(place), f"sha256/{digest_of(b'x')}", b"y")
    fresh = bucket_store(settings.model_copy(update={"state_dir": tmp_path / "new"}))
    await settled(fresh)
    assert fresh.length_bytes(digest_of(b"x")) is None
    assert fresh.length_bytes(LONG_DIGEST) == len(LONG)


async def test_an_artifact_that_vanished_from_the_bucket_is_not_here_any_more(
    store: BucketStore,
    settings: Settings,
    bucket_server: BucketServer,
    place: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    obstore.delete(bucket_server.store(place), f"sha256/{LONG_DIGEST}")
    with pytest.raises(StorageUnusable):
        await all_of(store, LONG_DIGEST)
    await settled(store)

    assert store.length_bytes(LONG_DIGEST) is None
    assert LONG_DIGEST in caplog.text
    assert await store.receive(LONG_DIGEST, chunks(LONG))
    await settled(store)
    assert await all_of(bucket_store(settings), LONG_DIGEST) == LONG


# --------------------------------------------------------------------------------- bad buckets


async def test_bytes_that_the_bucket_changed_are_not_given_to_anybody(
    store: BucketStore, link: BadBucket
) -> None:
    link.flips = True
    given = b""
    with pytest.raises(StorageUnusable, match="wrong"):
        async for chunk in store.read(LONG_DIGEST, 0, len(LONG)):
            given += chunk
    assert LONG.startswith(given)
    assert len(given) < len(LONG)
    assert await store.link(LONG_DIGEST) is None

    link.heals()
    await settled(store)
    assert await all_of(store, LONG_DIGEST) == LONG
    assert await store.link(LONG_DIGEST) is not None


async def test_an_object_that_was_replaced_is_disowned_and_can_be_uploaded_again(
    store: BucketStore, bucket_server: BucketServer, place: str
) -> None:
    obstore.put(bucket_server.store(place), f"sha256/{LONG_DIGEST}", bytes(len(LONG)))
    with pytest.raises(StorageUnusable, match="wrong"):
        await all_of(store, LONG_DIGEST)
    for _ in range(LOOKS_MAX - 1):
        with pytest.raises(BucketUnreachable, match="not what its name says"):
            await settled(store)
        assert store.length_bytes(LONG_DIGEST) == len(LONG)
    await settled(store)

    assert store.length_bytes(LONG_DIGEST) is None
    assert await store.receive(LONG_DIGEST, chunks(LONG))
    await settled(store)
    assert await all_of(store, LONG_DIGEST) == LONG
    assert store.counters()["bucket_relay_bytes"] == len(LONG)


async def test_without_its_list_of_blocks_an_object_is_looked_through_before_it_is_given(
    store: BucketStore, tmp_path: Path, link: BadBucket
) -> None:
    for path in (tmp_path / "blobs" / "blocks").iterdir():
        path.unlink()
    link.flips = True
    with pytest.raises(StorageUnusable, match="not what its name says"):
        await all_of(store, LONG_DIGEST)
    link.heals()
    assert await all_of(store, LONG_DIGEST) == LONG


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (500, "InternalError", "500 InternalError"),
        (503, "SlowDown", "503 SlowDown"),
        (507, "XMinioStorageFull", "it is full"),
        (403, "QuotaExceeded", "it is full"),
        (403, "InvalidAccessKeyId", "403 InvalidAccessKeyId"),
    ],
)
async def test_while_the_bucket_takes_nothing_artifacts_wait_in_the_folder_and_are_served(
    settings: Settings,
    link: BadBucket,
    caplog: pytest.LogCaptureFixture,
    status: int,
    code: str,
    words: str,
) -> None:
    caplog.set_level(logging.INFO)
    store = bucket_store(settings)
    link.refuses(status, code)
    async with tended(store):
        assert await store.receive(LONG_DIGEST, chunks(LONG))
        while words not in caplog.text:
            await asyncio.sleep(POLL_S)
        assert store.counters()["bucket_waiting_count"] == 1
        assert await store.link(LONG_DIGEST) is None
        assert await all_of(store, LONG_DIGEST) == LONG

        link.heals()
        while "is as it should be again" not in caplog.text:
            await asyncio.sleep(POLL_S)
    told = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(told) <= 2  # the bucket says it of the list and of the object
    assert store.counters()["bucket_waiting_count"] == 0
    assert await all_of(bucket_store(settings), LONG_DIGEST) == LONG


async def test_a_bucket_that_never_answers_holds_nobody_for_longer_than_was_chosen(
    store: BucketStore, link: BadBucket
) -> None:
    link.stalls()
    with pytest.raises(BucketUnreachable):
        await all_of(store, LONG_DIGEST)
    assert await all_of(store, await store.keep(b"manifest")) == b"manifest"
    with pytest.raises(BucketUnusable):
        await settled(store)


async def test_a_full_bucket_is_given_room_by_what_is_removed(
    store: BucketStore, link: BadBucket, bucket_server: BucketServer, place: str
) -> None:
    def is_full(asked: Asked) -> tuple[HTTPStatus, str] | None:
        taken = sum(objects(bucket_server, place).values())
        if asked.method in {"PUT", "POST"} and "delete" not in asked.query and taken:
            return HTTPStatus.INSUFFICIENT_STORAGE, "XMinioStorageFull"
        return None

    link.deed = is_full
    await store.receive(digest_of(OTHER), chunks(OTHER))
    with pytest.raises(BucketUnreachable, match="it is full"):
        await settled(store)
    await store.remove(LONG_DIGEST)
    await settled(store)

    assert objects(bucket_server, place) == {f"sha256/{digest_of(OTHER)}": len(OTHER)}


async def test_an_upload_that_breaks_off_shows_nothing_and_leaves_nothing_behind(
    settings: Settings, link: BadBucket, bucket_server: BucketServer, place: str
) -> None:
    store = bucket_store(settings)
    await store.receive(LONG_DIGEST, chunks(LONG))
    before = bucket_server.uploads()
    link.deed = lambda asked: (500, "InternalError") if "partNumber=2" in asked.query else None  # type: ignore[assignment,return-value]
    with pytest.raises(BucketUnreachable):
        await settled(store)

    assert objects(bucket_server, place) == {}
    assert bucket_server.uploads() == before
    link.heals()
    await settled(store)
    assert objects(bucket_server, place) == {f"sha256/{LONG_DIGEST}": len(LONG)}


async def test_only_so_many_are_served_out_of_the_bucket_at_once(store: BucketStore) -> None:
    begun = [store.read(LONG_DIGEST, 0, len(LONG)) for _ in range(RELAYS_MAX)]
    for each in begun:
        await anext(each)
    with pytest.raises(BucketUnreachable, match="others are being served"):
        await all_of(store, LONG_DIGEST)
    for each in begun:
        await each.aclose()
    assert await all_of(store, LONG_DIGEST) == LONG


# -------------------------------------------------------------------------------------- links


async def test_a_link_gives_anybody_the_object_and_no_link_leads_to_small_things(
    store: BucketStore, bucket_server: BucketServer
) -> None:
    found = await store.link(LONG_DIGEST)
    assert found is not None
    assert HUB.secret not in found
    async with httpx.AsyncClient() as anybody:
        assert (await anybody.get(found)).content == LONG
    small = bytes(SMALL_BYTES)
    await store.receive(digest_of(small), chunks(small))
    await settled(store)
    assert await store.link(digest_of(small)) is None
    assert await store.link("0" * 64) is None


async def test_links_can_be_turned_off(store: BucketStore, settings: Settings) -> None:
    off = bucket_store(settings.model_copy(update={"artifact_link_s": 0}))
    assert await off.link(LONG_DIGEST) is None


async def test_links_lead_to_the_address_that_devices_know(
    store: BucketStore, settings: Settings, bucket_server: BucketServer
) -> None:
    other = settings.model_copy(update={"artifact_store_device_endpoint": bucket_server.url})
    found = await bucket_store(other).link(LONG_DIGEST)
    assert found is not None
    assert found.startswith(bucket_server.url)


# ----------------------------------------------------------------------------------- the start


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": Key(HUB.id, "wrong")}, "cannot list it: 403 SignatureDoesNotMatch"),
        ({"key": Key("NOBODY", "wrong")}, "cannot list it: 403 InvalidAccessKeyId"),
        ({"key": READER}, "cannot write to it: 403 AccessDenied"),
        ({"place": "not-there/prefix"}, "cannot list it: 404 NoSuchBucket"),
    ],
)
async def test_a_bucket_that_refuses_the_hub_ends_the_start_and_says_why(
    tmp_path: Path, bucket_server: BucketServer, place: str, change: dict[str, Any], words: str
) -> None:
    chosen = {"place": place, "key": HUB, **change}
    with pytest.raises(BadSettings, match=f"refuses the hub: s3://.*{words}") as caught:
        await open_store(bucket_settings(tmp_path, bucket_server.url, **chosen))
    assert "artifact_store_url" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert HUB.secret not in str(caught.value)


async def test_a_bucket_that_is_down_does_not_keep_the_hub_from_starting(
    settings: Settings, link: BadBucket, caplog: pytest.LogCaptureFixture
) -> None:
    link.refuses(503)
    with caplog.at_level(logging.WARNING):
        store = await open_store(settings)
    assert "cannot be reached" in caplog.text
    assert HUB.secret not in caplog.text
    digest = await store.keep(b"manifest")
    assert await all_of(store, digest) == b"manifest"


async def test_the_start_leaves_nothing_in_the_bucket(
    settings: Settings, bucket_server: BucketServer, place: str
) -> None:
    await open_store(settings)
    assert objects(bucket_server, place) == {}
