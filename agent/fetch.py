"""Bringing a file of a release here: resumed, bounded, verified, within a budget.

Owns HTTP and the download folder. A file gets its final name only when its digest is right, and is
checked again before it is handed out. Never more bytes than were announced are taken.

Format: HTTP/1.1 with Range and If-Range (RFC 9110, sections 13.1.5 and 14.2).
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import urlsplit

from agent.threads import in_thread
from sync.stages import Reason

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

CHUNK_BYTES: Final = 64 * 1024
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_LONGEST_S: Final = 300.0

NOT_NOW: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""Answers that mean the hub is out of reach, whoever gives them."""


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
        self,
        hub_url: str,
        folder: Path,
        limits: FetchLimits,
        random: Random | None = None,
        *,
        imported: Path | None = None,
    ) -> None:
        """Fetch from `hub_url` into `folder`, unless the file lies in `imported`."""
        self._hub_url = hub_url
        self._folder = folder
        self._limits = limits
        self._imported = imported
        self._nudge = asyncio.Event()
        self._line: _Line | None = None
        self._go_on: Callable[[], None] = lambda: None
        self._random = random if random is not None else Random()  # noqa: S311 - jitter only

    def path(self, sha256: str) -> Path:
        """Return where the verified file lies once it is here."""
        return self._folder / sha256

    def nudge(self) -> None:
        """The hub may be within reach again, or its wishes have changed: look, and do not wait."""
        self._nudge.set()
        if self._line is not None:
            try:
                self._go_on()
            except Exception:  # noqa: BLE001 - it is raised again in `fetch`, where it belongs
                self._line.cut()

    async def fetch(
        self, sha256: str, length_bytes: int, *, go_on: Callable[[], None] = lambda: None
    ) -> Path:
        """Return the verified file, downloading what is missing of it.

        A hub that cannot be reached costs nothing but time: a device may be without a network for
        weeks. Only answers that are wrong use up the budget of attempts.

        Args:
            sha256: Its digest in hexadecimal.
            length_bytes: Its length.
            go_on: Called before each attempt and after each `nudge`; what it raises ends the
                fetching.

        Raises:
            FetchFailed: The budget of attempts is used up, or trying again cannot help.
        """
        attempt = wrong_count = 0
        self._go_on = go_on
        while True:
            go_on()
            self._nudge.clear()
            self._line = line = _Line()
            working = asyncio.ensure_future(
                in_thread(partial(self._attempt, sha256, length_bytes, line), "download")
            )
            line.on_cut_unconnected = working.cancel
            try:
                await asyncio.wait({working})
                if not working.cancelled():
                    working.result()
                    return self.path(sha256)
            except FetchFailed as failed:
                go_on()
                attempt += 1
                wrong_count += failed.reason is not Reason.UNREACHABLE
                if failed.final or wrong_count >= self._limits.attempts_max:
                    raise
            finally:
                line.cut()
                working.cancel()
                self._line = None
            go_on()
            ceiling_s = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 16))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._random.uniform(0, ceiling_s)):
                    await self._nudge.wait()

    def have_bytes(self, sha256: str) -> int:
        """Return how much of a file has arrived; nothing of it may be right."""
        for path in (self.path(sha256), self._folder / f"{sha256}.part"):
            if path.exists():
                return path.stat().st_size
        return 0

    async def ask(self, path: str, *, bytes_max: int) -> tuple[int, float, bytes]:
        """Ask the hub something small, once; return status, Retry-After in seconds, and answer.

        Raises:
            FetchFailed: It could not be asked.
        """
        return await in_thread(partial(self._ask_once, path, bytes_max), "question")

    def clean_up(self, keep: set[str]) -> None:
        """Remove everything but the files with these digests, and their beginnings.

        Raises:
            OSError: The disk fails; the rest is removed another time.
        """
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name.removesuffix(".part") not in keep:
                    path.unlink(missing_ok=True)

    # In the thread.

    def _attempt(self, sha256: str, length_bytes: int, line: "_Line") -> None:
        part = self._folder / f"{sha256}.part"
        with _on_disk():
            self._folder.mkdir(parents=True, exist_ok=True)
            if self.path(sha256).exists():
                # Checked again, and downloaded again if the disk has changed it meanwhile.
                self.path(sha256).replace(part)
            elif self._imported is not None:
                # Checked like what was downloaded, and asked of the hub if it is wrong.
                with contextlib.suppress(FileNotFoundError):
                    (self._imported / sha256).replace(part)
            have_bytes = part.stat().st_size if part.exists() else 0
            if have_bytes > length_bytes:
                part.unlink()
                have_bytes = 0
        if have_bytes < length_bytes:
            self._check_room(length_bytes - have_bytes)
            self._download(sha256, part, length_bytes, line)
        with _on_disk():
            part.touch()
            self._finish(sha256, part, length_bytes)

    def _check_room(self, missing_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._folder).free
        need_bytes = missing_bytes + self._limits.disk_reserve_bytes
        if free_bytes < need_bytes:
            raise FetchFailed(
                Reason.NO_SPACE,
                f"{free_bytes // 1024} KiB free, {need_bytes // 1024} KiB needed",
                final=True,
            )

    def _download(self, sha256: str, part: Path, length_bytes: int, line: "_Line") -> None:
        # Imported here: HTTP takes 2 MB of memory, and most agents install nothing for weeks.
        from http.client import HTTPException  # noqa: PLC0415

        have_bytes = part.stat().st_size if part.exists() else 0
        try:
            connection = self._connect()
            with contextlib.closing(connection):
                line.hold(connection.sock)
                answer = self._ask(connection, sha256, have_bytes)
                start = self._start_of(answer, part, have_bytes)
                with _on_disk(), part.open("ab" if start else "wb") as file:
                    try:
                        _copy(answer, file, start, length_bytes)
                    finally:
                        file.flush()
                        os.fsync(file.fileno())
        except (OSError, HTTPException, ValueError) as error:  # a name can be none for DNS
            detail = f"{type(error).__name__}: {error}"[:200]
            raise FetchFailed(Reason.UNREACHABLE, detail, final=False) from None

    def _connect(self) -> "HTTPConnection":
        from http.client import HTTPConnection, HTTPSConnection  # noqa: PLC0415

        address = urlsplit(self._hub_url)
        kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=self._limits.stall_s)
        connection.connect()
        return connection

    def _ask_once(self, path: str, bytes_max: int) -> tuple[int, float, bytes]:
        from http.client import HTTPException  # noqa: PLC0415

        try:
            with contextlib.closing(self._connect()) as connection:
                headers = {"Connection": "close", "User-Agent": "fieldfare-agent"}
                root = urlsplit(self._hub_url).path.rstrip("/")
                connection.request("GET", root + path, headers=headers)
                answer = connection.getresponse()
                after = answer.getheader("Retry-After") or ""
                body = answer.read(bytes_max)
        except (OSError, HTTPException) as error:
            detail = f"{type(error).__name__}: {error}"[:200]
            raise FetchFailed(Reason.UNREACHABLE, detail, final=False) from None
        return answer.status, float(after) if after.isdecimal() else 0.0, body

    def _ask(self, connection: "HTTPConnection", sha256: str, have_bytes: int) -> "HTTPResponse":
        headers = {"Connection": "close", "User-Agent": "fieldfare-agent"}
        if have_bytes:
            headers |= {"Range": f"bytes={have_bytes}-", "If-Range": f'"{sha256}"'}
        path = urlsplit(self._hub_url).path.rstrip("/")
        connection.request("GET", f"{path}/api/v1/blobs/{sha256}", headers=headers)
        return connection.getresponse()

    def _start_of(self, answer: "HTTPResponse", part: Path, have_bytes: int) -> int:
        """Return at which byte of the file the answer begins."""
        if answer.status == HTTPStatus.OK:
            return 0
        if answer.status == HTTPStatus.PARTIAL_CONTENT:
            if (answer.getheader("Content-Range") or "").startswith(f"bytes {have_bytes}-"):
                return have_bytes
            raise FetchFailed(
                Reason.DOWNLOAD_FAILED, "the hub sent another range than was asked for", final=False
            )
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
        not_there = answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
        reason = Reason.NOT_FOUND if not_there else Reason.DOWNLOAD_FAILED
        if answer.status in NOT_NOW:
            reason = Reason.UNREACHABLE
        raise FetchFailed(reason, f"the hub answered {answer.status}", final=not_there)

    def _finish(self, sha256: str, part: Path, length_bytes: int) -> None:
        digest = hashlib.sha256()
        total_bytes = 0
        with part.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES * 16):
                digest.update(chunk)
                total_bytes += len(chunk)
        if total_bytes < length_bytes:
            # The link broke off, or the announced length is wrong: more may come.
            raise FetchFailed(
                Reason.UNREACHABLE, f"{total_bytes} of {length_bytes} bytes came", final=False
            )
        if digest.hexdigest() != sha256:
            part.unlink()
            raise FetchFailed(
                Reason.DIGEST_MISMATCH, "what came is not what was announced", final=False
            )
        part.replace(self.path(sha256))
        _fsync_folder(self._folder)


class _Line:
    """The connection of one attempt, which can be cut from outside."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._is_cut = False
        self.on_cut_unconnected: Callable[[], object] = lambda: None
        """Leave the attempt alone: it has touched nothing, and connecting cannot be ended."""

    def hold(self, connected: socket.socket) -> None:
        self._socket = connected
        if self._is_cut:
            raise OSError("nobody waits for it any more")

    def cut(self) -> None:
        """End the attempt now, even if it waits for bytes that do not come."""
        self._is_cut = True
        if self._socket is None:
            self.on_cut_unconnected()
            return
        with contextlib.suppress(OSError):  # it may be closed already
            # Not the method of a TLS socket: that one takes its state away under the reader.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _on_disk:  # noqa: N801 - reads as the statement it makes
    """Tell a disk that fails from a link that does."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, _LinkBroke):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchFailed(Reason.NO_SPACE, "no room on the disk", final=True) from None
        detail = f"{error.strerror or error}: {error.filename}"[:200]
        raise FetchFailed(Reason.DOWNLOAD_FAILED, detail, final=False) from None


class _LinkBroke(OSError):
    """Reading from the hub failed while a file was open."""


def _copy(answer: "HTTPResponse", file: BinaryIO, start: int, length_bytes: int) -> None:
    """Append what comes to `file`, never more than makes `length_bytes` in all."""
    total_bytes = start
    while chunk := _read(answer):
        total_bytes += len(chunk)
        if total_bytes > length_bytes:
            file.truncate(0)
            raise FetchFailed(Reason.TOO_LARGE, "the hub sends more than announced", final=True)
        file.write(chunk)


def _read(answer: "HTTPResponse") -> bytes:
    try:
        return answer.read1(CHUNK_BYTES)
    except OSError as error:
        raise _LinkBroke(str(error)) from None


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
