"""The device's work on deployments: one loop that turns wishes into installs, one at a time.

Owns the order: first what a crash interrupted, then what is wished for now. Decides nothing that
`agent.plan` and `agent.install` do not decide.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from agent.desired import Wish, standing, wishes, without
from agent.documents import Documents
from agent.install import UNTOUCHED
from agent.installer import InstallEngine
from agent.plan import Act, Step, astray, end_of, end_of_again, end_of_gone, gone, plan
from agent.settings import Settings
from agent.store import StoreError
from agent.why import Situation, tell
from sync.stages import Stage, is_final
from sync.stamps import Stamp

logger = logging.getLogger(__name__)

ACT_LONGEST_S: Final = 25 * 3600.0
"""One act of an install that shows no progress for longer than this hangs. Each has bounds of its
own, the longest a day (Mender's update modules); this one finds the agent that does not keep them.
"""

RETRY_S: Final = 30.0
"""Wait after a full disk or another failure of the store, before the work is tried again."""


class Work:
    """Keeps what runs in line with what is wished."""

    def __init__(
        self,
        settings: Settings,
        documents: Documents,
        engine: InstallEngine,
        *,
        on_written: Callable[[], None],
        off: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`on_written` is called whenever something was written that the hub should hear.

        `off` names the deployments that are killed.
        """
        self._labels = {**settings.labels, "class": settings.device_class}
        self._documents = documents
        self._engine = engine
        self._off = off
        self._on_written = on_written
        self._install_again_max = settings.install_attempts_max
        self._wake = asyncio.Event()
        self._stir = asyncio.Event()
        """Set with `_wake`, and when somebody asks whether the loop turns."""
        self._seen: dict[str, Wish] = {}
        """What was wished when it was last looked at: what is missing since then has ended."""
        self.recovered = asyncio.Event()
        """Set once what a crash interrupted is known, and ends that it left untold are told."""
        self._asked: list[asyncio.Future[None]] = []
        self._acts = False
        self._is_loaded = False
        """Whether it is known what is under way. Before, nothing can be said to have ended."""

    def wake(self) -> None:
        """There may be something new to do, or the hub may be within reach again."""
        self._wake.set()
        self._stir.set()
        self._engine.nudge()

    def killed(self) -> None:
        """An order may have come that a deployment is off, also one that is being tried."""
        self._engine.killed(self._off())
        self.wake()

    def remember(self) -> None:
        """Remember what is wished for; to be called before the hub can be heard.

        What vanishes with its first word would not be known to have been there.
        """
        self._seen = {wish.deployment: wish for wish in self._wishes()}

    async def run(self) -> None:
        """Work until cancelled. What was under way goes on at the next start."""
        self._acts = True
        await self._persistently(self._begin)
        while True:
            self._acts = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._engine.next_look_s()):
                    await self._turn()
            self._answer()
            self._wake.clear()
            self._acts = True
            await self._persistently(self._pass)

    async def _turn(self) -> None:
        """Wait for something to do, and meanwhile answer who asks whether the loop turns."""
        while not self._wake.is_set():
            self._answer()
            await self._stir.wait()
            self._stir.clear()

    def _answer(self) -> None:
        for each in self._asked:
            if not each.done():
                each.set_result(None)
        self._asked.clear()

    async def goes_on(self) -> bool:
        """Tell whether the work goes on: an act within its time, or a loop that answers.

        Never returns if the loop hangs while nothing is done.
        """
        if self._acts:
            # Fetching has bounds of its own, and may take weeks without a network.
            idle_s = asyncio.get_running_loop().time() - self._engine.progressed_mono
            return self._engine.is_fetching or idle_s < ACT_LONGEST_S
        answer = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._stir.set()
        await answer
        return True

    def why(self, now: Stamp, *, connected: bool) -> dict[str, Any]:
        """Return what is being done and waited for, in words and figures."""
        engine, documents = self._engine, self._documents
        situation = Situation(
            now=now,
            mono_s=asyncio.get_running_loop().time(),
            connected=connected,
            has_met_hub=documents.has_met_hub,
            settled=documents.settled,
            wishes=self._wishes(),
            stages=documents.stages,
            acks=documents.acks,
            journals=engine.unfinished(),
            looked=engine.patience.looked,
            waited_s=engine.patience.counted_s,
            trouble=engine.trouble,
            running=engine.observing.versions(),
            unknown=engine.observing.unknown(),
        )
        return tell(situation)

    async def acknowledge(self) -> None:
        """Acknowledge what is new, and what ends without being begun, whatever is under way.

        Raises:
            StoreError: Not all of it was written; it is tried again with the next work.
        """
        for step in self._plan():
            if step.act is Act.ACKNOWLEDGE and (self._is_loaded or not is_final(step.stage)):
                await self._acknowledge(step)
        if not self._is_loaded:
            return
        current = self._wishes()
        for step in gone(self._seen, current):
            if step.wish.deployment not in self._under_way():
                await self._acknowledge(step)
        self._seen = {wish.deployment: wish for wish in current}

    async def _acknowledge(self, step: Step) -> None:
        if await self._documents.acknowledge(step.wish.deployment, step.stage):
            self._on_written()

    async def _begin(self) -> None:
        await self._engine.load()
        self._is_loaded = True
        self._engine.killed(self._off())
        await self._engine.finish_ended()
        self.recovered.set()
        await self._engine.observe()
        self._on_written()
        for journal in self._engine.unfinished():
            await self._engine.go_on(journal, self._still_wanted)
            self._on_written()
        self._wake.set()

    async def _pass(self) -> None:
        """Install what is wished for, one after the other, looking anew before each."""
        tried: set[str] = set()
        while True:
            await self.acknowledge()
            await self._engine.patience.tidy(self._open())
            if await self._take_up(tried):
                continue
            wish = next(
                (
                    step.wish
                    for step in self._plan()
                    if step.act is Act.INSTALL
                    and step.wish.deployment not in tried
                    and step.wish.record.component not in self._engine.going_back
                ),
                None,
            )
            if wish is not None:
                tried.add(wish.deployment)
                if not await self._engine.observing.adopt(wish):
                    await self._engine.install(wish, self._still_wanted)
                self._on_written()
            elif not await self._bring_back(tried):
                return

    async def _take_up(self, tried: set[str]) -> bool:
        """Go on with one install that was put aside; False if none may."""
        for journal in self._engine.unfinished():
            is_begun = journal.at not in UNTOUCHED
            is_wanted = self._still_wanted(journal.component, journal.deployment) is None
            if (is_begun or is_wanted) and (
                journal.deployment in tried or await self._engine.still_waits(journal.deployment)
            ):
                continue
            tried.add(journal.deployment)
            await self._engine.go_on(journal, self._still_wanted)
            self._on_written()
            return True
        return False

    def _open(self) -> set[str]:
        """Return the deployments that may still wait for something."""
        wished = {wish.deployment for wish in self._wishes()}
        ended = {
            name
            for name in wished
            if any(is_final(stage) for stage in self._documents.stages(name))
        }
        return (wished - ended) | self._under_way()

    async def _bring_back(self, tried: set[str]) -> bool:
        """Install one release again that ought to run and does not; False if there is none."""
        if not self._documents.has_caught_up:
            return False
        wishes = self._wishes()
        lost = astray(
            wishes,
            self._documents.stages,
            await self._engine.observing.runs({wish.record.component for wish in wishes}),
            is_later=self._documents.is_later,
            again_max=self._install_again_max,
            boot=self._engine.boot,
        )
        wish = next((each for each in lost if each.deployment not in tried), None)
        if wish is None:
            return False
        tried.add(wish.deployment)
        await self._engine.install_again(wish, self._still_wanted)
        self._on_written()
        return True

    def _plan(self) -> list[Step]:
        if not self._documents.has_met_hub:
            return []
        return plan(
            self._wishes(), self._documents.stages, self._documents.hub_ms, self._under_way()
        )

    def _under_way(self) -> set[str]:
        return {journal.deployment for journal in self._engine.unfinished()}

    def _wishes(self) -> list[Wish]:
        return without(wishes(self._documents.wanted(), self._labels), self._off())

    def _still_wanted(self, component: str, deployment: str) -> Stage | None:
        known = self._wishes()
        mine = next((wish for wish in known if wish.deployment == deployment), None)
        counting = standing(known).get(component)
        if mine is None:
            return end_of_gone(counting)  # the hub's document was begun anew without it
        if Stage.ACKNOWLEDGED in self._documents.stages(deployment):
            return end_of_again(mine, known, self._documents.stages, self._documents.hub_ms)
        return end_of(mine, counting, self._documents.hub_ms)

    async def _persistently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, again while the store refuses it; a full disk is no reason to die."""
        while True:
            try:
                await work()
            except (StoreError, OSError) as error:
                logger.error("store refused error=%s retry_s=%g", error, RETRY_S)  # noqa: TRY400 - the message is for people
                await asyncio.sleep(RETRY_S)
            else:
                return
