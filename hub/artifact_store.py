"""Where artifacts are: what the hub asks of a folder, and of a folder with a bucket behind it.

Owns that contract. `tests/contracts/test_artifact_store.py` holds every implementation to it.

Rule: what a store says it has is complete, is what its digest says, and stays through power cuts.
Nothing else is ever seen under its digest.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from hub.artifacts import Artifacts
from hub.errors import BadSettings
from hub.settings import Settings

logger = logging.getLogger(__name__)


class ArtifactStore(Protocol):
    """Immutable files, each under the SHA-256 of its content (64 lower-case hex digits)."""

    def length_bytes(self, digest: str) -> int | None:
        """Return the length of an artifact, None if it is not here. Touches no network."""
        ...

    async def receive(self, digest: str, chunks: AsyncIterator[bytes]) -> bool:
        """Take in an artifact; True if it is new, False if it was here.

        Raises:
            WrongContent: The content has another digest; nothing of it stays.
            TooLarge: It is longer than an artifact may be; nothing of it stays.
            StorageFull: The disk is full; nothing of it stays.
        """
        ...

    async def keep(self, content: bytes) -> str:
        """Take in something small that is in memory; return its digest."""
        ...

    def read(self, digest: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Give the bytes from `start` up to `stop` of an artifact that is here.

        Raises:
            StorageUnusable: Its bytes cannot be had now. What was given before is right.
        """
        ...

    async def blocks(self, digest: str) -> bytes:
        """Return the SHA-256 of each block of an artifact that is here, one after the other.

        Raises:
            StorageUnusable: Its bytes cannot be had now, and the list was not kept.
        """
        ...

    def on_disk(self, digest: str) -> AbstractAsyncContextManager[Path]:
        """Give an artifact that is here as a file, which stays until the end of the block.

        Raises:
            StorageUnusable: Its bytes cannot be had now, or there is no room for them.
        """
        ...

    async def link(self, digest: str) -> str | None:
        """Return an address where anybody can fetch it for a while, None if there is none."""
        ...

    async def remove(self, digest: str) -> None:
        """Remove an artifact that can be made again. Whoever is fetching it may not get its end."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Return what has happened since the hub started, and what is waiting."""
        ...

    async def run(self) -> None:
        """Do what is to be done in the background, until cancelled."""
        ...


async def open_store(settings: Settings) -> ArtifactStore:
    """Return the store that the settings ask for.

    Raises:
        BadSettings: There is no such bucket, or it refuses us, or obstore is not installed.
        StateDirUnusable: The folder cannot be made or written.
    """
    folder = Artifacts(settings.state_dir, blob_max_bytes=settings.blob_max_bytes)
    if settings.artifact_store_url is None:
        return folder
    try:
        # 7 MB of memory (measured), which a hub without a bucket does not pay.
        from hub.bucket import Bucket, BucketRefused  # noqa: PLC0415
        from hub.bucket_store import BucketStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise BadSettings(
            "artifact_store_url needs obstore, which is not installed: install fieldfare[hub,s3]"
        ) from None
    try:
        bucket = Bucket(settings)
    except BucketRefused as error:
        raise BadSettings(f"the artifact store cannot be used: {error}") from None
    store = BucketStore(
        folder,
        bucket,
        settings.state_dir,
        keep_bytes=settings.artifact_store_keep_bytes,
        link_s=settings.artifact_link_s,
    )
    await store.begin()
    logger.info("artifacts are kept in %s", bucket.place)
    return store
