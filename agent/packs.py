"""Getting a release here as a pack from the one that runs, where that is possible.

Owns the question to the hub and the decision whether a pack is worth it. Never makes a release
fail: whatever is wrong with a pack, the whole release is fetched instead, and why is said in the
acknowledgement.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple

from agent.fetch import Fetcher, FetchFailed
from agent.log import say
from agent.releases import Release, calls
from firmware_hooks.contract import InstallerError, Order, TakesPacks
from sync.manifest import DIGEST_PATTERN

logger = logging.getLogger(__name__)

RETRY_AFTER_S_MAX: Final = 60.0
READY: Final = 200
BEING_MADE: Final = 202
ANSWER_BYTES_MAX: Final = 4096
DETAIL_CHARACTERS_MAX: Final = 200

_DIGEST: Final = re.compile(DIGEST_PATTERN.replace("$", r"\Z"))


class Offer(NamedTuple):
    """A pack that the hub has. Nothing of it is trusted but that it can be asked for."""

    sha256: str
    length_bytes: int


class NoPack(Exception):
    """The release comes whole. The message says why."""


class Packs:
    """The way of packs on one device."""

    def __init__(self, fetcher: Fetcher, *, wait_s: float, random: Random | None = None) -> None:
        """Fetch with `fetcher`; wait `wait_s` at most for a pack that is being made."""
        self._fetcher = fetcher
        self._wait_s = wait_s
        self._random = random if random is not None else Random()  # noqa: S311 - jitter only
        self._bad: set[str] = set()
        """Packs that could not be applied; asked for again, they would be no better."""

    async def stage(
        self, order: Order, target: Release, base: Release | None, go_on: Callable[[], None]
    ) -> str:
        """Stage `target` by a pack from `base`; return what was done, for a person.

        Args:
            order: What to stage.
            target: The same, with its installer.
            base: The release that runs and has proven itself, None if there is none.
            go_on: What it raises ends this.

        Raises:
            NoPack: Nothing was done. The message says why.
        """
        installer = target.installer
        if base is None:
            raise NoPack("no proven release runs to start from")
        if not isinstance(installer, TakesPacks) or not await calls(
            partial(installer.can_start_from, base.digest)
        ):
            raise NoPack("what runs was installed in a way that no pack can start from")
        if await calls(lambda: target.installer.folder(target.digest).is_dir()):
            return "it was here already"
        offer = await self._offer(base.digest.hex(), target.digest.hex(), go_on)
        whole_bytes = sum(
            max(0, part.length_bytes - self._fetcher.have_bytes(part.sha256))
            for part in target.manifest.artifacts
        )
        if offer.length_bytes >= whole_bytes:
            raise NoPack("the pack is no smaller than what is left to fetch")
        if offer.sha256 in self._bad:
            raise NoPack("the pack could not be applied before")
        try:
            path = await self._fetcher.fetch(offer.sha256, offer.length_bytes, go_on=go_on)
            did = await calls(partial(installer.stage_pack, order, path, base.digest))
        except FetchFailed as failed:
            raise NoPack(f"the pack did not come: {failed.detail}") from None
        except InstallerError as error:
            self._bad.add(offer.sha256)
            say(
                logger,
                "pack_not_applied",
                level=logging.WARNING,
                pack=offer.sha256,
                detail=error.detail,
            )
            raise NoPack(f"the pack could not be applied: {error.detail}") from None
        version = base.manifest.version
        return f"pack from {version}: {offer.length_bytes} of {whole_bytes} bytes, {did}"[
            :DETAIL_CHARACTERS_MAX
        ]

    async def _offer(self, base: str, target: str, go_on: Callable[[], None]) -> Offer:
        left_s = self._wait_s
        while True:
            go_on()
            try:
                status, retry_after, body = await self._fetcher.ask(
                    f"/api/v1/packs/{base}/{target}", bytes_max=ANSWER_BYTES_MAX
                )
            except FetchFailed as failed:
                raise NoPack(f"the hub could not be asked for a pack: {failed.detail}") from None
            if status == READY:
                return _offer_in(body)
            if status != BEING_MADE:
                raise NoPack(_why(body) or f"the hub answered {status} when asked for a pack")
            wait_s = min(RETRY_AFTER_S_MAX, max(1.0, retry_after)) * self._random.uniform(0.5, 1.5)
            left_s -= wait_s
            if left_s < 0:
                raise NoPack(f"the pack was not made within {self._wait_s:g} s")
            await asyncio.sleep(wait_s)


def _offer_in(body: bytes) -> Offer:
    try:
        fields: Any = json.loads(body)
        sha256, length_bytes = fields["sha256"], fields["length_bytes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        sha256, length_bytes = "", 0
    # It becomes the name of a file.
    is_plain = type(sha256) is str and type(length_bytes) is int  # True is no length
    if not is_plain or not _DIGEST.match(sha256) or length_bytes <= 0:
        raise NoPack("what the hub says about the pack cannot be read")
    return Offer(sha256, length_bytes)


def _why(body: bytes) -> str:
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return detail.rpartition(": ")[2][:DETAIL_CHARACTERS_MAX]
