"""Carries `agent.install` out: intent durable first, then the act, then what came of it.

Owns the order of acts of one install (`agent.acts`) and its end. What follows what is decided in
`agent.install`; how a tree or image is put in place in `firmware_hooks`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import msgspec

from agent import journal as journals
from agent import lives
from agent.acts import Acts
from agent.clock import Clock
from agent.deferral import Phase
from agent.desired import Wish
from agent.documents import Documents
from agent.ending import Ending, reached, stored_ending
from agent.failing import failed
from agent.faults import failure_of
from agent.fetch import FetchFailed
from agent.identity import Identity
from agent.install import (
    DONE,
    GIVEN_UP,
    UNTOUCHED,
    Event,
    State,
    after,
    exhausted,
    loops,
    may_put_off,
    settled,
)
from agent.journal import Journal, is_another_boot, is_ordered_boot, moved, tallied
from agent.line import Trouble
from agent.log import say
from agent.observing import Observing
from agent.patience import Patience, PutAside
from agent.plan import again_of
from agent.releases import Releases, read_manifest
from agent.report import Report
from agent.settings import Settings
from agent.store import Store, StoreError
from agent.threads import in_thread
from agent.trust.admission import Admission
from agent.way_back import WayBack
from firmware_hooks.contract import InstallerError, RetryLater
from sync.manifest import Manifest
from sync.stages import Reason, Stage, allows

logger = logging.getLogger(__name__)

StillWanted = Callable[[str, str], Stage | None]
"""Given component and deployment: None while it is wanted, else the stage it ends in."""

Act = Callable[[Journal], Awaitable[tuple[Journal, Event]]]

ACTIVITY_CHARACTERS_MAX: Final = 300

PROGRESS_EVERY_S: Final = 1.0
"""An installer that says more is shown so often to the service manager."""

WRITES_MAX: Final = 40
"""So often a journal is written after the switch was thrown; a chain that goes on longer goes in a
circle, whatever its states say. A chain with every step interrupted once has some 20. Waiting
counts for nothing: it has a budget of its own."""

WRITES_OF_A_WAIT: Final = 2
"""It is taken up, and put aside again."""

_STAGES: Final = {
    Ending.NO_FAILURE: Stage.ACKNOWLEDGED,
    Ending.FAILED: Stage.FAILED,
    Ending.ROLLED_BACK: Stage.ROLLED_BACK,
    Ending.ROLLBACK_FAILED: Stage.FAILED,
    Ending.INCONSISTENT: Stage.FAILED,
}


class Withdrawn(Exception):
    """The hub no longer wants this install, and nothing that runs was touched yet."""

    def __init__(self, stage: Stage) -> None:
        """Carry the stage it ends in."""
        super().__init__(stage.value)
        self.stage = stage


class InstallEngine:
    """Installs one release at a time."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        documents: Documents,
        clock: Clock,
        identity: Identity | None = None,
        patience: Patience | None = None,
        is_connected: Callable[[], bool] = lambda: False,
    ) -> None:
        """Work with these, as `identity` towards the hub; `load` must be called first.

        `is_connected` tells whether the hub's broker is reached.
        """
        self.patience = patience or Patience(settings, store, documents, clock)
        """Says when an act may begin."""
        self._way_back = WayBack(clock)
        self._settings = settings
        self._store = store
        self._documents = documents
        self._clock = clock
        self._journals: dict[str, Journal] = {}
        self._releases = Releases(settings)
        self._releases.is_connected = is_connected
        self._releases.on_progress = self._progressed
        self._report = Report(documents, clock)
        self.observing = Observing(self._releases, self._report, documents, clock, self._journals)
        """Looks at what runs."""
        self.admission = Admission(
            settings,
            store,
            clock,
            lambda: documents.word_sent_ms,
            identity=identity.folder if identity is not None else None,
        )
        """Lets signed releases in."""
        self._acts = Acts(
            settings, documents, clock, self._releases, self._report, self.admission, identity
        )
        self._staged: tuple[Journal, Event] | None = None
        """What was staged last, so that an install which waits for its switch is staged once."""
        self.on_activity: Callable[[str], None] = lambda _activity: None
        """Hears what is being done, whenever that changes; from any thread."""
        self.progressed_mono = 0.0
        """When an act last began or showed progress, by the loop's clock."""
        self.is_fetching = False
        """Whether a release is being fetched, which may take weeks without a network."""
        self._activity = "idle"
        self._counted: set[str] = set()
        """Deployments for whose fetching this life of the agent counts: see `agent.lives`."""
        self._killed: frozenset[str] = frozenset()
        self._trial: tuple[str, asyncio.Task[tuple[Journal, Event]]] | None = None
        """The deployment that is being tried."""

    async def load(self) -> None:
        """Read the journals, and what was waited."""
        await self.patience.load()
        for component, stored in (await self._store.journals()).items():
            journal = journals.decode(stored)
            if journal is not None:
                self._journals[component] = journal

    @property
    def boot(self) -> bytes:
        """This start of the device."""
        return self._clock.stamp().boot

    @property
    def activity(self) -> str:
        """What is being done, for the status."""
        return self._activity

    @activity.setter
    def activity(self, activity: str) -> None:
        self._activity = activity
        self.progressed_mono = time.monotonic()
        self.on_activity(activity)

    def ask_features(self, is_on: Callable[[str], bool]) -> None:
        """Let the agent's own features be switched by `is_on`; until then all are on."""
        self._acts.is_on = is_on

    def killed(self, deployments: Iterable[str]) -> None:
        """These deployments are off: one that is being tried goes back at once.

        One that was committed stays: to go back from there is a deployment of its own.
        """
        self._killed = frozenset(deployments)
        if self._trial is not None and self._trial[0] in self._killed:
            self._trial[1].cancel()

    def nudge(self) -> None:
        """The hub may be within reach again, or its wishes have changed."""
        self._acts.nudge()
        self.admission.nudge()

    @property
    def trouble(self) -> Trouble | None:
        """What keeps a release from coming; None while nothing does."""
        return self._acts.trouble

    def unfinished(self) -> list[Journal]:
        """Return installs that are under way, or that a crash or stop interrupted."""
        return [journal for journal in self._journals.values() if journal.at not in DONE]

    async def still_waits(self, deployment: str) -> bool:
        """Look again at an install that was put aside; False if it is to be taken up.

        Raises:
            StoreError: The wait cannot be made durable.
        """
        if self._way_back.still_waits(deployment):
            return True
        return await self.patience.still_waits(deployment)

    def next_look_s(self) -> float | None:
        """Return in how many seconds to look again at what waits, None if nothing does."""
        looks = (self.patience.next_look_s(), self._way_back.next_look_s())
        return min((each for each in looks if each is not None), default=None)

    @property
    def going_back(self) -> frozenset[str]:
        """Components of which a release waits to be taken back, or with the switch in doubt."""
        in_doubt = {each.component for each in self.unfinished() if each.at not in UNTOUCHED}
        return self._way_back.components | in_doubt

    def journal(self, component: str) -> Journal | None:
        """Return the last install of a component."""
        return self._journals.get(component)

    async def observe(self) -> None:
        """Check what runs and report it."""

        def tell(activity: str) -> None:
            self.activity = activity

        await self.observing.observe(tell)
        self.activity = "idle"

    async def install(self, wish: Wish, still_wanted: StillWanted) -> None:
        """Bring a deployment to its end, or as far as it may go now. That is durable then."""
        known = self._journals.get(wish.record.component)
        if known is None or known.deployment != wish.deployment:
            known = journals.begun(wish)
        await self.go_on(known, still_wanted)

    async def install_again(self, wish: Wish, still_wanted: StillWanted) -> None:
        """Install a deployment that was acknowledged and whose release runs no more."""
        last = self._journals.get(wish.record.component)
        is_known = last is not None and last.deployment == wish.deployment
        count = again_of(last, self.boot) if last is not None and is_known else 0
        say(
            logger,
            "install_again",
            level=logging.WARNING,
            deployment=wish.deployment,
            component=wish.record.component,
            count=count + 1,
        )
        await self.go_on(journals.begun(wish, again=count + 1), still_wanted)

    async def go_on(self, journal: Journal, still_wanted: StillWanted) -> None:
        """Take up an install, also one that was interrupted, and bring it to its end.

        Returns without an end if it has to wait; `unfinished` names it, and `patience` says why.
        """
        self._way_back.take_up(journal.deployment)
        settings = self._settings
        attempts_max = settings.install_attempts_max
        boot = self._clock.stamp().boot
        if is_ordered_boot(journal, boot):
            journal = msgspec.structs.replace(journal, attempts=max(0, journal.attempts - 1))
        attempts = journal.attempts if journal.writes < WRITES_MAX else 2 * attempts_max
        state = exhausted(journal.at, attempts, attempts_max)
        boots = journal.boots + is_another_boot(journal, boot)
        reason, detail = Reason.ATTEMPTS_EXHAUSTED, f"given up after {journal.attempts} attempts"
        if loops(journal.at, boots, settings.trial_boots_max):
            state = GIVEN_UP[journal.at]
            reason, detail = Reason.BOOT_LOOP, f"not proven after {boots} starts of the device"
        if state is State.FETCHING and journal.deployment not in self._counted:
            self._counted.add(journal.deployment)
            here_bytes = await self._acts.verified_bytes()
            journal = tallied(journal, lives.taken_up(journal.tally, here_bytes))
            if lives.is_too_much(journal.tally, settings.fetch_deaths_max):
                state = GIVEN_UP[state]
                detail = f"the agent died {journal.deaths - 1} times while nothing more came"
        if state is State.COMMITTED is not journal.at:
            state = settled(state, runs=await self._acts.runs(journal))
        if state in (State.FAILED, State.ROLLING_BACK, State.STUCK) and state is not journal.at:
            journal = msgspec.structs.replace(journal, reason=reason.value, detail=detail)
        # Waiting for a download harms nothing, however often the device starts meanwhile.
        tries = journal.attempts + (state is not State.FETCHING)
        journal = await self._write(msgspec.structs.replace(journal, attempts=tries), state)
        while journal.at not in DONE:
            self.activity = f"{journal.at.value} {journal.component} {journal.version}"
            try:
                journal = await self._act(journal, still_wanted)
            except PutAside:
                await self._put_aside(journal)
                return
        self.activity = "idle"
        if journal.at is State.STUCK:
            await self._report.unproven(journal.component, journal.digest)
        await self._finish(journal)

    async def _act(self, journal: Journal, still_wanted: StillWanted) -> Journal:
        """Do what the state asks for and make durable what came of it."""

        def go_on() -> None:
            if (stage := still_wanted(journal.component, journal.deployment)) is not None:
                raise Withdrawn(stage)

        acts: dict[State, Act] = {
            State.FETCHING: lambda given: self._fetch(given, go_on),
            State.STAGING: self._stage,
            State.ACTIVATING: self._activate,
            State.REBOOTING: self._acts.reboot,
            State.TRIAL: self._prove,
            State.COMMITTING: self._acts.commit,
            State.ROLLING_BACK: lambda given: self._go_back(self._acts.roll_back, given),
            State.RETURNING: lambda given: self._go_back(self._acts.come_back, given),
        }
        act = acts[journal.at]
        try:
            if journal.at in UNTOUCHED:
                go_on()
            elif journal.at in GIVEN_UP:
                self._require_alive(journal)
            done, event = await act(journal)
        except Withdrawn as withdrawn:
            event = Event.WITHDRAWN
            done = msgspec.structs.replace(journal, reason=withdrawn.stage.value)
        except (InstallerError, FetchFailed, OSError) as error:
            event, done = self._failed(
                journal, failure_of(error) if isinstance(error, OSError) else error
            )
        return await self._write(done, after(journal.at, event))

    async def _fetch(self, journal: Journal, go_on: Callable[[], None]) -> tuple[Journal, Event]:
        await self.patience.leave(journal.deployment, Phase.FETCH)

        async def count(trouble: Reason | None) -> None:
            """Do not take it for a death if the agent ends while the hub is out of reach."""
            counts = trouble is not Reason.UNREACHABLE
            if counts is (journal.deployment in self._counted):
                return
            await self._keep(journal if counts else self._spared(journal))
            if counts:
                self._counted.add(journal.deployment)

        self._acts.tell_trouble(count)
        self.is_fetching = True
        try:
            done, event = await self._acts.fetch(journal, go_on)
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError):  # then it counts, which is no harm
                await count(Reason.UNREACHABLE)
            raise
        finally:
            self.is_fetching = False
        self._counted.discard(journal.deployment)
        return tallied(done, lives.Tally()), event

    async def _stage(self, journal: Journal) -> tuple[Journal, Event]:
        """Stage, and wait until the switch may be thrown: in the next state it may be already."""
        manifest = read_manifest(journal.manifest, journal.digest)
        staged, self._staged = self._staged, None
        if staged is None or staged[0].deployment != journal.deployment:
            await self.patience.leave(journal.deployment, Phase.STAGE, manifest)
            staged = await self._unless_busy(self._acts.stage, journal, Phase.STAGE, manifest)
        self._staged = staged
        await self.patience.leave(journal.deployment, Phase.ACTIVATE, manifest)
        await self._acts.check(journal, manifest)  # it may have waited for days
        done, event = staged
        return msgspec.structs.replace(done, attempts=journal.attempts), event

    async def _activate(self, journal: Journal) -> tuple[Journal, Event]:
        """Activate, or begin anew with staging later if the installer asks for time.

        After a crash the switch may have been thrown before, so then it waits where it is.
        """
        if not may_put_off(journal.at, journal.writes):
            manifest = read_manifest(journal.manifest, journal.digest)
            return await self._unless_busy(self._acts.activate, journal, Phase.ACTIVATE, manifest)
        try:
            return await self._acts.activate(journal)
        except RetryLater as later:
            if await self._acts.runs(journal):
                raise InstallerError(
                    Reason.INSTALLER_FAILED,
                    f"the installer asks to wait and has switched already: {later.detail}"[:200],
                ) from None
            self.patience.asked(journal.deployment, later.detail, later.wait_s)
            self._staged = None
            return journal, Event.PUT_OFF

    async def _go_back(self, act: Act, journal: Journal) -> tuple[Journal, Event]:
        """Go back, or put that aside for as long as the installer asks to wait."""
        try:
            return await act(journal)
        except RetryLater as later:
            self._way_back.put_aside(journal, later)
            raise

    async def _prove(self, journal: Journal) -> tuple[Journal, Event]:
        """Try the release, and stop trying it when its deployment is killed."""
        self._require_alive(journal)  # the order may have come since it was switched to
        trial = asyncio.ensure_future(self._acts.prove(journal))
        self._trial = (journal.deployment, trial)
        try:
            done = await trial
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the agent stops
            self._require_alive(journal)
            raise
        finally:
            self._trial = None
        self._require_alive(journal)
        return done

    def _require_alive(self, journal: Journal) -> None:
        if journal.deployment in self._killed:
            raise InstallerError(Reason.KILLED, "an operator killed the deployment")

    async def _unless_busy(
        self,
        act: Act,
        journal: Journal,
        phase: Phase,
        manifest: Manifest,
    ) -> tuple[Journal, Event]:
        """Act, or put the install aside for as long as the installer asks to wait."""
        while True:
            try:
                return await act(journal)
            except RetryLater as later:
                self.patience.asked(journal.deployment, later.detail, later.wait_s)
                await self.patience.leave(journal.deployment, phase, manifest)

    async def _put_aside(self, journal: Journal) -> None:
        """Leave an install for now. What it waits for is no failed try, and no step of its own."""
        tries = journal.attempts - (journal.at is not State.FETCHING)
        waiting = msgspec.structs.replace(
            journal,
            attempts=max(0, tries),
            writes=max(0, journal.writes - WRITES_OF_A_WAIT),
            # Starts of the device while an installer waits are no starts of the release.
            boots=0 if journal.at is State.ACTIVATING else journal.boots,
            back_tries=journal.back_tries + (journal.at in (State.ROLLING_BACK, State.RETURNING)),
        )
        await self._write(self._spared(waiting), journal.at)
        self.activity = "idle"

    def _failed(
        self, journal: Journal, error: InstallerError | FetchFailed
    ) -> tuple[Event, Journal]:
        say(
            logger,
            "install_failed",
            level=logging.WARNING,
            deployment=journal.deployment,
            state=journal.at,
            reason=error.reason,
            detail=error.detail,
        )
        return failed(journal, error)

    async def _finish(self, journal: Journal) -> None:
        """Acknowledge the end and clear away. Repeated harmlessly after a crash."""
        ending = reached(stored_ending(journal.ending), journal.at)
        stage = Stage(journal.reason) if journal.at is State.WITHDRAWN else _STAGES[ending]
        if journal.at is State.ROLLED_BACK and journal.before == journal.digest:
            stage = Stage.FAILED  # nothing was gone back to
        if stage is not Stage.ACKNOWLEDGED and not allows(
            self._documents.stages(journal.deployment), stage
        ):
            stage = Stage.FAILED
        if stage is Stage.ACKNOWLEDGED:
            # Where committing was let go because it took the device down, this was not said yet;
            # the trial was passed all the same, or there would have been nothing to commit.
            await self._documents.acknowledge(journal.deployment, Stage.HEALTHY)
        await self._documents.acknowledge(
            journal.deployment, stage, reason=journal.reason, detail=journal.detail
        )
        is_idle = all(each.at in DONE for each in self._journals.values())
        await in_thread(partial(self._acts.clear_away, journal, all_too=is_idle), "clearing away")

    async def finish_ended(self) -> None:
        """Acknowledge ends that became durable just before a crash."""
        for journal in list(self._journals.values()):
            if journal.at in DONE:
                await self._finish(journal)

    # Parts.

    def _progressed(self, line: str) -> None:
        """Show how far an installer is; from whatever thread it works in."""
        activity = f"{self._activity.partition(': ')[0]}: {line}"[:ACTIVITY_CHARACTERS_MAX]
        if time.monotonic() - self.progressed_mono >= PROGRESS_EVERY_S:
            self.activity = activity
        else:
            self._activity = activity

    async def _write(self, journal: Journal, state: State) -> Journal:
        journal = moved(journal, state, self._clock.stamp().boot)
        await self._keep(journal)
        say(
            logger,
            "install",
            deployment=journal.deployment,
            component=journal.component,
            version=journal.version,
            state=state,
        )
        return journal

    async def _keep(self, journal: Journal) -> None:
        await self._store.write_journal(journal.component, journals.encode(journal))
        self._journals[journal.component] = journal

    def _spared(self, journal: Journal) -> Journal:
        """Return the journal if the end of this life would be no death of its fetching."""
        if journal.deployment not in self._counted:
            return journal
        self._counted.remove(journal.deployment)
        return tallied(journal, lives.spared(journal.tally))
