"""Whether a release may be installed here, as the agent's own process asks it.

Owns the pinned root's place, the floor of time in the store, and the child that verifies. Decides
nothing about signatures: that is the child's work (`agent.trust.verify`), which exits and takes the
memory of its libraries with it.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from agent.clock import Clock
from agent.line import OnTrouble, Trouble, tell_nobody
from agent.log import say
from agent.settings import Settings
from agent.store import Store
from agent.trust.floor import Floor
from agent.trust.question import GRANTED, UNREACHABLE, Answer, Question
from firmware_hooks.contract import InstallerError
from sync.stages import Reason

logger = logging.getLogger(__name__)

REFUSALS_MAX: Final = 3
"""Refusals after which the install fails: the first may be a link that garbles what it carries."""

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_LONGEST_S: Final = 300.0

CHILD_MAX_S: Final = 1800.0
"""Longest run of the child. The worst chain of roots over the slowest link takes less."""

_NUMBERS: Final = {
    "at_s": "trust_floor_s",
    "boot": "trust_floor_boot",
    "boottime_ms": "trust_floor_boottime_ms",
    "keys": "trust_floor_keys",
    "void_hub_ms": "trust_void_hub_ms",
}
"""Under which names the store keeps the floor. They are stored; never reuse one."""

NO_ROOT: Final = (
    "no root is pinned on this device: give it the root.json of `fieldfare keys init` as "
    "trust_root, or set allow_unsigned = true on a device that is only for trying"
)

UNSIGNED_ALLOWED: Final = "allow_unsigned is set and no root is pinned: ANYTHING is installed here"


class Admission:
    """Lets signed releases in."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        hub_ms: Callable[[], int],
        random: Random | None = None,
        *,
        identity: Path | None = None,
    ) -> None:
        """`hub_ms` gives when the last message of the hub was sent, by its clock; 0 for none.

        What lies in the folder `identity` is shown to the hub; None to show nothing.
        """
        self._identity = identity
        self._settings = settings
        self._store = store
        self._clock = clock
        self._hub_ms = hub_ms
        self._nudge = asyncio.Event()
        self._random = random if random is not None else Random()  # noqa: S311 - jitter only
        self._last: Answer | None = None
        self.trouble: Trouble | None = None
        """What keeps it from being proven that a release is signed; None while nothing does."""
        self.on_trouble: OnTrouble = tell_nobody
        """Told why nothing comes, and with None when something has come, or may come again."""

    @property
    def pinned(self) -> Path | None:
        """Where the pinned root lies; None if there is none."""
        path = self._settings.pinned_root
        return path if path.exists() else None

    def nudge(self) -> None:
        """The hub may be within reach again, or its wishes have changed: look, and do not wait."""
        self._nudge.set()

    def say_how(self) -> None:
        """Log how this device decides, loudly if it takes anything."""
        if self.pinned is not None:
            say(logger, "trust", root=self.pinned)
        elif self._settings.allow_unsigned:
            say(logger, "unsigned_allowed", level=logging.ERROR, danger=UNSIGNED_ALLOWED)
        else:
            say(logger, "no_root", level=logging.ERROR, problem=NO_ROOT)

    def status(self) -> dict[str, Any]:
        """Return what people should know of this device's trust."""
        if self.pinned is None:
            allowed = self._settings.allow_unsigned
            return {"signed": False, "problem": UNSIGNED_ALLOWED if allowed else NO_ROOT}
        known: dict[str, Any] = {"signed": True}
        if self._last is not None and self._last.root_version:
            known |= {
                "root_version": self._last.root_version,
                "targets_version": self._last.targets_version,
                "overdue_s": self._last.overdue_s,
            }
        if self._last is not None and self._last.reason:
            known["refused"] = f"{self._last.reason}: {self._last.detail}"
        return known

    async def require(
        self,
        component: str,
        version: str,
        digest: bytes,
        length_bytes: int,
        *,
        go_on: Callable[[], None],
    ) -> None:
        """Return once it is proven that this manifest is signed and on the current list.

        A hub that cannot be reached costs nothing but time, as for a download.

        Args:
            component: What is to be installed.
            version: Which version.
            digest: SHA-256 of its manifest.
            length_bytes: Length of the manifest.
            go_on: Called before each attempt and after each `nudge`; what it raises ends this.

        Raises:
            InstallerError: It was refused; says why.
        """
        if self.pinned is None:
            if not self._settings.allow_unsigned:
                raise InstallerError(Reason.NO_ROOT, NO_ROOT)
            name = f"{component}@{version}"
            say(logger, "unsigned_release", level=logging.WARNING, release=name)
            return
        attempt = refused_count = 0
        self.trouble = None
        while True:
            go_on()
            if self._nudge.is_set():  # the hub may be within reach again
                await self.on_trouble(None)
            self._nudge.clear()
            floor = await self._floor()
            question = self._question(floor, component, version, digest, length_bytes)
            answer = await self._ask(question, go_on)
            await self._keep(floor, answer)
            if answer.verdict == GRANTED:
                self.trouble = None
                await self.on_trouble(None)
                return
            attempt += 1
            if answer.verdict != UNREACHABLE:
                refused_count += 1
                say(
                    logger,
                    "refused",
                    level=logging.WARNING,
                    reason=answer.reason,
                    detail=answer.detail,
                )
            if refused_count >= REFUSALS_MAX:
                raise InstallerError(Reason(answer.reason), answer.detail)
            await self.on_trouble(Reason.UNREACHABLE if answer.verdict == UNREACHABLE else None)
            ceiling_s = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 16))
            wait_s = self._random.uniform(0, ceiling_s)
            again_mono = asyncio.get_running_loop().time() + wait_s
            reason = answer.reason or Reason.UNREACHABLE.value
            self.trouble = Trouble(reason, answer.detail, again_mono)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._nudge.wait()

    def _question(
        self, floor: Floor, component: str, version: str, digest: bytes, length_bytes: int
    ) -> Question:
        return Question(
            state_dir=str(self._settings.state_dir),
            root=str(self._settings.pinned_root),
            hub_url=self._settings.hub_url,
            identity=str(self._identity or ""),
            stall_s=self._settings.fetch_stall_s,
            floor_s=floor.now_s(self._clock.stamp(), self._hub_ms()),
            floor_keys=floor.keys,
            budget_s=int(self._settings.staleness_budget_s),
            component=component,
            version=version,
            digest=digest,
            length_bytes=length_bytes,
        )

    async def _ask(self, question: Question, go_on: Callable[[], None]) -> Answer:
        # -P: the folder it starts in must not lend modules.
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "agent.trust.verify"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        talking = asyncio.ensure_future(child.communicate(msgspec.json.encode(question)))
        try:
            async with asyncio.timeout(CHILD_MAX_S):
                while not talking.done():
                    nudged = asyncio.ensure_future(self._nudge.wait())
                    await asyncio.wait({talking, nudged}, return_when=asyncio.FIRST_COMPLETED)
                    nudged.cancel()
                    self._nudge.clear()
                    go_on()
            told, _ = await talking
            return msgspec.json.decode(told, type=Answer)
        except TimeoutError:
            return Answer(verdict=UNREACHABLE, detail="verifying took too long")
        except msgspec.MsgspecError:
            # It was killed, or the disk is full; its own words are in the log.
            detail = f"the verifier ended with {child.returncode} and no answer"
            return Answer(verdict=UNREACHABLE, detail=detail)
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
            talking.cancel()
            await child.wait()

    async def _floor(self) -> Floor:
        stored = {field: await self._store.number(name) for field, name in _NUMBERS.items()}
        return Floor(**stored)

    async def _keep(self, floor: Floor, answer: Answer) -> None:
        self._last = answer
        if not answer.online_id:
            return
        later = floor.after(answer.signed_s, answer.online_id, self._clock.stamp(), self._hub_ms())
        await self._store.set_numbers(
            **{name: int(getattr(later, field)) for field, name in _NUMBERS.items()}
        )
