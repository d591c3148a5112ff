"""Bringing a file of a release here: resumed, bounded, verified, within a budget.

Owns when an attempt is made, and when there is no use in another. An attempt itself is
`agent.transfer`'s.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from agent.line import FetchFailed, FetchLimits, Line, OnTrouble, Trouble, tell_nobody
from agent.threads import in_thread
from agent.transfer import Transfer
from sync.stages import Reason

__all__ = ["FetchFailed", "FetchLimits", "Fetcher"]

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_LONGEST_S: Final = 300.0


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
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Fetch from `hub_url` into `folder`, unless the file lies in `imported`.

        `tls` says how to speak HTTPS to the hub, and who this device is; None for what the system
        trusts.
        """
        self._folder = folder
        self._limits = limits
        self._transfer = Transfer(hub_url, folder, limits, imported, tls)
        self._nudge = asyncio.Event()
        self._line: Line | None = None
        self._go_on: Callable[[], None] = lambda: None
        self.trouble: Trouble | None = None
        """What keeps the file from coming that is being fetched; None while nothing does."""
        self.may_ask_neighbours: Callable[[], bool] = lambda: True
        """Asked before each attempt, if there are neighbours to ask."""
        self.on_trouble: OnTrouble = tell_nobody
        """Told why nothing comes, and with None when something has come, or may come again."""
        self._random = random if random is not None else Random()  # noqa: S311 - jitter only

    def makes_room(self, make_room: Callable[[int], None]) -> None:
        """Call `make_room` with the number of bytes that a download lacks on the disk."""
        self._transfer.make_room = make_room

    def path(self, sha256: str) -> Path:
        """Return where the verified file lies once it is here."""
        return self._transfer.path(sha256)

    def have_bytes(self, sha256: str) -> int:
        """Return how much of a file has arrived; nothing of it may be right."""
        return self._transfer.have_bytes(sha256)

    async def ask(self, path: str, *, bytes_max: int) -> tuple[int, float, bytes]:
        """Ask the hub something small, once; return status, Retry-After in seconds, and answer.

        Raises:
            FetchFailed: It could not be asked.
        """
        return await in_thread(partial(self._transfer.ask, path, bytes_max), "question")

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
        here_bytes = self._transfer.have_bytes(sha256)
        self.trouble = None
        self._go_on = go_on
        while True:
            go_on()
            if self._nudge.is_set():  # the hub may be within reach again
                await self.on_trouble(None)
            self._nudge.clear()
            self._line = line = Line()
            if self._limits.neighbours:
                self._transfer.uses_neighbours = self.may_ask_neighbours()
            working = asyncio.ensure_future(
                in_thread(partial(self._transfer.attempt, sha256, length_bytes, line), "download")
            )
            line.on_cut_unconnected = working.cancel
            try:
                await asyncio.wait({working})
                if not working.cancelled():
                    working.result()
                    self.trouble = None
                    await self.on_trouble(None)
                    return self.path(sha256)
            except FetchFailed as failed:
                go_on()
                self.trouble = Trouble(failed.reason.value, failed.detail, 0.0)
                before_bytes, here_bytes = here_bytes, self._transfer.have_bytes(sha256)
                is_further = here_bytes > before_bytes
                attempt = 1 if is_further else attempt + 1  # a link that brings something is asked
                wrong_count += failed.reason is not Reason.UNREACHABLE
                if failed.final or wrong_count >= self._limits.attempts_max:
                    raise
                await self.on_trouble(None if is_further else failed.reason)
            finally:
                line.cut()
                working.cancel()
                self._line = None
            go_on()
            ceiling_s = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 16))
            wait_s = self._random.uniform(0, ceiling_s)
            if self.trouble is not None:
                again_mono = asyncio.get_running_loop().time() + wait_s
                self.trouble = replace(self.trouble, again_mono=again_mono)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._nudge.wait()

    def verified_bytes(self) -> int:
        """Return how much of all files is here and was found right when it came."""
        with contextlib.suppress(OSError):  # it fails where it is written to, and says so there
            return self._transfer.verified_bytes()
        return 0

    def clean_up(self, keep: set[str]) -> None:
        """Remove everything but the files with these digests, and their beginnings.

        Raises:
            OSError: The disk fails; the rest is removed another time.
        """
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name.partition(".")[0] not in keep:
                    path.unlink(missing_ok=True)
