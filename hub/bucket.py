"""An S3-compatible bucket: objects in, out, listed and removed, and addresses that expire.

Owns the only import of `obstore`, and what a bucket's failures are called here. Never decides what
is kept in it, and believes nothing that comes out of it: `hub.bucket_store` does both.

Rule: no secret is in a message. What obstore says about a failure holds addresses and headers, so
only the status and the server's own code and sentence are taken from it.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from hub.errors import StorageUnusable

if TYPE_CHECKING:
    from hub.settings import Settings

OBJECTS: Final = "sha256/"
"""Where artifacts are below the prefix, each under its digest."""

PROBE: Final = "fieldfare-probe"
"""Written and removed when the hub starts, to see whether it may."""

PART_BYTES: Final = 8 * 1024 * 1024
"""A bucket takes 10,000 parts, so the longest artifact (8 GiB) fits ten times."""

PARTS_AT_ONCE: Final = 2

WINDOW_BYTES: Final = 1024 * 1024
"""Read at once. In memory until whoever asked has taken it, so that a slow reader keeps no request
of ours waiting."""

CONNECT_S: Final = 5.0
RETRIES_MAX: Final = 2
"""Of one request, after 0.1 s and more."""

OBJECTS_MAX: Final = 1_000_000
"""A bucket that lists more under the prefix is not ours, or not to be trusted with memory."""

NO_ANSWER: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([^<]{1,80})</Code>")
_SAID: Final = re.compile(r"<Message>([^<]{1,200})</Message>")
_FULL: Final = frozenset(
    {"QuotaExceeded", "XAmzQuotaExceeded", "InsufficientStorage", "XMinioStorageFull"}
)


class BucketUnusable(StorageUnusable):
    """The bucket did not do what it was asked to. It can be tried again."""

    title = "The artifact store cannot be reached"


class BucketUnreachable(BucketUnusable):
    """It did not answer, or answered that it cannot now."""


class BucketRefused(BucketUnusable):
    """It refuses: the credentials, the bucket's name or its rules are not as they should be."""


class ObjectMissing(BucketUnusable):
    """The bucket has no such object."""


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, and where in it."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        """Return it as it is written in settings."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def place_of(url: str) -> Place:
    """Return the place that `s3://bucket/prefix` names; the settings have checked its form."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return Place(bucket, prefix.strip("/"))


class Bucket:
    """One prefix of one bucket."""

    def __init__(self, settings: "Settings") -> None:
        """Take place, endpoint and credentials from `settings`; asks nobody yet.

        Raises:
            BucketRefused: obstore cannot work with them.
        """
        assert settings.artifact_store_url is not None  # noqa: S101 - only then is there a bucket
        self.place = place_of(settings.artifact_store_url)
        self._stall_s = settings.artifact_store_stall_s
        self._store = self._opened(settings, settings.artifact_store_endpoint)
        self._for_devices = self._store
        if settings.artifact_store_device_endpoint is not None:
            self._for_devices = self._opened(settings, settings.artifact_store_device_endpoint)

    def _opened(self, settings: "Settings", endpoint: str | None) -> S3Store:
        chosen: dict[str, Any] = {"region": settings.artifact_store_region}
        if endpoint is not None:
            chosen["endpoint"] = endpoint
        secret = settings.artifact_store_credentials()
        if secret is not None:
            chosen["access_key_id"], chosen["secret_access_key"] = secret
        try:
            return S3Store(
                self.place.bucket,
                prefix=self.place.prefix or None,
                client_options={
                    "allow_http": endpoint is not None and endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=min(CONNECT_S, self._stall_s)),
                    "timeout": timedelta(seconds=self._stall_s),
                },
                retry_config={
                    "max_retries": RETRIES_MAX,
                    "retry_timeout": timedelta(seconds=self._stall_s),
                },
                **chosen,
            )
        except (BaseError, ValueError) as error:
            raise BucketRefused(f"{self.place}: {_first_line(error)}") from None

    async def check(self) -> None:
        """Find out whether the bucket is there and lets us list, write, read and remove.

        Raises:
            BucketUnreachable: Nobody can say now.
            BucketRefused: It does not.
        """
        with self._named("list it"):
            async for _ in obstore.list(self._store, OBJECTS, chunk_size=1):
                break
        with self._named("write to it"):
            await obstore.put_async(self._store, PROBE, b"fieldfare")
        with self._named("read from it"):
            await (await obstore.get_async(self._store, PROBE)).bytes_async()
        with self._named("remove from it"):
            await obstore.delete_async(self._store, PROBE)

    async def put(self, digest: str, path: Path) -> None:
        """Put a file there, in parts if it is long. Nobody sees it before it is whole.

        Raises:
            BucketUnusable: It is not there.
        """
        with self._named("write to it"):
            await obstore.put_async(
                self._store,
                OBJECTS + digest,
                path,
                attributes={"Content-Type": "application/octet-stream"},
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    async def length_bytes(self, digest: str) -> int:
        """Return the length of an object.

        Raises:
            BucketUnusable: It is not there, or cannot be asked for.
        """
        with self._named("read from it"):
            return int((await obstore.head_async(self._store, OBJECTS + digest))["size"])

    async def read(self, digest: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Give the bytes from `start` up to `stop` of an object, as the bucket has them.

        Raises:
            BucketUnusable: They cannot be had.
        """
        while start < stop:
            end = min(start + WINDOW_BYTES, stop)
            with self._named("read from it"):
                # No longer than a request with its repetitions: it must end, whatever happens.
                async with asyncio.timeout(2 * self._stall_s):
                    got = await obstore.get_range_async(
                        self._store, OBJECTS + digest, start=start, end=end
                    )
            window = bytes(got)
            if not window:
                raise ObjectMissing(f"{self.place}: {digest} ends at byte {start}")
            yield window
            start += len(window)

    async def list(self) -> dict[str, int]:
        """Return what is there: the length of each object by its name.

        Raises:
            BucketUnusable: It cannot be listed.
        """
        found: dict[str, int] = {}
        with self._named("list it"):
            async for page in obstore.list(self._store, OBJECTS, chunk_size=1000):
                found |= {str(each["path"]).rpartition("/")[2]: each["size"] for each in page}
                if len(found) > OBJECTS_MAX:
                    raise BucketRefused(f"{self.place}: it lists more than {OBJECTS_MAX} objects")
        return found

    async def delete(self, digest: str) -> None:
        """Remove an object; it is fine if there is none.

        Raises:
            BucketUnusable: It is still there.
        """
        with self._named("remove from it"), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, OBJECTS + digest)

    async def link(self, digest: str, valid_s: float) -> str:
        """Return an address under which anybody can fetch an object for `valid_s`.

        Raises:
            BucketUnusable: The credentials could not be had.
        """
        with self._named("sign an address"):
            return str(
                await obstore.sign_async(
                    self._for_devices, "GET", OBJECTS + digest, timedelta(seconds=valid_s)
                )
            )

    @contextlib.contextmanager
    def _named(self, act: str) -> Iterator[None]:
        """Turn what obstore raises into ours, with what was to be done."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise _judged(error, f"{self.place}: cannot {act}") from None


def _judged(error: Exception, what: str) -> BucketUnusable:
    text = str(error)
    status = _found(_STATUS, text)
    code = _found(_CODE, text)
    said = " ".join(each for each in (status, code, _found(_SAID, text)) if each)
    if code in _FULL or status == str(HTTPStatus.INSUFFICIENT_STORAGE):
        return BucketUnreachable(f"{what}: it is full ({said})")
    if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
        return ObjectMissing(f"{what}: no such object")
    if status.startswith(("3", "4")) and int(status) not in NO_ANSWER:
        return BucketRefused(f"{what}: {said}")
    if status:
        return BucketUnreachable(f"{what}: {said}")
    return BucketUnreachable(f"{what}: {_first_line(error) or 'no answer in time'}")


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return "" if found is None else " ".join(found[1].split())


def _first_line(error: Exception) -> str:
    # An address in it may be a signed one.
    return re.sub(r"\?\S*", "", str(error).partition("\n")[0])[:200]
