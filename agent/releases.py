"""The releases that lie on this device: their manifests, their installers and their commands.

Owns the manifests kept for what is installed, and running what they say. Decides nothing: which
release is put in place, and what a failed trial leads to, is `agent.install`'s business.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, TypeVar

from agent.checks import Checks
from agent.command import Ended, run_command
from agent.committed import Committed, note_committed, read_committed
from agent.health import Hopeless, Verdict, check, unreached
from agent.log import say
from agent.settings import Settings
from agent.threads import in_thread
from firmware_hooks.contract import (
    ENTRY_POINTS,
    NO_OPTIONS,
    Installer,
    InstallerError,
    Starts,
    TellsProgress,
)
from firmware_hooks.durable import write_durably
from firmware_hooks.series import Member, Series
from sync.manifest import BadManifest, Command, Manifest, parse_manifest
from sync.stages import Reason

T = TypeVar("T")

logger = logging.getLogger(__name__)

FINAL: Final = frozenset({Reason.FELL_BACK, Reason.INCONSISTENT})
"""Why a release does not run that waiting does not cure, whoever says so."""

_KEPT: Final = re.compile(r"([0-9a-f]{64})\.json")


@dataclass(frozen=True, slots=True)
class Release:
    """A release on this device, whether it runs, ran before, or is about to."""

    manifest: Manifest
    digest: bytes
    installer: Installer


class Releases:
    """What is installed here."""

    def __init__(self, settings: Settings) -> None:
        """Look below `state_dir` for manifests and below `install_dir` for releases."""
        self._settings = settings
        self._manifests = settings.state_dir / "manifests"
        self.is_connected: Callable[[], bool] = lambda: False
        """Tells whether the hub's broker is reached."""
        self.on_progress: Callable[[str], None] = lambda _line: None
        """Takes what an installer says of how far it is; called in any thread."""
        self.unknown: dict[str, str] = {}
        """By component, why its installer could not say what runs when it was last asked."""

    # Finding.

    def installer(self, component: str, name: str, folder: Path | None = None) -> Installer:
        """Return the installer called `name`, to work for `component` below `folder`.

        `folder` is `install_dir` if it is not given.

        Raises:
            InstallerError: This device has none of that name, or it cannot be loaded.
        """
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            try:
                options = self._settings.installers.get(name, NO_OPTIONS)
                installer: Installer = entry.load()(
                    component, folder or self._settings.install_dir, options
                )
            except InstallerError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - an installer can be anybody's program
                raise InstallerError(
                    Reason.INSTALLER_FAILED, f"the installer {name!r} cannot be loaded: {error}"
                ) from None
            if isinstance(installer, TellsProgress):
                installer.on_progress = self.on_progress
            return installer
        raise InstallerError(
            Reason.UNKNOWN_INSTALLER, f"this device has no installer called {name!r}"
        )

    def release(self, manifest: Manifest, digest: bytes) -> Release:
        """Return the release of a manifest.

        Raises:
            InstallerError: As `installer`.
        """
        component = manifest.component
        if not manifest.parts:
            return Release(manifest, digest, self.installer(component, manifest.installer))
        folder = self._settings.install_dir / component / "parts"
        members = [
            Member(
                part.name,
                self.installer(_part_name(folder, component, part.name), part.installer, folder),
            )
            for part in manifest.parts
        ]
        return Release(manifest, digest, Series(component, self._settings.install_dir, members))

    def components(self) -> list[str]:
        """Return the components of which something is or was installed."""
        if not self._manifests.is_dir():
            return []
        return sorted(path.name for path in self._manifests.iterdir() if path.is_dir())

    def kept(self, component: str) -> list[Release]:
        """Return the releases of a component whose manifests are kept, unreadable ones apart."""
        found = []
        for path in sorted((self._manifests / component).glob("*.json")):
            name = _KEPT.fullmatch(path.name)
            if name is None:
                continue
            digest = bytes.fromhex(name[1])
            try:
                manifest = parse_manifest(path.read_bytes(), digest=digest)
                found.append(self.release(manifest, digest))
            except (OSError, BadManifest, InstallerError):
                continue
        return found

    def running(self, component: str) -> Release | None:
        """Return the release of a component that runs; None if none does, or nothing is known.

        `unknown` says why nothing is known, where an installer could not say it.
        """
        failed = ""
        for release in self.kept(component):
            try:
                runs = release.installer.running()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - an installer can be anybody's program
                failed = f"{type(error).__name__}: {error}"[:120]
                continue
            if runs == release.digest:
                self.unknown.pop(component, None)
                return release
        if not failed:
            self.unknown.pop(component, None)
        elif self.unknown.get(component) != failed:
            self.unknown[component] = failed
            say(
                logger,
                "running_unknown",
                level=logging.WARNING,
                component=component,
                detail=failed,
            )
        return None

    # Keeping.

    def keep(self, component: str, digest: bytes, manifest: bytes) -> None:
        """Keep the manifest of a release durably, as long as the release is here.

        Raises:
            OSError: The disk is full or fails; what was kept before still is.
        """
        write_durably(self._manifests / component / f"{digest.hex()}.json", manifest)

    def committed(self, component: str) -> Committed:
        """Return what the releases of a component that were accepted ask of later ones."""
        return read_committed(self._manifests / component)

    async def note_committed(self, release: Release) -> None:
        """Note what an accepted release asks of later ones. A full disk is no reason to stop."""
        manifest = release.manifest
        note = partial(note_committed, self._manifests / manifest.component, manifest)
        try:
            await in_thread(note, "manifest")
        except OSError as error:  # the next start notes it
            say(logger, "floor_not_noted", level=logging.WARNING, error=error)

    def clean_up(self) -> None:
        """Drop the manifests of releases that are gone.

        Raises:
            OSError: The disk fails; the rest is dropped another time.
        """
        for component in self.components():
            for release in self.kept(component):
                if not _is_here(release):
                    (self._manifests / component / f"{release.digest.hex()}.json").unlink()

    # Running its commands.

    async def restart(self, release: Release) -> None:
        """Run the release's restart command, if it has one.

        Raises:
            InstallerError: It failed, or took too long.
        """
        manifest = release.manifest
        if manifest.restart is None:
            return
        ended = await self._run(release, manifest.restart, manifest.restart_s, stays=True)
        if ended.code != 0:
            raise InstallerError(
                Reason.INSTALLER_FAILED, f"restart ended with {ended.code}: {ended.output}"[:200]
            )

    async def trial(
        self, release: Release, mono_s: Callable[[], float], *, is_new: bool = False
    ) -> Verdict:
        """Let the release prove itself.

        `mono_s` gives seconds that only move forward. One that `is_new` must also stay well for a
        while.
        """
        health = release.manifest.health
        steady_s = health.steady_for_s
        if health.steady_s is None and isinstance(release.installer, Starts):
            steady_s = max(steady_s, release.installer.steady_s)
        try:
            return await check(
                health,
                self._checks(release).look,
                mono_s,
                partial(self.doubt, release),
                steady_s=steady_s if is_new else 0.0,
            )
        except InstallerError as error:  # it cannot even say where the release lies
            return Verdict(healthy=False, reason=error.reason, detail=error.detail)

    async def unreached(self, release: Release) -> str:
        """Look for the hub, if the release asks for it; return in words that it was not reached."""
        return await unreached(release.manifest.health, self._checks(release).look)

    def _checks(self, release: Release) -> Checks:
        return Checks(
            lambda command, deadline_s: self._run(release, command, deadline_s, stays=False),
            self.is_connected,
        )

    async def doubt(self, release: Release) -> Verdict | None:
        """Ask the installer whether it is this release that runs; None if it is.

        Raises:
            Hopeless: It is not, and that will not change by itself.
        """
        try:
            await calls(partial(release.installer.check_trial, release.digest))
        except InstallerError as error:
            if error.is_final or error.reason in FINAL:
                raise Hopeless(error.reason, error.detail) from None
            return Verdict(healthy=False, reason=error.reason, detail=error.detail)
        return None

    async def _run(
        self, release: Release, command: Command, deadline_s: float, *, stays: bool
    ) -> Ended:
        manifest = release.manifest
        folder = await calls(partial(release.installer.folder, release.digest))
        data_dir = self._settings.state_dir / "components" / manifest.component
        await in_thread(partial(data_dir.mkdir, parents=True, exist_ok=True), "data folder")
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
            stays=stays,
        )


def _part_name(folder: Path, component: str, part: str) -> str:
    """Return what a part's installer is told to be its component: one that no other has.

    Earlier programs told it the part's name alone; where that stands on the disk it stays, or what
    runs would not be found again.
    """
    return part if (folder / part).is_dir() else f"{component}.{part}"


def _is_here(release: Release) -> bool:
    try:
        return release.installer.folder(release.digest).exists()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an installer can be anybody's program
        say(logger, "not_looked_at", level=logging.WARNING, digest=release.digest, error=error)
        return True


def read_manifest(text: bytes, digest: bytes) -> Manifest:
    """Return the manifest with this digest.

    Raises:
        InstallerError: It is none, or another one.
    """
    try:
        return parse_manifest(text, digest=digest)
    except BadManifest as error:
        raise InstallerError(Reason.MANIFEST_INVALID, str(error)[:200]) from None


async def calls(act: Callable[[], T]) -> T:
    """Let an installer act, in a thread; whatever goes wrong there is its failure.

    Raises:
        InstallerError: It said so, or fell over.
    """
    try:
        return await in_thread(act, "installer")
    except InstallerError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an installer can be anybody's program
        raise InstallerError(
            Reason.INSTALLER_FAILED, f"{type(error).__name__}: {error}"[:200]
        ) from None
