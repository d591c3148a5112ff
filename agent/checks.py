"""How one thing is looked at that a release is judged by: command, HTTP, systemd unit, hub.

Owns what is run for it. HTTP and systemd are asked by programs that end, so that a resident agent
holds neither in memory.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable

from agent.command import Ended
from agent.health import Hopeless
from sync.manifest import Check, Command
from sync.stages import Reason

Run = Callable[[Command, float], Awaitable[Ended]]
"""Runs a command of the release within so many seconds."""

SYSTEMCTL_S = 10.0
"""Longest that systemd may take to answer."""

HUB_LOOK_S = 0.2
"""How often it is looked whether the hub is reached."""

NOT_REACHED = "the hub was not reached within {seconds:g} s, which is no reason to go back"


class Checks:
    """Looks at the things that one trial is about."""

    def __init__(self, run: Run, is_connected: Callable[[], bool]) -> None:
        """Run commands by `run`; `is_connected` tells whether the hub's broker is reached."""
        self._run = run
        self._is_connected = is_connected
        self._restarts: dict[str, int] = {}
        """By unit, as they were at the first look."""
        self._seen: dict[str, int] = {}
        """By unit, as they were at the last look."""

    async def look(self, check: Check, within_s: float) -> Ended:
        """Look at one thing.

        Raises:
            Hopeless: A unit ends again and again.
        """
        if check.kind == "http":
            return await self._http(check, within_s)
        if check.kind == "unit":
            return await self._unit(check, within_s)
        if check.kind == "hub":
            return await self._hub(check.budget_s)
        return await self._run(check.command or ("false",), within_s)

    async def _http(self, check: Check, within_s: float) -> Ended:
        wait_s = min(check.timeout_s, within_s)
        words = (sys.executable, "-P", "-m", "agent.probe", check.url, str(check.status))
        return await self._run((*words, f"{wait_s:g}"), wait_s + SYSTEMCTL_S)

    async def _unit(self, check: Check, within_s: float) -> Ended:
        limit_s = min(SYSTEMCTL_S, max(within_s, 1.0))
        asked = ("systemctl", "show", "--property=NRestarts", "--value", check.unit)
        told = await self._run(asked, limit_s)
        is_new = False
        with contextlib.suppress(ValueError):
            restarts = int(told.output)
            before = self._restarts.setdefault(check.unit, restarts)
            is_new = restarts > self._seen.get(check.unit, restarts)
            self._seen[check.unit] = restarts
            if restarts - before > check.restarts_max:
                raise Hopeless(
                    Reason.CRASH_LOOP, f"{check.unit} was restarted {restarts - before} times"
                )
        ended = await self._run(("systemctl", "is-active", check.unit), limit_s)
        if ended.code == 0:
            # Active again is not the same as active all the time.
            return Ended(1, f"{check.unit} was restarted meanwhile") if is_new else ended
        return Ended(ended.code, f"{check.unit} is {ended.output or 'not active'}", ended.is_late)

    async def _hub(self, budget_s: float) -> Ended:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(budget_s):
                while not self._is_connected():  # noqa: ASYNC110 - of a link in another thread
                    await asyncio.sleep(HUB_LOOK_S)
                return Ended(0, "")
        return Ended(1, NOT_REACHED.format(seconds=budget_s))
