"""The `deb` installer: Debian packages from files, with a way back to those before.

Owns the packages that its releases hold, while they hold them. A release is a set of package files,
all of which are installed by dpkg, and never from the network. What was installed before a release
took a package is kept as a file, repacked if need be, so the way back needs no network either.

dpkg changes the device in many steps. A power cut leaves packages half installed; the repeated call
installs them again, and a release counts as running only when dpkg has each of its packages
completely, in its version.
"""

import json
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order, RetryLater
from firmware_hooks.dpkg import Dpkg, Installed, Locked, Package
from firmware_hooks.durable import (
    PARTIAL,
    copy_durably,
    explained,
    make_folder,
    remove,
    write_durably,
)
from firmware_hooks.options import known, seconds
from firmware_hooks.shelf import Kept, Move, Shelf
from sync.stages import Reason

TIMEOUT_S: Final = 900.0
LOCK_WAIT_S: Final = 30.0
LATER_S: Final = 60.0
"""How long to wait before a lock that stays taken is tried again."""


@dataclass(frozen=True, slots=True)
class _Way:
    """What a package goes back to when no release holds it any more."""

    version: str | None
    """None if it was not installed."""
    file: str | None
    """None if it was not kept: there is no way back."""


class DebInstaller:
    """Installs sets of Debian packages of one component."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Keep releases in `install_dir/component`.

        Args:
            component: What is installed.
            install_dir: Where releases are kept.
            options: `root`: below which dpkg works; `dpkg_options`: further options for dpkg;
                `timeout_s`: how long one call of dpkg may take; `lock_wait_s`: how long to wait for
                another program that installs.

        Raises:
            InstallerError: An option is wrong.
        """
        known("deb", options, ("root", "dpkg_options", "timeout_s", "lock_wait_s"))
        self._root = Path(str(options.get("root", "/")))
        self._shelf = Shelf("deb", install_dir / component)
        self._originals = self._shelf.home / "originals"
        self._lock_wait_s = seconds("deb", options, "lock_wait_s", LOCK_WAIT_S)
        self.on_progress: Callable[[str], None] = lambda _: None
        self._dpkg = Dpkg(
            self._root,
            shlex.split(str(options.get("dpkg_options", ""))),
            timeout_s=seconds("deb", options, "timeout_s", TIMEOUT_S),
            tell=self._tell,
        )

    def stage(self, order: Order) -> None:
        """Keep the package files, and see that there is a way back from them."""
        is_staged = self.folder(order.digest).is_dir()

        def check(release: Kept) -> None:
            if not is_staged:
                self._read(release)
            self._require_way_back(release)

        self._shelf.stage(order, check)

    def activate(self, digest: bytes) -> None:
        """Install the packages, and take back those that only the release before held."""
        self._shelf.activate(
            digest, remember=self._remember, put=self._put, is_there=self.running() == digest
        )

    def check_trial(self, digest: bytes) -> None:
        """Make sure that dpkg has every package completely, in the version of the release."""
        if self._shelf.current() != digest:
            raise InstallerError(Reason.INSTALLER_FAILED, "another release is in place")
        self._require_installed(self._packages(self._shelf.kept(digest)))

    def commit(self, digest: bytes) -> None:
        """Nothing is left to do."""

    def roll_back(self, digest: bytes) -> bytes | None:
        """Install the packages of the release before, or what was installed before any."""
        return self._shelf.roll_back(digest, remember=self._remember, put=self._put)

    def running(self) -> bytes | None:
        """Return the release of which dpkg has every package."""
        current = self._shelf.current()
        if current is not None:
            try:
                self.check_trial(current)
            except InstallerError:
                return None
        return current

    def folder(self, digest: bytes) -> Path:
        """Return where the release is kept; its packages are in `artifacts` below it."""
        return self._shelf.folder(digest)

    def clean_up(self) -> None:
        """Remove releases that neither run nor ran before, and kept packages without a use."""
        self._shelf.clean_up()
        used = {way.file for way in self._ways().values()}
        try:
            if self._originals.is_dir():
                for path in sorted(self._originals.glob("*.deb")):
                    if path.name not in used:
                        remove(path)
            for path in [*self._shelf.home.glob("repack*"), *self._originals.glob(f"*{PARTIAL}")]:
                remove(path)
        except OSError as error:
            raise explained(error) from None

    def _tell(self, line: str) -> None:
        self.on_progress(line)  # looked up now: the agent sets it after the start

    # What a release holds.

    def _read(self, release: Kept) -> None:
        """Write down which package is in which file; it takes dpkg to know."""
        flag = release.manifest.parameters.get("without_way_back", False)
        unknown = set(release.manifest.parameters) - {"without_way_back"}
        if unknown or not isinstance(flag, bool):
            raise InstallerError(
                Reason.MANIFEST_INVALID,
                f"parameter {min(unknown, default='without_way_back')!r} "
                + ("is not known to the deb installer" if unknown else "is true or false"),
            )
        fits = self._dpkg.architectures()
        found: dict[str, tuple[str, str]] = {}
        for artifact in release.manifest.artifacts:
            package = self._dpkg.read(release.artifact(artifact.name))
            if package.architecture not in fits:
                raise InstallerError(
                    Reason.INCOMPATIBLE,
                    f"{artifact.name} is for {package.architecture}; this device takes "
                    f"{', '.join(sorted(fits))}",
                )
            if package.name in found:
                raise InstallerError(
                    Reason.MANIFEST_INVALID, f"{package.name} is in the release twice"
                )
            found[package.name] = (package.version, artifact.name)
        (release.folder / "packages.json").write_text(json.dumps(found))

    def _packages(self, release: Kept) -> dict[str, tuple[str, str]]:
        """Return version and artifact of each package of a release."""
        try:
            found = json.loads((release.folder / "packages.json").read_bytes())
            return {name: (version, artifact) for name, (version, artifact) in found.items()}
        except (OSError, ValueError) as error:
            raise InstallerError(Reason.INCONSISTENT, f"{release.folder}: {error}"[:200]) from None

    # The way back.

    def _require_way_back(self, release: Kept) -> None:
        """Keep what the release is going to replace, or refuse it.

        Raises:
            InstallerError: Something cannot be kept, and the release does not say that this is
                all right.
        """
        held = self._held(self._current())
        for name, installed in self._dpkg.installed(self._packages(release)).items():
            if held.get(name) == installed.version:
                continue
            if self._keep(name, installed) is None and not _goes_without(release):
                raise InstallerError(
                    Reason.REQUIREMENT_UNMET,
                    f"no way back: {name} {installed.version} is installed ({installed.state}), is "
                    "not kept, and cannot be repacked; install dpkg-repack, or release with "
                    "`without_way_back`",
                )

    def _current(self) -> list[Kept]:
        current = self._shelf.current()
        return [] if current is None else [self._shelf.kept(current)]

    def _held(self, releases: Iterable[Kept]) -> dict[str, str]:
        """Return the packages that these releases hold, with their versions."""
        return {
            name: version
            for release in releases
            for name, (version, _) in self._packages(release).items()
        }

    def _keep(self, name: str, installed: Installed) -> str | None:
        """Keep an installed package as a file; None if that cannot be done."""
        kept = f"{name}_{installed.version.replace(':', '%3a')}.deb"
        if (self._originals / kept).is_file():
            return kept
        if not installed.is_sound:
            return None
        scratch = self._shelf.home / "repack"
        try:
            for found in self._archived(name, installed.version):
                self._copy(found, self._originals / kept)
                return kept
            make_folder(self._shelf.home)
            remove(scratch)
            scratch.mkdir()
            made = self._dpkg.repack(name, scratch)
            if made is not None:
                self._copy(made, self._originals / kept)
        except OSError as error:
            raise explained(error) from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return kept if made is not None else None

    def _archived(self, name: str, version: str) -> list[Path]:
        """Return where apt still has the file that a package came in."""
        archives = self._root / "var/cache/apt/archives"
        for path in sorted(archives.glob(f"{name}_{version.replace(':', '%3a')}_*.deb")):
            try:
                if self._dpkg.read(path) == Package(name, version, path.stem.rpartition("_")[2]):
                    return [path]
            except InstallerError:
                continue
        return []

    def _copy(self, source: Path, target: Path) -> None:
        with source.open("rb") as file:
            copy_durably(file, target)

    def _ways(self) -> dict[str, _Way]:
        try:
            found = json.loads((self._originals / "ways.json").read_bytes())
            return {name: _Way(version, file) for name, (version, file) in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise InstallerError(
                Reason.INCONSISTENT, f"{self._originals}/ways.json: {error}"[:200]
            ) from None

    # Acting.

    def _remember(self, move: Move) -> None:
        """Write down what is installed of the packages that no release of ours holds yet."""
        if move.reach is None:
            return
        if not move.is_back:
            self._require_way_back(move.reach)
        ours = self._held(each for each in (move.leave, *move.touched) if each)
        names = set(self._packages(move.reach)) - set(ours)
        installed = self._dpkg.installed(names) if names else {}
        ways = self._ways()
        for name in names:
            there = installed.get(name)
            ways[name] = (
                _Way(None, None) if there is None else _Way(there.version, self._keep(name, there))
            )
        text = json.dumps({name: (way.version, way.file) for name, way in ways.items()})
        try:
            write_durably(self._originals / "ways.json", text.encode())
        except OSError as error:
            raise explained(error) from None

    def _put(self, move: Move) -> None:
        try:
            with self._dpkg.locked(self._lock_wait_s):
                self._install(move)
        except Locked:
            busy = "another program installs packages: dpkg's lock is taken"
            raise RetryLater(busy, LATER_S) from None
        except OSError as error:
            raise explained(error) from None

    def _install(self, move: Move) -> None:
        """Install what the release holds, and bring back what it does not hold any more."""
        wanted = self._packages(move.reach) if move.reach is not None else {}
        files = (
            []
            if move.reach is None
            else [move.reach.artifact(artifact) for _, artifact in wanted.values()]
        )
        versions = {name: version for name, (version, _) in wanted.items()}
        others = set(self._held(each for each in (move.leave, *move.touched) if each)) - set(wanted)
        ways = self._ways()
        gone = []
        for name in sorted(others):
            way = ways.get(name)
            if way is not None and way.version is None:
                gone.append(name)
            elif way is not None and way.version is not None and way.file is not None:
                files.append(self._originals / way.file)
                versions[name] = way.version
            elif move.is_back:
                raise InstallerError(
                    Reason.ROLLBACK_FAILED, f"what {name} was before has not been kept"
                )
            else:
                self._tell(f"{name} stays as it is: what it was before has not been kept")
        if files:
            self._dpkg.install(files)
        here = sorted(self._dpkg.installed(gone)) if gone else []
        if here:
            self._dpkg.remove(here)
        self._repair(versions)
        self._require_versions(versions)

    def _repair(self, versions: dict[str, str]) -> None:
        """Finish what an interrupted dpkg left, also for packages that are not ours."""
        left = self._dpkg.broken()
        try:
            if left:
                self._dpkg.configure(left)
        except InstallerError as error:
            if set(left) & set(versions):
                raise
            self._tell(f"not repaired, and not ours: {', '.join(left)}: {error.detail}")

    def _require_installed(self, packages: dict[str, tuple[str, str]]) -> None:
        self._require_versions({name: version for name, (version, _) in packages.items()})

    def _require_versions(self, versions: dict[str, str]) -> None:
        installed = self._dpkg.installed(versions) if versions else {}
        for name, version in versions.items():
            there = installed.get(name)
            if there is None or there.version != version or not there.is_sound:
                is_so = "not installed" if there is None else f"{there.version} ({there.state})"
                raise InstallerError(
                    Reason.INSTALLER_FAILED, f"{name} is {is_so} instead of {version}"[:200]
                )


def _goes_without(release: Kept) -> bool:
    return release.manifest.parameters.get("without_way_back") is True
