"""Artifacts in a bucket, with the folder in front of it.

Owns when artifacts go to the bucket, and which copies the folder keeps. Never trusts the bucket:
what comes out of it is compared with the digests that were worked out before it went in.

Rules: an artifact is taken into the folder first, as without a bucket, so publishing never waits
for the bucket and what was acknowledged is durable whatever becomes of it. It leaves the folder
only after the bucket has it whole and that is written down. Only `run` changes the bucket, one
object at a time; what it did not finish it begins again, also after a restart.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from hub.artifacts import BLOCK_BYTES, Artifacts, in_blocks, is_digest
from hub.bucket import Bucket, BucketRefused, BucketUnreachable, BucketUnusable, ObjectMissing
from hub.bucket_index import BucketIndex
from hub.errors import BadSettings, StorageUnusable, WrongContent

logger = logging.getLogger(__name__)

SMALL_BYTES: Final = BLOCK_BYTES
"""Up to here a copy stays in the folder and is sent by the hub: a second connection costs a device
more than the bytes. Manifests are of this kind, so they are there while the bucket is not."""

RELAYS_MAX: Final = 64
"""Answers that may be passed on from the bucket at once; each holds a megabyte or two."""

LOOKS_MAX: Final = 3
"""So often an object is read through and found wrong before it is held to be: a link may have
turned the bit."""

WAIT_FIRST_S: Final = 1.0
WAIT_LONGEST_S: Final = 60.0

COUNTED: Final = (
    "bucket_link_count",
    "bucket_relay_bytes",
    "bucket_fault_count",
    "bucket_wrong_count",
    "bucket_put_count",
)


class BucketStore:
    """The artifacts of one hub."""

    def __init__(
        self, folder: Artifacts, bucket: Bucket, state_dir: Path, *, keep_bytes: int, link_s: float
    ) -> None:
        """Put `bucket` behind `folder`.

        Args:
            folder: Takes artifacts in, and holds copies.
            bucket: Where they go.
            state_dir: The hub's.
            keep_bytes: Most bytes of copies in the folder.
            link_s: How long a link is good; 0 gives none.

        Raises:
            StateDirUnusable: What is in the bucket cannot be read or written down.
        """
        self._folder = folder
        self._bucket = bucket
        self._keep_bytes = keep_bytes
        self._link_s = link_s
        self._index = BucketIndex(state_dir)
        self._waiting = {each: None for each, _ in folder.every() if each not in self._index}
        """In the folder, and not in the bucket, those that came first before the others."""
        self._doubted: set[str] = set()
        """Known to the index, and wrong when they were last looked at, in a row so often:"""
        self._wrong: Counter[str] = Counter()
        self._unknown: set[str] = set()
        """In the bucket, and not known to the index."""
        self._pinned: Counter[str] = Counter()
        self._counted: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._relays_count = 0
        self._is_down = False
        self._is_compared = False
        self._told = ""
        self._more = asyncio.Event()
        self._more.set()
        self._learning = asyncio.Lock()

    async def begin(self) -> None:
        """Find out whether the bucket is as the settings say.

        Raises:
            BadSettings: It refuses us. While it merely does not answer, the hub goes on without.
        """
        try:
            await self._bucket.check()
        except (BucketRefused, ObjectMissing) as error:
            raise BadSettings(
                f"the artifact store refuses the hub: {error}; look at the settings "
                "artifact_store_url, _endpoint, _region and _key_id, and at the rights of that key"
            ) from None
        except BucketUnreachable as error:
            self._failed()
            self._told = str(error)
            logger.warning(
                "the artifact store cannot be reached: %s; new artifacts stay in the state "
                "directory until it can (setting artifact_store_endpoint)",
                error,
            )

    # ------------------------------------------------------------------------- what is asked
    def length_bytes(self, digest: str) -> int | None:
        """Return the length of an artifact, None if it is neither here nor in the bucket."""
        here = self._folder.length_bytes(digest)
        return self._index.length_bytes(digest) if here is None else here

    async def receive(self, digest: str, chunks: AsyncIterator[bytes]) -> bool:
        """Take in an artifact; it goes to the bucket by itself."""
        was_here = self.length_bytes(digest) is not None
        await self._folder.receive(digest, chunks)
        self._came(digest)
        return not was_here

    async def keep(self, content: bytes) -> str:
        """Take in something small that is in memory; return its digest."""
        digest = await self._folder.keep(content)
        self._came(digest)
        return digest

    async def read(self, digest: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Give bytes of an artifact, from the folder if it has a copy."""
        with contextlib.suppress(FileNotFoundError):  # also if the copy goes at this moment
            os.utime(self._folder.path(digest))
            async for chunk in self._folder.read(digest, start, stop):
                yield chunk
            return
        async with contextlib.aclosing(self._relayed(digest, start, stop)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def blocks(self, digest: str) -> bytes:
        """Return the digests of the blocks, which never come from the bucket unchecked."""
        kept = self._folder.kept_blocks(digest)
        if kept is not None:
            return kept
        with contextlib.suppress(FileNotFoundError):
            return await self._folder.blocks(digest)
        async with self._learning:
            kept = self._folder.kept_blocks(digest)
            if kept is not None:
                return kept
            try:
                return await self._learn(digest, self._length_in_bucket(digest))
            except WrongContent as error:
                self._doubt(digest)
                raise BucketUnreachable(str(error)) from None

    @contextlib.asynccontextmanager
    async def on_disk(self, digest: str) -> AsyncIterator[Path]:
        """Give an artifact as a file, fetched from the bucket if need be."""
        self._pinned[digest] += 1
        try:
            if self._folder.length_bytes(digest) is None:
                content = self._relayed(digest, 0, self._length_in_bucket(digest))
                await self._folder.receive(digest, content)
            yield self._folder.path(digest)
        finally:
            self._pinned[digest] -= 1
            self._more.set()

    async def link(self, digest: str) -> str | None:
        """Return an address in the bucket, None for what the hub had better send itself."""
        length_bytes = self._index.length_bytes(digest) or 0
        if not self._link_s or length_bytes <= SMALL_BYTES or digest in self._doubted:
            return None
        if self._is_down and self._folder.length_bytes(digest) is not None:
            return None
        try:
            found = await self._bucket.link(digest, self._link_s)
        except BucketUnusable:
            self._failed()
            return None
        self._counted["bucket_link_count"] += 1
        return found

    async def remove(self, digest: str) -> None:
        """Remove an artifact that can be made again, from the bucket as soon as that can be."""
        self._index.doom(digest)
        self._index.forget(digest)
        self._waiting.pop(digest, None)
        await self._folder.remove(digest)
        self._more.set()

    def counters(self) -> Mapping[str, int]:
        """Return what happened between hub and bucket, and what waits to go there."""
        return {**self._counted, "bucket_waiting_count": len(self._waiting)}

    # ---------------------------------------------------------------------- in the background
    async def run(self) -> None:
        """Bring to the bucket what belongs there, until cancelled."""
        wait_s = WAIT_FIRST_S
        while True:
            await self._more.wait()
            self._more.clear()
            try:
                await self._settle()
                self._is_down = False
                wait_s = WAIT_FIRST_S
                self._tell("")
            except (StorageUnusable, OSError) as error:
                self._failed()
                self._tell(str(error))
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, WAIT_LONGEST_S)
                self._more.set()

    async def _settle(self) -> None:
        if self._is_down or not self._is_compared:
            await self._compare()
        # What is removed first may make the room that the rest needs.
        for digest in self._index.doomed():
            await self._bucket.delete(digest)
            self._index.spare(digest)
        for digest in list(self._waiting):
            await self._send(digest)
        for digest in sorted(self._unknown | self._doubted):
            await self._look_through(digest)
        await asyncio.to_thread(self._drop_copies)

    async def _compare(self) -> None:
        """Compare what is written down with what the bucket has."""
        there = await self._bucket.list()
        lost = []
        for digest in self._index:
            length_bytes = self._index.length_bytes(digest)
            # Some buckets list late what they have.
            if there.get(digest) != length_bytes and not await self._has(digest, length_bytes):
                lost.append(digest)
                self._forget(digest)
        if lost:
            logger.error(
                "%d artifacts are no longer in %s as they were, among them %s: those of releases "
                "that are still needed have to be uploaded again",
                len(lost),
                self._bucket.place,
                lost[0],
            )
        known = {*self._index, *self._index.doomed(), *self._waiting}
        self._unknown = {each for each in there if is_digest(each) and each not in known}
        self._is_compared = True

    async def _has(self, digest: str, length_bytes: int | None) -> bool:
        try:
            return await self._bucket.length_bytes(digest) == length_bytes
        except ObjectMissing:
            return False

    async def _send(self, digest: str) -> None:
        path = self._folder.path(digest)
        length_bytes = self._folder.length_bytes(digest)
        if length_bytes is None:  # removed by hand
            self._waiting.pop(digest, None)
            return
        await self._folder.blocks(digest)
        await self._bucket.put(digest, path)
        came_bytes = await self._bucket.length_bytes(digest)
        if came_bytes != length_bytes:
            raise BucketUnreachable(
                f"{self._bucket.place}: it has {came_bytes} of {length_bytes} bytes of {digest}"
            )
        self._counted["bucket_put_count"] += 1
        if digest in self._waiting:  # not removed meanwhile
            await asyncio.to_thread(self._index.add, digest, length_bytes)
            self._waiting.pop(digest, None)

    async def _look_through(self, digest: str) -> None:
        """Read all of an object, and believe or disown it."""
        try:
            length_bytes = await self._bucket.length_bytes(digest)
            async with self._learning:
                await self._learn(digest, length_bytes)
            await asyncio.to_thread(self._index.add, digest, length_bytes)
        except (WrongContent, ObjectMissing) as error:
            self._wrong[digest] += isinstance(error, WrongContent)
            if digest in self._doubted and 0 < self._wrong[digest] < LOOKS_MAX:
                raise BucketUnreachable(str(error)) from None
            self._forget(digest)
            logger.error(  # noqa: TRY400 - whose fault it is does not show in a trace
                "%s in %s is not what its name says: a release that needs it has to be uploaded "
                "again",
                digest,
                self._bucket.place,
            )
        for noted in (self._unknown, self._doubted):
            noted.discard(digest)
        del self._wrong[digest]

    async def _learn(self, digest: str, length_bytes: int) -> bytes:
        """Read all of an object; return and keep the digests of its blocks if it is right.

        Raises:
            WrongContent: It is not.
        """
        whole, blocks = hashlib.sha256(), []
        async for block in in_blocks(self._bucket.read(digest, 0, length_bytes)):
            whole.update(block)
            blocks.append(hashlib.sha256(block).digest())
        if whole.hexdigest() != digest:
            self._counted["bucket_wrong_count"] += 1
            raise WrongContent(f"{digest} in {self._bucket.place} is not what its name says")
        await asyncio.to_thread(self._folder.keep_blocks, digest, b"".join(blocks))
        return b"".join(blocks)

    def _drop_copies(self) -> None:
        """Remove copies from the folder beyond what it may keep."""
        copies = [
            (each, path.stat())
            for each, path in self._folder.every()
            if each in self._index and not self._pinned[each] and each not in self._doubted
        ]
        total_bytes = sum(found.st_size for _, found in copies)
        for digest, found in sorted(copies, key=lambda each: each[1].st_mtime):
            if total_bytes <= self._keep_bytes:
                return
            if found.st_size > SMALL_BYTES:
                self._folder.path(digest).unlink(missing_ok=True)
                total_bytes -= found.st_size

    # -------------------------------------------------------------------------------- parts
    async def _relayed(self, digest: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Give bytes out of the bucket, each block compared before any of it is given."""
        if self._relays_count >= RELAYS_MAX:
            raise BucketUnreachable(f"{RELAYS_MAX} others are being served out of the bucket")
        self._relays_count += 1
        try:
            blocks = await self.blocks(digest)
            length_bytes = self._length_in_bucket(digest)
            position = start // BLOCK_BYTES * BLOCK_BYTES
            end = min(-(-stop // BLOCK_BYTES) * BLOCK_BYTES, length_bytes)
            async for block in in_blocks(self._bucket.read(digest, position, end)):
                at = position // BLOCK_BYTES * hashlib.sha256().digest_size
                if hashlib.sha256(block).digest() != blocks[at : at + 32]:
                    self._doubt(digest)
                    raise BucketUnreachable(
                        f"{self._bucket.place}: byte {position} and what follows in {digest} is "
                        "wrong"
                    )
                piece = block[max(0, start - position) : stop - position]
                self._counted["bucket_relay_bytes"] += len(piece)
                yield piece
                position += len(block)
        except BucketUnusable as error:
            if isinstance(error, ObjectMissing):
                self._doubt(digest)
            self._failed()
            raise
        finally:
            self._relays_count -= 1

    def _length_in_bucket(self, digest: str) -> int:
        length_bytes = self._index.length_bytes(digest)
        if length_bytes is None:
            raise ObjectMissing(f"{self._bucket.place}: {digest} is not known to be there")
        return length_bytes

    def _came(self, digest: str) -> None:
        self._index.spare(digest)
        if digest not in self._index:
            self._waiting[digest] = None
        self._more.set()

    def _doubt(self, digest: str) -> None:
        self._counted["bucket_wrong_count"] += 1
        self._doubted.add(digest)
        self._more.set()

    def _failed(self) -> None:
        self._counted["bucket_fault_count"] += 1
        self._is_down = True
        self._more.set()

    def _tell(self, fault: str) -> None:
        """Log what changed: an outage is one line, not one for each try."""
        if fault == self._told:
            return
        if fault:
            waiting_count = len(self._waiting)
            logger.warning("%s (%d artifacts wait to go there)", fault, waiting_count)
        else:
            logger.info("%s is as it should be again", self._bucket.place)
        self._told = fault

    def _forget(self, digest: str) -> None:
        """Take it for not being in the bucket; a copy goes there again."""
        if self._index.forget(digest) and self._folder.length_bytes(digest) is not None:
            self._waiting[digest] = None
