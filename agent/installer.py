"""Carries `agent.install` out: intent durable first, then the act, then what came of it.

Owns the order of acts of one install, and the acknowledgements that go with it. What follows what
is decided in `agent.install`; how a tree or image is put in place in `firmware_hooks`.
"""

import asyncio
import errno
import logging
import os
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import msgspec

from agent import journal as journals
from agent.clock import Clock
from agent.command import Ended, run_command
from agent.desired import Wish
from agent.documents import Documents
from agent.fetch import Fetcher, FetchFailed, FetchLimits
from agent.health import Verdict, check
from agent.install import DONE, UNTOUCHED, Event, State, after, exhausted
from agent.journal import Journal
from agent.settings import Settings
from agent.store import Store
from firmware_hooks.contract import Installer, InstallerError, Order
from sync import documents as names
from sync import records
from sync.manifest import MANIFEST_BYTES_MAX, BadManifest, Command, Manifest, parse_manifest
from sync.records import Running
from sync.stages import Reason, Stage

logger = logging.getLogger(__name__)

ENTRY_POINTS: Final = "fieldfare.installers"
NO_DIGEST: Final = b"\0" * 32
DIGEST: Final = re.compile(r"[0-9a-f]{64}")

StillWanted = Callable[[str, str], Stage | None]
"""Given component and deployment: None while it is wanted, else the stage it ends in."""


class Withdrawn(Exception):
    """The hub no longer wants this install, and nothing that runs was touched yet."""

    def __init__(self, stage: Stage) -> None:
        """Carry the stage it ends in."""
        super().__init__(stage.value)
        self.stage = stage


class InstallEngine:
    """Installs one release at a time."""

    def __init__(
        self, settings: Settings, store: Store, documents: Documents, clock: Clock
    ) -> None:
        """Work with these; `load` must be called first."""
        self._settings = settings
        self._store = store
        self._documents = documents
        self._clock = clock
        self._journals: dict[str, Journal] = {}
        self._fetcher = Fetcher(
            settings.hub_url,
            settings.state_dir / "downloads",
            FetchLimits(
                attempts_max=settings.fetch_attempts_max,
                stall_s=settings.fetch_stall_s,
                disk_reserve_bytes=settings.disk_reserve_bytes,
            ),
        )
        self.activity = "idle"
        """What is being done, for the status."""

    async def load(self) -> None:
        """Read the journals."""
        for component, stored in (await self._store.journals()).items():
            journal = journals.decode(stored)
            if journal is not None:
                self._journals[component] = journal

    def nudge(self) -> None:
        """The hub may be within reach again, or its wishes have changed."""
        self._fetcher.nudge()

    def unfinished(self) -> list[Journal]:
        """Return installs that a crash or stop interrupted."""
        return [journal for journal in self._journals.values() if journal.at not in DONE]

    def journal(self, component: str) -> Journal | None:
        """Return the last install of a component."""
        return self._journals.get(component)

    async def observe(self) -> None:
        """Check what runs and report it: proven by this start, whatever was reported before."""
        for component, journal in sorted(self._journals.items()):
            if journal.at not in DONE:
                continue
            running = self._installer_of(component, "directory").running()
            if running is None:
                continue
            path = self._manifest_path(component, running)
            try:
                manifest = parse_manifest(path.read_bytes(), digest=running)
            except (OSError, BadManifest) as error:
                logger.warning("running release unreadable component=%s %s", component, error)
                continue
            verdict = await self._trial(manifest, running)
            await self._report(manifest, running, verdict, journal.deployment)

    async def install(self, wish: Wish, still_wanted: StillWanted) -> None:
        """Bring a deployment to its end, whatever that is. Returns when the end is durable."""
        record = wish.record
        known = self._journals.get(record.component)
        if known is None or known.deployment != wish.deployment:
            known = Journal(
                wish.deployment,
                record.component,
                record.version,
                record.manifest,
                b"",
                State.FETCHING.value,
            )
        await self._go_on(known, still_wanted)

    async def resume(self, journal: Journal, still_wanted: StillWanted) -> None:
        """Take up an install that was interrupted."""
        await self._go_on(journal, still_wanted)

    async def _go_on(self, journal: Journal, still_wanted: StillWanted) -> None:
        state = exhausted(journal.at, journal.attempts, self._settings.install_attempts_max)
        if state is not journal.at and state in (State.FAILED, State.ROLLING_BACK):
            journal = msgspec.structs.replace(
                journal,
                reason=Reason.ATTEMPTS_EXHAUSTED.value,
                detail=f"given up after {journal.attempts} attempts",
            )
        # Waiting for a download harms nothing, however often the device starts meanwhile.
        tries = journal.attempts + (state is not State.FETCHING)
        journal = await self._write(journal, state, attempts=tries)
        while journal.at not in DONE:
            self.activity = f"{journal.at.value} {journal.component} {journal.version}"
            logger.info(
                "install deployment=%s component=%s version=%s state=%s",
                journal.deployment,
                journal.component,
                journal.version,
                journal.at.value,
            )
            journal = await self._act(journal, still_wanted)
        self.activity = "idle"
        await self._finish(journal)

    async def _act(self, journal: Journal, still_wanted: StillWanted) -> Journal:
        """Do what the state asks for and make durable what came of it."""
        act = {
            State.FETCHING: self._fetch,
            State.STAGING: self._stage,
            State.ACTIVATING: self._activate,
            State.TRIAL: self._prove,
            State.COMMITTING: self._commit,
            State.ROLLING_BACK: self._roll_back,
        }[journal.at]
        try:
            if journal.at in UNTOUCHED:
                _require_wanted(still_wanted(journal.component, journal.deployment))
            journal, event = await act(journal, still_wanted)
        except Withdrawn as withdrawn:
            event = Event.WITHDRAWN
            journal = msgspec.structs.replace(journal, reason=withdrawn.stage.value)
        except (InstallerError, FetchFailed, OSError) as error:
            failed = _explained(error)
            event = Event.COMMIT_DONE if journal.at is State.COMMITTING else Event.FAILED
            first = journal.reason or str(failed.reason)
            journal = msgspec.structs.replace(
                journal, reason=first, detail=journal.detail or failed.detail
            )
            logger.warning(
                "install failed deployment=%s state=%s reason=%s %s",
                journal.deployment,
                journal.at.value,
                failed.reason,
                failed.detail,
            )
        return await self._write(journal, after(journal.at, event))

    async def _fetch(self, journal: Journal, still_wanted: StillWanted) -> tuple[Journal, Event]:
        def go_on() -> None:
            _require_wanted(still_wanted(journal.component, journal.deployment))

        path = await self._fetcher.fetch(
            journal.digest.hex(), MANIFEST_BYTES_MAX, exact=False, go_on=go_on
        )
        text = path.read_bytes()
        try:
            manifest = parse_manifest(text, digest=journal.digest)
        except BadManifest as error:
            raise InstallerError(Reason.MANIFEST_INVALID, str(error)[:200]) from None
        self._check(manifest, journal)
        for artifact in manifest.artifacts:
            await self._fetcher.fetch(artifact.sha256, artifact.length_bytes, go_on=go_on)
        await self._documents.acknowledge(journal.deployment, Stage.VERIFIED)
        tries = max(journal.attempts, 1)  # from here on the first try is under way
        return msgspec.structs.replace(journal, manifest=text, attempts=tries), Event.FETCHED

    def _check(self, manifest: Manifest, journal: Journal) -> None:
        """Refuse what does not fit before its artifacts are fetched."""
        if manifest.component != journal.component or manifest.version != journal.version:
            raise InstallerError(
                Reason.MANIFEST_INVALID, "the manifest names another component or version"
            )
        if manifest.compatible and self._settings.device_class not in manifest.compatible:
            raise InstallerError(
                Reason.INCOMPATIBLE,
                f"made for {', '.join(manifest.compatible)[:100]}; "
                f"this device is {self._settings.device_class}",
            )
        self._installer_of(manifest.component, manifest.installer)

    async def _stage(self, journal: Journal, _: StillWanted) -> tuple[Journal, Event]:
        manifest = self._manifest(journal)
        order = Order(
            manifest,
            journal.digest,
            {part.name: self._fetcher.path(part.sha256) for part in manifest.artifacts},
            self._settings.release_bytes_max,
        )
        installer = self._installer(manifest)
        await asyncio.to_thread(installer.stage, order)
        await asyncio.to_thread(self._keep_manifest, journal)
        return journal, Event.STAGED

    async def _activate(self, journal: Journal, _: StillWanted) -> tuple[Journal, Event]:
        manifest = self._manifest(journal)
        installer = self._installer(manifest)
        await asyncio.to_thread(installer.activate, journal.digest)
        await self._restart(manifest, journal.digest)
        await self._documents.acknowledge(journal.deployment, Stage.APPLIED)
        return journal, Event.ACTIVATED

    async def _prove(self, journal: Journal, _: StillWanted) -> tuple[Journal, Event]:
        manifest = self._manifest(journal)
        verdict = await self._trial(manifest, journal.digest)
        if not verdict.healthy:
            raise InstallerError(verdict.reason, verdict.detail)
        return journal, Event.PROVEN

    async def _commit(self, journal: Journal, _: StillWanted) -> tuple[Journal, Event]:
        manifest = self._manifest(journal)
        installer = self._installer(manifest)
        await asyncio.to_thread(installer.commit, journal.digest)
        verdict = Verdict(healthy=True, reason="", detail="")
        await self._report(manifest, journal.digest, verdict, journal.deployment)
        await self._documents.acknowledge(journal.deployment, Stage.HEALTHY)
        return journal, Event.COMMIT_DONE

    async def _roll_back(self, journal: Journal, _: StillWanted) -> tuple[Journal, Event]:
        manifest = self._manifest(journal)
        installer = self._installer(manifest)
        earlier = await asyncio.to_thread(installer.roll_back, journal.digest)
        if earlier is None:
            nothing = Running("", NO_DIGEST, *self._now(), healthy=False)
            await self._documents.write(
                {names.VERSION + journal.component: records.encode(nothing)}
            )
            return journal, Event.RETURNED
        try:
            old = parse_manifest(
                self._manifest_path(journal.component, earlier).read_bytes(), digest=earlier
            )
        except (OSError, BadManifest) as error:
            raise InstallerError(Reason.ROLLBACK_FAILED, str(error)[:200]) from None
        await self._restart(old, earlier)
        verdict = await self._trial(old, earlier)
        await self._report(old, earlier, verdict, "")
        return journal, Event.RETURNED

    async def _finish(self, journal: Journal) -> None:
        """Acknowledge the end and clear away. Repeated harmlessly after a crash."""
        ends = {
            State.COMMITTED: Stage.ACKNOWLEDGED,
            State.ROLLED_BACK: Stage.ROLLED_BACK,
            State.FAILED: Stage.FAILED,
            State.STUCK: Stage.FAILED,
        }
        stage = ends.get(journal.at) or Stage(journal.reason)
        await self._documents.acknowledge(
            journal.deployment, stage, reason=journal.reason, detail=journal.detail
        )
        if journal.manifest:
            installer = self._installer(self._manifest(journal))
            await asyncio.to_thread(_tidy, installer.clean_up)
        await asyncio.to_thread(_tidy, self._clean_up)

    async def finish_ended(self) -> None:
        """Acknowledge ends that became durable just before a crash."""
        for journal in list(self._journals.values()):
            if journal.at in DONE:
                await self._finish(journal)

    async def adopt_running(self, wish: Wish) -> bool:
        """Acknowledge a deployment of the release that runs already; False if another one runs."""
        component = wish.record.component
        known = self._journals.get(component)
        if known is None or known.at not in DONE or known.deployment == wish.deployment:
            return False
        if self._installer_of(component, "directory").running() != wish.record.manifest:
            return False
        try:
            manifest = parse_manifest(
                self._manifest_path(component, wish.record.manifest).read_bytes(),
                digest=wish.record.manifest,
            )
        except (OSError, BadManifest):
            return False
        verdict = await self._trial(manifest, wish.record.manifest)
        if not verdict.healthy:
            return False
        await self._report(manifest, wish.record.manifest, verdict, wish.deployment)
        again = Reason.ALREADY_RUNNING.value
        await self._documents.acknowledge(wish.deployment, Stage.HEALTHY, reason=again)
        await self._documents.acknowledge(wish.deployment, Stage.ACKNOWLEDGED, reason=again)
        return True

    # Parts.

    async def _write(self, journal: Journal, state: State, *, attempts: int = -1) -> Journal:
        journal = msgspec.structs.replace(
            journal,
            state=state.value,
            attempts=journal.attempts if attempts < 0 else attempts,
        )
        await self._store.write_journal(journal.component, journals.encode(journal))
        self._journals[journal.component] = journal
        return journal

    async def _trial(self, manifest: Manifest, digest: bytes) -> Verdict:
        return await check(
            manifest.health,
            lambda deadline_s: self._run(manifest, digest, manifest.health.command, deadline_s),
            self._clock.mono_s,
        )

    async def _restart(self, manifest: Manifest, digest: bytes) -> None:
        if manifest.restart is None:
            return
        ended = await self._run(manifest, digest, manifest.restart, manifest.restart_s)
        if ended.code != 0:
            raise InstallerError(
                Reason.INSTALLER_FAILED, f"restart ended with {ended.code}: {ended.output}"[:200]
            )

    async def _run(
        self, manifest: Manifest, digest: bytes, command: Command, deadline_s: float
    ) -> Ended:
        folder = self._installer(manifest).folder(digest)
        data_dir = self._settings.state_dir / "components" / manifest.component
        await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True)
        return await run_command(
            command,
            folder=folder,
            environment={
                "FIELDFARE_COMPONENT": manifest.component,
                "FIELDFARE_VERSION": manifest.version,
                "FIELDFARE_RELEASE_DIR": str(folder),
                "FIELDFARE_STATE_DIR": str(data_dir),
                "FIELDFARE_DEVICE": self._settings.device,
            },
            python=self._settings.python,
            deadline_s=deadline_s,
        )

    async def _report(
        self, manifest: Manifest, digest: bytes, verdict: Verdict, deployment: str
    ) -> None:
        running = Running(
            manifest.version,
            digest,
            *self._now(),
            healthy=verdict.healthy,
            deployment=deployment,
            reason=str(verdict.reason),
        )
        await self._documents.write({names.VERSION + manifest.component: records.encode(running)})

    def _now(self) -> tuple[bytes, int]:
        now = self._clock.stamp()
        return now.boot, now.boottime_ms

    def _manifest(self, journal: Journal) -> Manifest:
        try:
            return parse_manifest(journal.manifest, digest=journal.digest)
        except BadManifest as error:
            raise InstallerError(Reason.MANIFEST_INVALID, str(error)[:200]) from None

    def _installer(self, manifest: Manifest) -> Installer:
        return self._installer_of(manifest.component, manifest.installer)

    def _installer_of(self, component: str, name: str) -> Installer:
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            installer: Installer = entry.load()(component, self._settings.install_dir)
            return installer
        raise InstallerError(
            Reason.UNKNOWN_INSTALLER, f"this device has no installer called {name!r}"
        )

    def _manifest_path(self, component: str, digest: bytes) -> Path:
        return self._settings.state_dir / "manifests" / component / f"{digest.hex()}.json"

    def _keep_manifest(self, journal: Journal) -> None:
        path = self._manifest_path(journal.component, journal.digest)
        write_durably(path, journal.manifest)

    def _clean_up(self) -> None:
        keep: set[str] = set()
        for journal in self._journals.values():
            if journal.at not in DONE:
                keep.add(journal.digest.hex())
                if journal.manifest:
                    keep |= {part.sha256 for part in self._manifest(journal).artifacts}
        if not any(journal.at is State.FETCHING for journal in self._journals.values()):
            self._fetcher.clean_up(keep)
        for component in self._journals:
            installer = self._installer_of(component, "directory")
            for path in self._manifest_path(component, NO_DIGEST).parent.glob("*.json"):
                is_digest = DIGEST.fullmatch(path.stem) is not None
                if is_digest and not installer.folder(bytes.fromhex(path.stem)).exists():
                    path.unlink()


def _explained(error: InstallerError | FetchFailed | OSError) -> InstallerError | FetchFailed:
    if not isinstance(error, OSError):
        return error
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return InstallerError(
        Reason.NO_SPACE if full else Reason.INSTALLER_FAILED,
        f"{error.strerror}: {error.filename}"[:200],
    )


def _require_wanted(ended: Stage | None) -> None:
    if ended is not None:
        raise Withdrawn(ended)


def _tidy(work: Callable[[], None]) -> None:
    """Clear away; what cannot be removed now is removed after a later install."""
    try:
        work()
    except OSError as error:
        logger.warning("not cleared away error=%s", error)


def write_durably(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole or not at all, also across a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".partial")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
