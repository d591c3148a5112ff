"""Bringing a file of a release here: resumed, bounded, verified, within a budget.

Owns HTTP and the download folder. A file gets its final name only when its digest is right, so
whatever has a final name is whole. Never more bytes than the manifest announced are taken.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, BinaryIO, Final

from sync.stages import Reason

if TYPE_CHECKING:
    from http.client import HTTPResponse

CHUNK_BYTES: Final = 64 * 1024
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_LONGEST_S: Final = 300.0


class FetchFailed(Exception):
    """The file did not come. What arrived of it is kept for the next try, unless it was wrong."""

    def __init__(self, reason: Reason, detail: str, *, final: bool) -> None:
        """`final`: trying again cannot help."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.final = final


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds of a download."""

    attempts_max: int
    stall_s: float
    disk_reserve_bytes: int


class Fetcher:
    """Downloads blobs of the hub into one folder."""

    def __init__(
        self, hub_url: str, folder: Path, limits: FetchLimits, random: Random | None = None
    ) -> None:
        """Fetch from `hub_url` into `folder`."""
        self._hub_url = hub_url
        self._folder = folder
        self._limits = limits
        self._nudge = asyncio.Event()
        self._random = random if random is not None else Random()  # noqa: S311 - jitter only

    def path(self, sha256: str) -> Path:
        """Return where the verified file lies once it is here."""
        return self._folder / sha256

    def nudge(self) -> None:
        """The hub may be within reach again, or its wishes have changed: do not wait any longer."""
        self._nudge.set()

    async def fetch(
        self,
        sha256: str,
        length_bytes: int,
        *,
        exact: bool = True,
        go_on: Callable[[], None] = lambda: None,
    ) -> Path:
        """Return the verified file, downloading what is missing of it.

        Args:
            sha256: Its digest in hexadecimal.
            length_bytes: Its length, or with `exact` off the most it may have.
            exact: Whether `length_bytes` is exact.
            go_on: Called before each attempt; what it raises ends the fetching.

        A hub that cannot be reached costs nothing but time: a device may be without a network for
        weeks. Only answers that are wrong use up the budget of attempts.

        Raises:
            FetchFailed: The budget of attempts is used up, or trying again cannot help.
        """
        path = self.path(sha256)
        if path.exists():
            return path
        attempt = wrong_count = 0
        while True:
            go_on()
            stop = _Stop()
            self._nudge.clear()
            try:
                await _in_thread(partial(self._attempt, sha256, length_bytes, exact, stop), stop)
            except FetchFailed as failed:
                attempt += 1
                wrong_count += failed.reason is not Reason.UNREACHABLE
                if failed.final or wrong_count >= self._limits.attempts_max:
                    raise
            else:
                return path
            ceiling_s = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 16))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._random.uniform(0, ceiling_s)):
                    await self._nudge.wait()

    def clean_up(self, keep: set[str]) -> None:
        """Remove everything but the files with these digests, and their beginnings."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name.removesuffix(".part") not in keep:
                    path.unlink(missing_ok=True)

    def _attempt(self, sha256: str, length_bytes: int, exact: bool, stop: "_Stop") -> None:  # noqa: FBT001 - private
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self.path(sha256).with_name(sha256 + ".part")
            have_bytes = part.stat().st_size if part.exists() else 0
            if have_bytes > length_bytes:
                part.unlink()
                have_bytes = 0
            self._check_room(length_bytes - have_bytes)
            if not (exact and have_bytes == length_bytes):
                self._download(sha256, part, have_bytes, length_bytes, stop)
            part.touch()
            self._finish(sha256, part, length_bytes, exact)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FetchFailed(Reason.NO_SPACE, "no room on the disk", final=True) from None
            # Only the network may be waited for without end; a disk that fails is counted.
            is_network = isinstance(error, ConnectionError | TimeoutError) or error.errno is None
            reason = Reason.UNREACHABLE if is_network else Reason.DOWNLOAD_FAILED
            detail = f"{type(error).__name__}: {error}"[:200]
            raise FetchFailed(reason, detail, final=False) from None

    def _check_room(self, missing_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._folder).free
        need_bytes = missing_bytes + self._limits.disk_reserve_bytes
        if free_bytes < need_bytes:
            raise FetchFailed(
                Reason.NO_SPACE,
                f"{free_bytes // 1024} KiB free, {need_bytes // 1024} KiB needed",
                final=True,
            )

    def _download(
        self, sha256: str, part: Path, have_bytes: int, length_bytes: int, stop: "_Stop"
    ) -> None:
        # Imported here: HTTP takes 2 MB of memory, and most agents install nothing for weeks.
        import http.client  # noqa: PLC0415
        import urllib.error  # noqa: PLC0415
        import urllib.request  # noqa: PLC0415

        headers = {"Accept-Encoding": "identity"}
        if have_bytes:
            headers |= {"Range": f"bytes={have_bytes}-", "If-Range": f'"{sha256}"'}
        request = urllib.request.Request(  # noqa: S310 - settings allow http and https only
            f"{self._hub_url}/api/v1/blobs/{sha256}", headers=headers
        )
        try:
            answer = urllib.request.urlopen(request, timeout=self._limits.stall_s)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error.code, part)
            return
        except http.client.HTTPException as error:
            detail = f"the hub does not speak HTTP: {type(error).__name__}"
            raise FetchFailed(Reason.DOWNLOAD_FAILED, detail, final=False) from None
        with answer:
            resumed = answer.status == HTTPStatus.PARTIAL_CONTENT and have_bytes > 0
            with part.open("ab" if resumed else "wb") as file:
                try:
                    _copy(answer, file, have_bytes if resumed else 0, length_bytes, stop)
                except http.client.HTTPException as error:
                    detail = f"the download broke off: {type(error).__name__}"
                    raise FetchFailed(Reason.UNREACHABLE, detail, final=False) from None
                finally:
                    file.flush()
                    os.fsync(file.fileno())

    def _refused(self, status: int, part: Path) -> None:
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
        not_there = status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
        reason = Reason.NOT_FOUND if not_there else Reason.DOWNLOAD_FAILED
        raise FetchFailed(reason, f"the hub answered {status}", final=not_there)

    def _finish(self, sha256: str, part: Path, length_bytes: int, exact: bool) -> None:  # noqa: FBT001 - private
        digest = hashlib.sha256()
        total_bytes = 0
        with part.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES * 16):
                digest.update(chunk)
                total_bytes += len(chunk)
        if digest.hexdigest() == sha256:
            part.replace(self.path(sha256))
            _fsync_folder(self._folder)
            return
        if exact and total_bytes < length_bytes:
            raise FetchFailed(
                Reason.DOWNLOAD_FAILED, f"{total_bytes} of {length_bytes} bytes came", final=False
            )
        part.unlink()
        raise FetchFailed(
            Reason.DIGEST_MISMATCH, "what came is not what the manifest names", final=False
        )


def _copy(
    answer: "HTTPResponse", file: BinaryIO, total_bytes: int, length_bytes: int, stop: "_Stop"
) -> None:
    """Append what comes to `file`, never more than `length_bytes` in all."""
    while chunk := answer.read1(CHUNK_BYTES):
        stop.check()
        total_bytes += len(chunk)
        if total_bytes > length_bytes:
            file.truncate(0)
            raise FetchFailed(Reason.TOO_LARGE, "the hub sends more than announced", final=True)
        file.write(chunk)


class _Stop:
    """Tells the download thread that nobody waits for it any more."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        if self.asked:
            raise FetchFailed(Reason.INTERRUPTED, "the agent is stopping", final=True)


async def _in_thread(work: Callable[[], None], stop: _Stop) -> None:
    try:
        await asyncio.to_thread(work)
    except asyncio.CancelledError:
        stop.asked = True
        raise


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
