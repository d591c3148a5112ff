"""Artifact stores for tests: a folder, and a real bucket with a folder in front of it."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from hub.artifacts import Artifacts
from hub.bucket import Bucket
from hub.bucket_store import BucketStore
from hub.settings import Settings
from tests.system.bucket_server import HUB, Key

BLOB_MAX_BYTES = 50_000_000


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def all_of(store: Any, digest: str) -> bytes:
    """Return a whole artifact as the store gives it."""
    length = store.length_bytes(digest)
    return b"".join([chunk async for chunk in store.read(digest, 0, length)])


def bucket_settings(
    state_dir: Path, url: str, place: str, key: Key = HUB, **chosen: Any
) -> Settings:
    return Settings(
        state_dir=state_dir,
        artifact_store_url=f"s3://{place}",
        artifact_store_endpoint=url,
        artifact_store_key_id=key.id,
        artifact_store_secret=SecretStr(key.secret),
        **chosen,
    )


def bucket_store(settings: Settings) -> BucketStore:
    return BucketStore(
        Artifacts(settings.state_dir, blob_max_bytes=BLOB_MAX_BYTES),
        Bucket(settings),
        settings.state_dir,
        keep_bytes=settings.artifact_store_keep_bytes,
        link_s=settings.artifact_link_s,
    )


@contextlib.asynccontextmanager
async def tended(store: Any) -> AsyncIterator[None]:
    """Let the store do its work in the background."""
    task = asyncio.create_task(store.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def settled(store: BucketStore) -> None:
    """Do once all that there is to do."""
    await store._settle()
