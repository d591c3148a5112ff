"""Renewing the certificate while the agent runs: when it is looked, and the process that does it.

Owns the waiting and the child process. What the child does is `agent.enrol`; when it is due,
`agent.identity`.

The child has the cryptography in its memory and ends; the agent never imports it.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from random import Random
from typing import Final

from agent.clock import Clock
from agent.identity import Identity, check_wait_s, is_due
from agent.log import say

logger = logging.getLogger(__name__)

CHILD_MAX_S: Final = 120.0
TOLD_BYTES_MAX: Final = 2000


class Renewal:
    """The task that keeps the identity alive.

    Args:
        identity: To renew; the context in it is used by everything that connects.
        hub_url: Whom to ask.
        device_key: Where its key lives, as in the settings.
        clock: Of the device; may be wrong.
        is_connected: Tells whether the broker is reached now.
    """

    def __init__(
        self,
        identity: Identity,
        hub_url: str,
        device_key: str,
        clock: Clock,
        is_connected: Callable[[], bool],
    ) -> None:
        self._identity = identity
        self._hub_url = hub_url
        self._device_key = device_key
        self._clock = clock
        self._is_connected = is_connected
        self._random = Random()  # noqa: S311 - jitter only
        self._spread = self._random.random()
        self._seen_mono = clock.mono_s()

    async def run(self) -> None:
        """Look from time to time, and renew when it is due, until cancelled."""
        failure_count = 0
        while True:
            now_mono = self._clock.mono_s()
            if self._is_connected():
                self._seen_mono = now_mono
            if is_due(
                self._identity.validity,
                self._clock.wall_ms() / 1000,
                away_s=now_mono - self._seen_mono,
                spread=self._spread,
            ):
                failure_count = 0 if await self._renew() else failure_count + 1
            wait_s = check_wait_s(self._identity.validity, failure_count, self._random)
            await asyncio.sleep(wait_s)

    async def _renew(self) -> bool:
        """Let the child ask; return whether there is a new certificate."""
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the folder it starts in must not lend modules
                "-m",
                "agent.enrol",
                "--folder",
                str(self._identity.folder),
                "--hub-url",
                self._hub_url,
                "--device-key",
                self._device_key,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            say(logger, "renewal_failed", level=logging.WARNING, error=error)
            return False
        try:
            async with asyncio.timeout(CHILD_MAX_S):
                told, _ = await child.communicate()
        except TimeoutError:
            told = b"no answer"
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if child.returncode:
            reason = told[:TOLD_BYTES_MAX].decode(errors="replace").strip()
            say(logger, "renewal_failed", level=logging.WARNING, reason=reason)
            return False
        before = self._identity.validity
        try:
            self._identity.reload()
        except OSError as error:
            say(logger, "renewal_not_used", level=logging.ERROR, error=error)
            return False
        is_new = self._identity.validity != before
        if is_new:
            say(logger, "certificate_renewed", until_s=self._identity.validity.not_after_s)
        return is_new
