"""The `file` installer: single files, each at its own path.

Owns the files that its releases name, while they name them. What lay at a path before a release
took it is kept, and put back when no release names it any more.

A file is written beside its place and renamed over it, so a reader finds the old or the new one. A
release of several files is not switched at one instant; a power cut between two of them is repaired
by the next start. No path leads through a symbolic link, and none leaves the folders that the
device allows.
"""

import grp
import json
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.durable import PARTIAL, copy_durably, explained, remove, write_durably
from firmware_hooks.options import known
from firmware_hooks.place import Found, Place
from firmware_hooks.shelf import Kept, Move, Shelf
from sync.stages import Reason

FILE_MODE: Final = 0o644
MODE_MAX: Final = 0o777
"""No file that is installed this way lends its owner's rights to whoever runs it."""
PARAMETERS: Final = ("path", "mode", "owner")
CHANGED_COUNT_MAX: Final = 20
"""How many files that somebody changed are kept when they are replaced."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one artifact goes, and how it is to lie there."""

    artifact: str
    place: Place
    wanted: Found

    @property
    def path(self) -> Path:
        """Return the path on the device."""
        return self.place.path


class FileInstaller:
    """Installs files of one component at their paths."""

    def __init__(
        self,
        component: str,
        install_dir: Path,
        options: Options = NO_OPTIONS,
    ) -> None:
        """Keep releases in `install_dir/component`.

        Args:
            component: What is installed.
            install_dir: Where releases are kept.
            options: `roots`: the folders below which files may be installed, separated by `:`.

        Raises:
            InstallerError: There is another option.
        """
        roots = known("file", options, ("roots",)).get("roots", "")
        self._shelf = Shelf("file", install_dir / component)
        self._originals = self._shelf.home / "originals"
        self._changed = self._shelf.home / "changed"
        self._roots = [Path(root) for root in str(roots).split(":") if root]

    def stage(self, order: Order) -> None:
        """Keep the files, and see that each can go where it should."""
        self._shelf.stage(order, self._check)

    def activate(self, digest: bytes) -> None:
        """Put each file in its place, and take away what only the release before named."""
        self._shelf.activate(
            digest, remember=self._remember, put=self._put, is_there=self.running() == digest
        )

    def check_trial(self, digest: bytes) -> None:
        """Make sure that every file of the release still is as it was put."""
        if self._shelf.current() != digest:
            raise InstallerError(Reason.INSTALLER_FAILED, "another release is in place")
        for target in self._targets(self._shelf.kept(digest)):
            found = target.place.look()
            if found != target.wanted:
                raise InstallerError(
                    Reason.INSTALLER_FAILED, f"{target.path} was changed since it was installed"
                )

    def commit(self, digest: bytes) -> None:
        """Nothing is left to do."""

    def roll_back(self, digest: bytes) -> bytes | None:
        """Put the files of the release before in their places, or what lay there before any."""
        return self._shelf.roll_back(digest, remember=self._remember, put=self._put)

    def running(self) -> bytes | None:
        """Return the release whose files all are in their places, unchanged."""
        current = self._shelf.current()
        if current is not None:
            try:
                self.check_trial(current)
            except InstallerError:
                return None
        return current

    def folder(self, digest: bytes) -> Path:
        """Return where the release is kept; its files are in `artifacts` below it."""
        return self._shelf.folder(digest)

    def clean_up(self) -> None:
        """Remove releases that neither run nor ran before, and what was changed long ago."""
        self._shelf.clean_up()
        try:
            if self._changed.is_dir():
                changed = sorted(self._changed.iterdir(), key=lambda path: path.stat().st_mtime_ns)
                for path in changed[:-CHANGED_COUNT_MAX]:
                    remove(path)
            for path in self._shelf.home.glob(f"*/*{PARTIAL}"):
                remove(path)
        except OSError as error:
            raise explained(error) from None

    # What a release says.

    def _targets(self, release: Kept) -> list[Target]:
        """Return where the artifacts of a release go.

        Raises:
            InstallerError: A parameter is missing, wrong or unknown, or names what is not allowed.
        """
        manifest = release.manifest
        given = dict(manifest.parameters)
        replaces = given.pop("replace_changed", False)
        if not isinstance(replaces, bool):
            raise _wrong("replace_changed", "is true or false")
        is_one = len(manifest.artifacts) == 1
        targets = []
        for artifact in manifest.artifacts:
            said: dict[str, str] = {}
            for name in PARAMETERS:
                value = given.pop(f"{name}.{artifact.name}", None)
                if value is None and is_one:
                    value = given.pop(name, None)
                if value is not None:
                    said[name] = str(value)
            if "path" not in said:
                raise _wrong(f"path.{artifact.name}", "is missing")
            wanted = Found(artifact.sha256, _mode(said.get("mode")), *_owner(said.get("owner")))
            targets.append(Target(artifact.name, self._allowed(said["path"]), wanted))
        if given:
            raise _wrong(min(given), "is not known to the file installer")
        if len({target.path for target in targets}) != len(targets):
            raise _wrong("path", "is the same for two artifacts")
        return targets

    def _allowed(self, text: str) -> Place:
        path = PurePosixPath(text)
        if not path.is_absolute() or str(path) != text or ".." in path.parts or "\0" in text:
            raise _wrong("path", f"{text[:100]!r} is not an absolute path in its short form")
        for root in self._roots:
            if path.is_relative_to(root) and path != PurePosixPath(root):
                return Place(root, Path(text))
        allowed = ", ".join(map(str, self._roots)) or "none: the option `roots` is empty"
        raise InstallerError(
            Reason.INCOMPATIBLE,
            f"{text[:100]} is below no folder of the device's roots ({allowed})",
        )

    # Looking.

    def _check(self, release: Kept) -> None:
        for target in self._targets(release):
            target.place.look()
        current = self._shelf.current()
        if current is not None:
            self._refuse_changes(self._shelf.kept(current), release)

    def _refuse_changes(self, leave: Kept, reach: Kept) -> None:
        """Refuse to write over what somebody else wrote over a file of ours."""
        if reach.manifest.parameters.get("replace_changed") is True:
            return
        for target, _ in self._changes(leave, (leave, reach)):
            raise InstallerError(
                Reason.REQUIREMENT_UNMET,
                f"{target.path} was changed since it was installed; put it back, or release with "
                "`replace_changed`",
            )

    def _changes(self, leave: Kept, ours: tuple[Kept, ...]) -> Iterator[tuple[Target, Found]]:
        """Give the files of `leave` whose content is of none of the releases `ours`."""
        known: dict[Path, set[str]] = {}
        for release in ours:
            for target in self._targets(release):
                known.setdefault(target.path, set()).add(target.wanted.sha256)
        for target in self._targets(leave):
            found = target.place.look()
            if found is not None and found.sha256 not in known[target.path]:
                yield target, found

    # Acting.

    def _remember(self, move: Move) -> None:
        """Keep what lies where no release of ours has put anything yet."""
        if move.leave is not None and move.reach is not None and not move.is_back:
            self._refuse_changes(move.leave, move.reach)
        try:
            self._keep_changes(move)
            ours = {
                target.path
                for release in (move.leave, *move.touched)
                for target in (self._targets(release) if release else [])
            }
            for target in self._targets(move.reach) if move.reach else []:
                if target.path not in ours:
                    self._keep_original(target)
        except OSError as error:
            raise explained(error) from None

    def _keep_changes(self, move: Move) -> None:
        """Keep a copy of what somebody changed, before it is replaced."""
        if move.leave is None:
            return
        ours = tuple(each for each in (move.leave, move.reach, *move.touched) if each)
        for target, found in self._changes(move.leave, ours):
            with target.place.opened() as file:
                copy_durably(file, self._changed / f"{target.path.name}.{found.sha256[:12]}")

    def _keep_original(self, target: Target) -> None:
        found = target.place.look()
        place = self._original(target.path)
        about: dict[str, object] = {"path": str(target.path), "is_there": found is not None}
        if found is not None:
            with target.place.opened() as file:
                copy_durably(file, place.with_suffix(".content"))
            about |= {
                "sha256": found.sha256,
                "mode": found.mode,
                "user": found.user,
                "group": found.group,
            }
        write_durably(place, json.dumps(about).encode())

    def _original(self, path: Path) -> Path:
        return self._originals / f"{sha256(str(path).encode()).hexdigest()[:32]}.json"

    def _put(self, move: Move) -> None:
        reach = self._targets(move.reach) if move.reach is not None else []
        wanted = {target.path for target in reach}
        try:
            for target in reach:
                if move.reach is not None:
                    target.place.put(move.reach.artifact(target.artifact), target.wanted)
            for release in (move.leave, *move.touched):
                for target in self._targets(release) if release is not None else []:
                    if target.path not in wanted:
                        self._give_back(target)
        except OSError as error:
            reason = Reason.ROLLBACK_FAILED if move.is_back else Reason.INSTALLER_FAILED
            raise explained(error, reason) from None

    def _give_back(self, target: Target) -> None:
        """Put at a path what lay there before a release took it."""
        original = self._original(target.path)
        about = json.loads(original.read_bytes())
        if about["is_there"]:
            lay = Found(about["sha256"], about["mode"], about["user"], about["group"])
            target.place.put(original.with_suffix(".content"), lay)
        else:
            target.place.take_away()


def _mode(text: str | None) -> int:
    if text is None:
        return FILE_MODE
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= MODE_MAX:
        raise _wrong("mode", f"{text[:20]!r} is no octal number up to {MODE_MAX:o}")
    return mode


def _owner(text: str | None) -> tuple[int, int]:
    """Return the numbers of `user` or `user:group`; without one, those of the agent."""
    if text is None:
        return os.geteuid(), os.getegid()
    user, _, group = text.partition(":")
    try:
        account = pwd.getpwnam(user)
        return account.pw_uid, grp.getgrnam(group).gr_gid if group else account.pw_gid
    except KeyError:
        raise InstallerError(
            Reason.REQUIREMENT_UNMET, f"this device has no user or group {text[:100]!r}"
        ) from None


def _wrong(parameter: str, what: str) -> InstallerError:
    return InstallerError(Reason.MANIFEST_INVALID, f"parameter {parameter!r} {what}")
