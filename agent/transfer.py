"""One attempt to bring a file here: from which place, over which link, and checked on its way.

Owns HTTP and the files of the download folder: `<digest>.part` is what has arrived, `.blocks` the
list that it is checked against on its way, `.spent` what it has cost. Runs in a thread, and knows
nothing of other attempts but what these files say.

Rules: a file gets its final name only when its digest is right. Never more bytes than were
announced are taken. What a place other than the hub does wrong costs that place the file, and
nothing else; what a store does to which the hub sends us makes us ask the hub itself.

Format: HTTP/1.1 with Range and If-Range (RFC 9110, sections 13.1.5 and 14.2).
"""

import contextlib
import hashlib
import os
import shutil
import ssl
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent.blocks import BLOCK_BYTES, WORTH_BYTES, Blocks, WrongBlock, list_bytes, resumed
from agent.line import (
    CHUNKED,
    FetchFailed,
    FetchLimits,
    Line,
    LinkBroke,
    ends_within,
    is_chunked,
    on_disk,
)
from agent.link import Budget, Flow, Pace, metered_link
from agent.media import copy_from_media
from agent.redirects import REDIRECTS, REDIRECTS_MAX, StoreFailed, followed, named, origin_of
from agent.room import reserve
from agent.taking import Taking, check_budget, start_of
from sync.stages import Reason

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

COMPLAINTS_MAX: Final = 2
"""So often a block may be wrong before it is the list that is held to be."""

LINKS_MAX: Final = 2
"""So often the hub is asked where to go: a signed address may be too old when we get there."""

VIA_HUB: Final = "?via=hub"
"""Asks the hub to send the bytes itself."""


class Transfer:
    """Attempts, one at a time, to fill one folder."""

    def __init__(
        self,
        hub_url: str,
        folder: Path,
        limits: FetchLimits,
        imported: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Fetch from `hub_url`, and from what `limits` names before it, into `folder`.

        A file in `imported` is taken from there, and away from there. `tls` is for the hub alone:
        nobody else is shown who this device is, nor trusted by the hub's authority.
        """
        self._tls = tls
        self._hub_origin = origin_of(hub_url)
        self._imported = imported
        self.hub_url = hub_url
        self._folder = folder
        self._limits = limits
        self._pace = Pace(limits.bytes_per_s)
        self._complaints: Counter[tuple[str, int]] = Counter()
        self._listless: set[str] = set()
        """Files whose list is not there, or not believed."""
        self._given_up: set[tuple[str, str]] = set()
        """Neighbours and files that they do not have, or not right."""
        self._wrong_media: set[tuple[str, ...]] = set()
        """Files on media that are not what their names say."""
        self._hub_only: set[str] = set()
        """Files that a store to which the hub sends has not right."""
        self._tags: dict[str, str] = {}
        """What that store calls the file, so that it can tell another one."""
        self._stored: set[str] = set()
        """Files of which that store has given something."""
        self._is_at_store = False
        """Whether it is the one that answers, or should."""
        self._came_bytes = 0
        """In the latest try."""
        self.uses_neighbours = True
        """Whether neighbours are asked before the hub."""
        self.make_room: Callable[[int], None] = lambda _: None
        """Asked to free so many bytes that a download lacks."""

    def path(self, sha256: str) -> Path:
        """Return where the verified file lies once it is here."""
        return self._folder / sha256

    def have_bytes(self, sha256: str) -> int:
        """Return how much of a file has arrived; nothing of it may be right."""
        for path in (self.path(sha256), self._folder / f"{sha256}.part"):
            if path.exists():
                return path.stat().st_size
        return 0

    def verified_bytes(self) -> int:
        """Return how much of all files is here and was found right when it came.

        Of a beginning that is its whole blocks, if there is a list to compare them with.

        Raises:
            OSError: The folder cannot be read.
        """
        if not self._folder.is_dir():
            return 0
        sizes = {path.name: path.stat().st_size for path in self._folder.iterdir()}
        whole_bytes = sum(size for name, size in sizes.items() if "." not in name)
        begun = [sizes.get(f"{Path(name).stem}.part", 0) for name in sizes if ".blocks" in name]
        return whole_bytes + sum(size // BLOCK_BYTES * BLOCK_BYTES for size in begun)

    def attempt(self, sha256: str, length_bytes: int, line: Line) -> None:
        """Bring the file here, or a part of what is missing of it.

        Raises:
            FetchFailed: It is not here yet.
        """
        part = self._folder / f"{sha256}.part"
        try:
            with line.touching():
                self._take_what_is_here(sha256, length_bytes, part)
                if part.exists() and part.stat().st_size == length_bytes:
                    with contextlib.suppress(FetchFailed):  # what is wrong of it is gone now
                        self._finish(sha256, part, length_bytes, line)
                        return
        except LinkBroke as error:
            raise _unreachable(error) from None
        near = self._limits.neighbours if self.uses_neighbours else ()
        places = [each for each in near if (each, sha256) not in self._given_up]
        for place in (*places, self.hub_url):
            try:
                self._bring(place, sha256, part, length_bytes, line)
                self._finish(sha256, part, length_bytes, line)
            except FetchFailed as failed:
                if failed.reason is Reason.DIGEST_MISMATCH and sha256 in self._stored:
                    self._hub_only.add(sha256)
                if place == self.hub_url or failed.reason is Reason.NO_SPACE or line.is_cut:
                    raise
                self._given_up.add((place, sha256))
                if sha256 in self._listless or length_bytes < WORTH_BYTES:
                    part.unlink(missing_ok=True)  # nobody can say how much of it is right
            else:
                return

    def _take_what_is_here(self, sha256: str, length_bytes: int, part: Path) -> None:
        """Leave in `part` what need not be downloaded."""
        with on_disk():
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
                self._check_room(part, length_bytes)
                copy_from_media(
                    self._limits.media_dirs, sha256, length_bytes, part, self._wrong_media
                )

    def ask(self, path: str, bytes_max: int) -> tuple[int, float, bytes]:
        """Ask the hub something small, once; return status, Retry-After in seconds, and answer.

        Raises:
            FetchFailed: It could not be asked.
        """
        from http.client import HTTPException  # noqa: PLC0415 - as in `_download`

        try:
            with contextlib.closing(self._connect(self.hub_url)) as connection:
                answer = self._answer(connection, _path_of(self.hub_url) + path, _headers())
                after = answer.getheader("Retry-After") or ""
                body = self._small(answer, bytes_max)
        except (OSError, HTTPException, ValueError) as error:  # a name can be none for DNS
            raise _unreachable(error) from None
        return answer.status, float(after) if after.isdecimal() else 0.0, body

    # Before a byte is asked for.

    def _check_room(self, part: Path, length_bytes: int) -> None:
        # What an earlier attempt reserved is no longer free, and is ours.
        have_bytes = part.stat().st_blocks * 512 if part.exists() else 0
        free_bytes = shutil.disk_usage(self._folder).free
        need_bytes = max(0, length_bytes - have_bytes) + self._limits.disk_reserve_bytes
        if free_bytes < need_bytes:
            self.make_room(need_bytes - free_bytes)
            free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < need_bytes:
            raise FetchFailed(
                Reason.NO_SPACE,
                f"{free_bytes // 1024} KiB free, {need_bytes // 1024} KiB needed",
                final=True,
            )

    def _check_link(self, length_bytes: int) -> None:
        if length_bytes > self._limits.metered_bytes_max:
            metered = metered_link(self._limits.metered_interfaces)
            if metered is not None:
                raise FetchFailed(
                    Reason.UNREACHABLE, f"waiting for another link than {metered}", final=False
                )

    # The download.

    def _bring(self, place: str, sha256: str, part: Path, length_bytes: int, line: Line) -> None:
        """Download from where `place` sends us, or from itself if that place is of no use."""
        url = f"{place.rstrip('/')}/api/v1/blobs/{sha256}"
        before = ""
        for _ in range(0 if sha256 in self._hub_only else LINKS_MAX):
            try:
                self._download(place, url, sha256, part, length_bytes, line)
            except FetchFailed as failed:
                if not self._is_at_store or line.is_cut or not self._is_in_vain(failed):
                    raise
                if failed.reason in (Reason.DIGEST_MISMATCH, Reason.TOO_LARGE):
                    self._hub_only.add(sha256)
                before = f"; before that the store: {failed.detail}"
                if not (isinstance(failed, StoreFailed) and failed.is_stale):
                    break
            else:
                return
        try:
            self._download(place, url + VIA_HUB, sha256, part, length_bytes, line)
        except FetchFailed as failed:
            detail = f"{failed.detail}{before}"[:200]
            raise FetchFailed(failed.reason, detail, final=failed.final) from None

    def _is_in_vain(self, failed: FetchFailed) -> bool:
        """Tell whether to ask the hub itself; a link that merely broke is tried again as it is."""
        if failed.reason is Reason.UNREACHABLE:
            return not self._came_bytes
        return failed.reason in (Reason.DIGEST_MISMATCH, Reason.TOO_LARGE) or not failed.final

    def _download(
        self, place: str, url: str, sha256: str, part: Path, length_bytes: int, line: Line
    ) -> None:
        # Imported here: HTTP takes 2 MB of memory, and most agents install nothing for weeks.
        from http.client import HTTPException  # noqa: PLC0415

        if place == self.hub_url:
            self._check_link(length_bytes)
        blocks = self._blocks(sha256, length_bytes, line)
        self._is_at_store = False
        self._came_bytes = 0
        try:
            with line.touching(), on_disk():
                # What neighbours waste is not the hub's budget: it is asked after them.
                count = part.with_suffix(".spent" if place == self.hub_url else ".near")
                budget = Budget(count, length_bytes, self._limits.budget_ratio)
                check_budget(budget, length_bytes)
                have_bytes = _good_bytes(part, blocks)
                spent_bytes = budget.spent_bytes
            with contextlib.ExitStack() as stack:
                answer = self._open(stack, url, sha256, have_bytes, line)
                if (
                    answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                    and place == self.hub_url
                    and blocks is None
                ):
                    part.unlink(missing_ok=True)  # it may belong to nothing
                start = start_of(answer, have_bytes)
                with on_disk(), part.open("ab") as file:
                    reserve(file.fileno(), length_bytes)
                    flow = Flow(self._limits.least_bytes_per_s, self._limits.slow_s)
                    taking = Taking(file, length_bytes, budget, self._pace, flow, line)
                    watch = None if blocks is None else resumed(blocks, part)
                    try:
                        taking.copy(answer, start, have_bytes, watch)
                    finally:
                        self._came_bytes = budget.spent_bytes - spent_bytes
                        file.flush()
                        os.fsync(file.fileno())
                        budget.save()
            if self._is_at_store and not self._came_bytes:
                raise StoreFailed("it broke off before the first byte")
        except WrongBlock as wrong:
            if place == self.hub_url:  # a neighbour that lies says nothing about the list
                self._complain(sha256, wrong.start)
            raise FetchFailed(Reason.DIGEST_MISMATCH, str(wrong), final=False) from None
        except (OSError, HTTPException, ValueError) as error:  # a name can be none for DNS
            raise _unreachable(error) from None

    def _complain(self, sha256: str, start: int) -> None:
        self._complaints[sha256, start] += 1
        if self._complaints[sha256, start] >= COMPLAINTS_MAX:
            self._listless.add(sha256)

    def _blocks(self, sha256: str, length_bytes: int, line: Line) -> Blocks | None:
        """Return the list of the file's blocks, None if there is none or it is not worth it."""
        if length_bytes < WORTH_BYTES or sha256 in self._listless:
            return None
        kept = self._folder / f"{sha256}.blocks"
        with contextlib.suppress(OSError, ValueError):
            return Blocks(kept.read_bytes(), length_bytes)
        try:
            status, _, text = self.ask(
                f"/api/v1/blobs/{sha256}/blocks", bytes_max=list_bytes(length_bytes) + 1
            )
            blocks = Blocks(text, length_bytes)
        except (FetchFailed, ValueError):
            return None
        if status != HTTPStatus.OK:
            self._listless.add(sha256)
            return None
        with contextlib.suppress(LinkBroke), line.touching(), on_disk():
            kept.write_bytes(text)
        return blocks

    def _connect(self, url: str) -> "HTTPConnection":
        from http.client import HTTPConnection, HTTPSConnection  # noqa: PLC0415

        address = urlsplit(url)
        host, stall_s = address.hostname or "", self._limits.stall_s
        tls = self._tls if origin_of(url) == self._hub_origin else None
        connection = (
            HTTPSConnection(host, address.port, timeout=stall_s, context=tls)
            if address.scheme == "https"
            else HTTPConnection(host, address.port, timeout=stall_s)
        )
        connection.connect()
        return connection

    def _answer(
        self, connection: "HTTPConnection", path: str, headers: dict[str, str]
    ) -> "HTTPResponse":
        """Ask, and return what is answered once its head is here."""
        with ends_within(connection.sock, 2 * self._limits.stall_s):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
        if is_chunked(answer):
            raise FetchFailed(Reason.UNREACHABLE, CHUNKED, final=False)
        return answer

    def _small(self, answer: "HTTPResponse", bytes_max: int) -> bytes:
        """Return the body of an answer, no more of it than `bytes_max`."""
        flow = Flow(self._limits.least_bytes_per_s, self._limits.slow_s)
        body = bytearray()
        asked_mono = time.monotonic()
        while len(body) < bytes_max and (chunk := answer.read1(bytes_max - len(body))):
            body += chunk
            came_mono = time.monotonic()
            slow = flow.came(len(chunk), came_mono - asked_mono)
            if slow:
                raise FetchFailed(Reason.SLOW, slow, final=False)
            asked_mono = came_mono
        return bytes(body)

    def _open(
        self, stack: contextlib.ExitStack, url: str, sha256: str, have_bytes: int, line: Line
    ) -> "HTTPResponse":
        """Ask for the rest of the file, and whomever we are sent on to.

        Raises:
            StoreFailed: Who that is does not give it.
        """
        first = origin_of(url)
        for _ in range(REDIRECTS_MAX + 1):
            self._is_at_store = origin_of(url) != first
            headers = self._asked(sha256, have_bytes)
            line.release()
            connection = stack.enter_context(contextlib.closing(self._connect(url)))
            line.hold(connection.sock)
            answer = self._answer(connection, _path_of(url), headers)
            if answer.status in REDIRECTS and first != self._hub_origin:
                # Over which link, and at whose cost, a stranger must not choose.
                raise FetchFailed(Reason.DOWNLOAD_FAILED, "a neighbour sends us on", final=False)
            if answer.status not in REDIRECTS:
                if self._is_at_store:
                    self._note_store(url, answer, sha256)
                return answer
            url = followed(url, answer.getheader("Location") or "")
        raise FetchFailed(
            Reason.DOWNLOAD_FAILED, f"sent on more than {REDIRECTS_MAX} times", final=False
        )

    def _asked(self, sha256: str, have_bytes: int) -> dict[str, str]:
        """Return what a request says; nothing of it is a secret, wherever it goes."""
        headers = _headers()
        tag = self._tags.get(sha256) if self._is_at_store else f'"{sha256}"'
        if have_bytes:
            headers["Range"] = f"bytes={have_bytes}-"
            if tag is not None:
                headers["If-Range"] = tag
        return headers

    def _note_store(self, url: str, answer: "HTTPResponse", sha256: str) -> None:
        """Look at the answer of a store before anything of it is taken.

        Raises:
            StoreFailed: It gives nothing.
        """
        if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise StoreFailed(
                f"{named(url)} answered {answer.status}",
                is_stale=answer.status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED),
            )
        self._stored.add(sha256)
        tag = answer.getheader("ETag") or ""
        # One that is weak or missing cannot tell whether two parts are of one file.
        if tag.startswith('"'):
            self._tags[sha256] = tag

    def _finish(self, sha256: str, part: Path, length_bytes: int, line: Line) -> None:
        """Give the file its name, if it is right; keep what is right of it, if that can be told.

        Raises:
            FetchFailed: It is not whole, or not right.
        """
        with on_disk():
            part.touch()
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total_bytes = part.stat().st_size
            if total_bytes < length_bytes:
                # The link broke off, or the announced length is wrong: more may come.
                raise FetchFailed(
                    Reason.UNREACHABLE, f"{total_bytes} of {length_bytes} bytes came", final=False
                )
            if digest != sha256:
                self._keep_right(sha256, part, length_bytes, line)
                raise FetchFailed(
                    Reason.DIGEST_MISMATCH, "what came is not what was announced", final=False
                )
            part.replace(self.path(sha256))
            _fsync_folder(self._folder)
            for kind in (".blocks", ".spent", ".near"):
                part.with_suffix(kind).unlink(missing_ok=True)

    def _keep_right(self, sha256: str, part: Path, length_bytes: int, line: Line) -> None:
        """Leave of a whole file that is wrong what lies before its first wrong block."""
        blocks = self._blocks(sha256, length_bytes, line)
        if blocks is None or _good_bytes(part, blocks) == length_bytes:
            self._listless.add(sha256)  # a list that knows nothing of it is none
            part.unlink()


def _good_bytes(part: Path, blocks: Blocks | None) -> int:
    """Return how much has arrived, without what is known to be wrong."""
    if not part.exists():
        return 0
    length_bytes = part.stat().st_size
    if blocks is None:
        return length_bytes
    good_bytes = blocks.good_bytes(part)
    if good_bytes < length_bytes:
        os.truncate(part, good_bytes)
    return good_bytes


def _path_of(url: str) -> str:
    address = urlsplit(url)
    return address.path.rstrip("/") + (f"?{address.query}" if address.query else "")


def _headers() -> dict[str, str]:
    return {"Connection": "close", "User-Agent": "fieldfare-agent"}


def _unreachable(error: BaseException) -> FetchFailed:
    detail = f"{type(error).__name__}: {error}"[:200]
    return FetchFailed(Reason.UNREACHABLE, detail, final=False)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
