"""The acts of an install: fetch, stage, activate, prove, commit, roll back.

Owns what each does with fetcher, installer and report, and the acknowledgement that goes with it.
Each may be done again after a crash, and each returns the journal as it is afterwards and the event
that it amounts to. Which act comes next is decided in `agent.install` and kept by
`agent.installer`.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import msgspec

from agent.clock import Clock
from agent.documents import Documents
from agent.faults import failure_of
from agent.fetch import Fetcher, FetchLimits
from agent.health import Hopeless, Verdict
from agent.identity import Identity
from agent.install import Event, State
from agent.journal import Journal
from agent.line import OnTrouble, Trouble
from agent.lives import may_take_packs
from agent.log import say
from agent.packs import NoPack, Packs
from agent.rebooting import reboot
from agent.releases import Release, Releases, calls, read_manifest
from agent.report import Report
from agent.requirements import check_floor, check_versions, check_way, way_of
from agent.settings import Settings
from agent.shared import FOLDER, Shared
from agent.threads import in_thread
from agent.trust.admission import Admission
from agent.trust.shelf import IMPORTED
from firmware_hooks.contract import InstallerError, Order, Reboots
from sync.manifest import MANIFEST_BYTES_MAX, Manifest
from sync.stages import Reason, Stage

T = TypeVar("T")

logger = logging.getLogger(__name__)

COMMIT_TRIES: Final = 3
COMMIT_AGAIN_S: Final = 1.0
"""A service that is busy, or a disk that was, gets another chance before the release is let go."""


class NotCommitted(InstallerError):
    """The next start would start what ran before. The way back is open."""


class Acts:
    """What can be done for one install.

    Every act raises `InstallerError`, `FetchFailed` or `OSError` where it fails; what it did until
    then may stay, and doing it again goes on from there.
    """

    def __init__(
        self,
        settings: Settings,
        documents: Documents,
        clock: Clock,
        releases: Releases,
        report: Report,
        admission: Admission,
        identity: Identity | None = None,
    ) -> None:
        """Work with these, as `identity` towards the hub."""
        self._settings = settings
        self._documents = documents
        self._clock = clock
        self._releases = releases
        self._report = report
        self._admission = admission
        self._fetcher = Fetcher(
            settings.hub_url,
            settings.state_dir / "downloads",
            FetchLimits(
                attempts_max=settings.fetch_attempts_max,
                stall_s=settings.fetch_stall_s,
                disk_reserve_bytes=settings.disk_reserve_bytes,
                bytes_per_s=settings.download_bytes_per_s,
                least_bytes_per_s=settings.download_least_bytes_per_s,
                slow_s=settings.download_slow_s,
                budget_ratio=settings.download_budget_ratio,
                metered_interfaces=settings.metered_interfaces,
                metered_bytes_max=settings.metered_bytes_max,
                neighbours=settings.neighbour_urls,
                media_dirs=settings.media_dirs,
            ),
            imported=settings.state_dir / IMPORTED,
            tls=identity.context if identity is not None else None,
        )
        self._shared = Shared(settings.state_dir / FOLDER, settings.share_keep_bytes)
        self._fetcher.makes_room(self._shared.make_room)
        self._packs = Packs(self._fetcher, wait_s=settings.pack_wait_s)
        self.is_on: Callable[[str], bool] = lambda _: True
        """Tells whether one of the agent's own features is on."""
        self._fetcher.may_ask_neighbours = lambda: self.is_on("agent.neighbours")
        self._proven = b""
        """Digest of the release that last passed its trial in this start."""

    @property
    def trouble(self) -> Trouble | None:
        """What keeps a release from coming; None while nothing does."""
        return self._admission.trouble or self._fetcher.trouble

    def nudge(self) -> None:
        """The hub may be within reach again, or its wishes have changed."""
        self._fetcher.nudge()

    def tell_trouble(self, on_trouble: OnTrouble) -> None:
        """Tell from now on why what is fetched does not come."""
        self._admission.on_trouble = self._fetcher.on_trouble = on_trouble

    async def verified_bytes(self) -> int:
        """Return how much of what was fetched is here and was found right when it came."""
        return await in_thread(self._fetcher.verified_bytes, "downloads")

    async def fetch(self, journal: Journal, go_on: Callable[[], None]) -> tuple[Journal, Event]:
        """Bring manifest and artifacts here; `go_on` raises what ends it."""
        if not 0 < journal.manifest_bytes <= MANIFEST_BYTES_MAX:
            raise InstallerError(
                Reason.TOO_LARGE, f"a manifest of {journal.manifest_bytes} bytes is not read"
            )
        await self._admission.require(
            journal.component,
            journal.version,
            journal.digest,
            journal.manifest_bytes,
            go_on=go_on,
        )
        path = await self._fetcher.fetch(journal.digest.hex(), journal.manifest_bytes, go_on=go_on)
        text = await in_thread(path.read_bytes, "manifest")
        manifest = read_manifest(text, journal.digest)
        await self.check(journal, manifest)
        came = await self._come(journal, manifest, go_on)
        await self._documents.acknowledge(journal.deployment, Stage.VERIFIED, detail=came)
        tries = max(journal.attempts, 1)  # from here on the first try is under way
        return msgspec.structs.replace(journal, manifest=text, attempts=tries), Event.FETCHED

    async def _come(self, journal: Journal, manifest: Manifest, go_on: Callable[[], None]) -> str:
        """Bring what the release is made of; return how it came."""
        release = self._releases.release(manifest, journal.digest)
        base = await in_thread(partial(self._releases.running, journal.component), "releases")
        if base is not None and not self._report.is_proven(base):
            base = None
        try:
            if not self.is_on("agent.delta"):
                raise NoPack("the flag agent.delta is off")  # noqa: TRY301 - one end for all
            if not may_take_packs(journal.tally):
                raise NoPack("the agent died again and again before")  # noqa: TRY301 - as above
            return await self._packs.stage(self._order(release), release, base, go_on)
        except NoPack as why:
            for artifact in manifest.artifacts:
                await self._fetcher.fetch(artifact.sha256, artifact.length_bytes, go_on=go_on)
            return f"whole: {why}"[:200]

    def _order(self, release: Release) -> Order:
        parts = release.manifest.artifacts
        return Order(
            release.manifest,
            release.digest,
            {part.name: self._fetcher.path(part.sha256) for part in parts},
            self._settings.release_bytes_max,
            self._room_bytes(),
        )

    def _room_bytes(self) -> int:
        """Return what a release may take of the disk now; it is not kept free for it."""
        disk = self._settings.install_dir
        free_bytes = shutil.disk_usage(disk if disk.exists() else self._settings.state_dir).free
        return max(0, free_bytes - self._settings.disk_reserve_bytes)

    async def check(self, journal: Journal, manifest: Manifest) -> None:
        """Refuse what does not fit: before its artifacts are fetched, and after each wait.

        Raises:
            InstallerError: It does not; says why.
        """
        runs = await in_thread(partial(self._releases.running, journal.component), "releases")
        await in_thread(partial(self._check, manifest, journal, runs), "releases")

    def _check(self, manifest: Manifest, journal: Journal, runs: Release | None) -> None:
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
        check_versions(manifest, self._report.versions())
        committed = self._releases.committed(manifest.component)
        floors = [self._settings.floors.get(manifest.component, ""), committed.floor]
        if runs is not None:
            floors.append(runs.manifest.floor)
        check_way(manifest, committed.way if runs is None else way_of(runs.manifest))
        check_floor(manifest, *floors)
        self._releases.release(manifest, journal.digest)

    async def stage(self, journal: Journal) -> tuple[Journal, Event]:
        """Lay the release down beside the one that runs."""
        release = self._release(journal)
        await calls(partial(release.installer.stage, self._order(release)))
        keep = partial(self._releases.keep, journal.component, journal.digest, journal.manifest)
        await in_thread(keep, "manifest")
        before = await calls(release.installer.running)
        return msgspec.structs.replace(journal, before=before or b""), Event.STAGED

    async def activate(self, journal: Journal) -> tuple[Journal, Event]:
        """Throw the switch, and restart the application or leave that to a reboot."""
        release = self._release(journal)
        await calls(partial(release.installer.activate, journal.digest))
        if await self._awaits_reboot(release) is not None:
            return journal, Event.REBOOT_NEEDED
        await self._releases.restart(release)
        await self._documents.acknowledge(journal.deployment, Stage.APPLIED)
        return journal, Event.ACTIVATED

    async def reboot(self, journal: Journal) -> tuple[Journal, Event]:
        """Start the device anew, unless that has happened, and see that the release was booted."""
        release = self._release(journal)
        if not journal.has_rebooted:
            await self._start_anew(release)
        try:
            doubted = await self._releases.doubt(release)
        except Hopeless as failed:  # the bootloader went back
            raise InstallerError(failed.reason, failed.detail) from None
        if doubted is None:
            await self._documents.acknowledge(journal.deployment, Stage.APPLIED)
        # Else it may still be coming up: the trial asks again, until the deadline.
        return journal, Event.REBOOTED

    async def come_back(self, journal: Journal) -> tuple[Journal, Event]:
        """Start the device anew, as often as the installer awaits it, and report what was booted.

        How often that may be is bounded as every install is (`agent.install.exhausted`).
        """
        release = self._release(journal)
        if not journal.has_rebooted:
            await self._start_anew(release)
        # Called again, it settles what could only be looked at after the start.
        said = await calls(partial(release.installer.roll_back, journal.digest))
        if await self._awaits_reboot(release) is not None:
            await self._start_anew(release)
        runs = await calls(release.installer.running)
        if runs == journal.digest:
            raise InstallerError(Reason.ROLLBACK_FAILED, "the device started the release again")
        if runs != said:
            raise InstallerError(
                Reason.ROLLBACK_FAILED, "the device did not start what was to be gone back to"
            )
        return await self._report_what_runs(journal, runs), Event.REBOOTED

    async def _start_anew(self, release: Release) -> None:
        given = await self._awaits_reboot(release)
        settings = self._settings
        await reboot(
            settings.reboot_command,
            given or (),
            python=settings.python,
            wait_s=settings.reboot_wait_s,
        )

    async def _awaits_reboot(self, release: Release) -> tuple[str, ...] | None:
        installer = release.installer
        return await calls(installer.awaits_reboot) if isinstance(installer, Reboots) else None

    async def prove(self, journal: Journal) -> tuple[Journal, Event]:
        """Let the release prove itself."""
        release = self._release(journal)
        verdict = await self._releases.trial(release, self._clock.mono_s, is_new=True)
        if not verdict.healthy:
            raise InstallerError(verdict.reason, verdict.detail)
        await self._documents.acknowledge(journal.deployment, Stage.APPLIED)  # if it was in doubt
        self._proven = journal.digest
        return journal, Event.PROVEN

    async def commit(self, journal: Journal) -> tuple[Journal, Event]:
        """Let the old release go, and report the new one."""
        release = self._release(journal)
        verdict = Verdict(healthy=True, reason="", detail="")
        if self._proven != journal.digest:
            # It was proven before a restart; what this start reports, this start must have seen.
            verdict = await self._releases.trial(release, self._clock.mono_s)
        if isinstance(release.installer, Reboots):
            try:
                runs = await _tried("not_asked", release.installer.running)
            except InstallerError as error:
                detail = f"it cannot be told what was started: {error.detail}"
                raise NotCommitted(error.reason, detail[:200]) from None
            if runs != journal.digest or verdict.reason == Reason.FELL_BACK:
                raise InstallerError(
                    Reason.FELL_BACK, "the device started what ran before, before it was committed"
                )
        refused = await self._refused(release, journal.digest)
        stays = refused is not None and refused.reason == Reason.INCONSISTENT
        if refused is not None and isinstance(release.installer, Reboots) and not stays:
            raise NotCommitted(refused.reason, f"could not be committed: {refused.detail}"[:200])
        await self._report.tried(release, verdict, journal.deployment)
        await self._releases.note_committed(release)
        if refused is not None:
            # It runs and is proven, and nothing takes it back by itself: a person has to look.
            raise refused
        # Only now, when there is nothing left to go back from: this may take long.
        unreached = await self._releases.unreached(release)
        await self._documents.acknowledge(journal.deployment, Stage.HEALTHY, detail=unreached[:200])
        return journal, Event.COMMIT_DONE

    async def _refused(self, release: Release, digest: bytes) -> InstallerError | None:
        """Commit, a few times if need be; return why it could not be, None if it was."""
        try:
            await _tried("not_committed", partial(release.installer.commit, digest))
        except InstallerError as failed:
            return failed
        return None

    async def roll_back(self, journal: Journal) -> tuple[Journal, Event]:
        """Throw the switch back, and report what runs then."""
        if not journal.manifest:
            return journal, Event.RETURNED  # nothing was ever staged
        failed = self._release(journal)
        if journal.before == journal.digest:
            return await self._stay(journal, failed)
        runs = await calls(partial(failed.installer.roll_back, journal.digest))
        if await self._awaits_reboot(failed) is not None:
            return journal, Event.REBOOT_NEEDED
        if await self.runs(journal):
            raise InstallerError(
                Reason.ROLLBACK_FAILED, "the installer says that it went back, and it did not"
            )
        return await self._report_what_runs(journal, runs), Event.RETURNED

    async def _report_what_runs(self, journal: Journal, runs: bytes | None) -> Journal:
        """Report what was gone back to, restarted and tried, as far as it is known."""
        if runs is None:
            await self._report.unproven(journal.component)
            return journal
        release = await in_thread(partial(self._releases.running, journal.component), "releases")
        if release is None or release.digest != runs:
            # It was put there without us, so it cannot be asked how it is.
            await self._report.unproven(journal.component, runs)
            unknown = self._releases.unknown.get(journal.component)
            if unknown is None:
                return journal
            detail = f"{journal.detail[:100]}; what runs now is not known: {unknown}"[:200]
            return msgspec.structs.replace(journal, detail=detail)
        if journal.at is not State.RETURNING:  # a reboot has started everything anew
            await self._releases.restart(release)
        verdict = await self._releases.trial(release, self._clock.mono_s)
        brought_by = self._report.deployment_of(journal.component, release.digest)
        await self._report.tried(release, verdict, brought_by)
        return journal

    async def _stay(self, journal: Journal, release: Release) -> tuple[Journal, Event]:
        """Leave what ran before it was deployed again: what ran before that may be no better."""
        verdict = await self._releases.trial(release, self._clock.mono_s)
        brought_by = self._report.deployment_of(journal.component, journal.digest)
        await self._report.tried(release, verdict, brought_by)
        detail = f"{journal.detail}; it ran before and stays"[-200:]
        return msgspec.structs.replace(journal, detail=detail), Event.RETURNED

    async def runs(self, journal: Journal) -> bool:
        """Tell whether the release of an install is what runs, as far as its installer can say."""
        try:
            return await calls(self._release(journal).installer.running) == journal.digest
        except InstallerError as error:
            say(logger, "running_unknown", level=logging.WARNING, detail=error.detail)
            return False

    def clear_away(self, journal: Journal, *, all_too: bool) -> None:
        """Remove what is needed no more; what cannot be removed goes after a later install.

        `all_too`: nothing is under way, so everything that was fetched can go.
        """
        try:
            if journal.manifest:
                self._release(journal).installer.clean_up()
            if all_too:
                self._shared.take(self._settings.state_dir / "downloads")
                self._fetcher.clean_up(set())
                self._releases.clean_up()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - an installer can be anybody's program
            say(logger, "not_cleared_away", level=logging.WARNING, error=error)

    def _release(self, journal: Journal) -> Release:
        return self._releases.release(
            read_manifest(journal.manifest, journal.digest), journal.digest
        )


async def _tried(event: str, act: Callable[[], T]) -> T:
    """Let an installer act, a few times if need be.

    Raises:
        InstallerError: It could not, or said itself that another try is of no use.
    """
    for tries in range(1, COMMIT_TRIES + 1):
        try:
            return await calls(act)
        except (InstallerError, OSError) as error:
            failed = failure_of(error) if isinstance(error, OSError) else error
            say(logger, event, level=logging.WARNING, tries=tries, error=error)
        if failed.reason == Reason.INCONSISTENT:
            break
        if tries < COMMIT_TRIES:
            await asyncio.sleep(COMMIT_AGAIN_S)
    raise failed
