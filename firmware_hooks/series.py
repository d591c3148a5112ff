"""A release made of parts, each with an installer of its own, as one installer: all or none.

Owns `<install_dir>/<component>`:

    parts/<part>/...        where the installer of each part works
    releases/<digest>/      a link to each part of a release, by its name; commands run there

Parts are staged and put in place in the order that the release names, and taken back in the reverse
one. Nothing is put in place before every part is staged. What runs is the release that all parts
are of; where they differ nothing is said to run, and going back goes on until they agree.

Rules: every call of every part may be repeated, so after a crash the whole call is made again. A
part that a release does not name is left alone.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from firmware_hooks.contract import Installer, InstallerError, Order, Reboots
from sync.manifest import Manifest
from sync.stages import Reason


class Member(NamedTuple):
    """One part."""

    name: str
    installer: Installer


class Series:
    """The parts of one component, as one `Installer` that may ask for reboots."""

    def __init__(self, component: str, install_dir: Path, members: Sequence[Member]) -> None:
        """Work with `members`, in the order in which they are put in place."""
        self._releases = install_dir / component / "releases"
        self._members = list(members)

    def stage(self, order: Order) -> None:
        """Lay every part down."""
        for member in self._members:
            member.installer.stage(part_of(order, member.name))
        self._link(order.digest)

    def activate(self, digest: bytes) -> None:
        """Put every part in place."""
        for member in self._members:
            member.installer.activate(digest)

    def check_trial(self, digest: bytes) -> None:
        """Make sure that every part is of this release."""
        for member in self._members:
            try:
                member.installer.check_trial(digest)
            except InstallerError as error:
                raise InstallerError(error.reason, f"{member.name}: {error.detail}") from None

    def commit(self, digest: bytes) -> None:
        """Accept every part; one that cannot does not keep the others from it."""
        self._every(lambda member: member.installer.commit(digest), self._members)

    def roll_back(self, digest: bytes) -> bytes | None:
        """Take every part back, the last one first, and return what all of them are of then.

        Raises:
            InstallerError: A part could not be taken back; the others were. `INCONSISTENT` if parts
                of several releases are there now.
        """
        after: list[bytes | None] = []
        failed = self._every(
            lambda member: after.append(member.installer.roll_back(digest)),
            list(reversed(self._members)),
        )
        now = [member.installer.running() for member in self._members]
        if failed is not None:
            is_mixed = len({*now}) > 1
            raise InstallerError(
                Reason.INCONSISTENT if is_mixed else failed.reason, failed.detail
            ) from None
        if len({*after}) > 1:
            raise InstallerError(
                Reason.INCONSISTENT, f"{self._names(now)} are of different releases"
            )
        return after[0] if after else None

    def running(self) -> bytes | None:
        """Return the release that all parts are of, None if they differ or there is none."""
        found = {member.installer.running() for member in self._members}
        return found.pop() if len(found) == 1 else None

    def folder(self, digest: bytes) -> Path:
        """Return the folder with a link to each part."""
        return self._releases / digest.hex()

    def clean_up(self) -> None:
        """Clean up after every part, and drop the links of what is gone."""
        failed = self._every(lambda member: member.installer.clean_up(), self._members)
        if self._releases.is_dir():
            for folder in self._releases.iterdir():
                digest = _digest(folder.name)
                gone = digest is None or not any(
                    member.installer.folder(digest).exists() for member in self._members
                )
                if gone:
                    for link in folder.iterdir():
                        link.unlink()
                    folder.rmdir()
        if failed is not None:
            raise failed

    def awaits_reboot(self) -> tuple[str, ...] | None:
        """Return what the reboot has to be given, for all parts that await one."""
        given: list[str] = []
        is_awaited = False
        for member in self._members:
            if isinstance(member.installer, Reboots):
                wanted = member.installer.awaits_reboot()
                if wanted is not None:
                    is_awaited = True
                    given += [word for word in wanted if word not in given]
        return tuple(given) if is_awaited else None

    def _every(
        self, act: Callable[[Member], object], members: Sequence[Member]
    ) -> InstallerError | None:
        """Let each member act, whatever becomes of the others; return the first failure."""
        first: InstallerError | None = None
        for member in members:
            try:
                act(member)
            except InstallerError as error:
                first = first or InstallerError(error.reason, f"{member.name}: {error.detail}")
        return first

    def _link(self, digest: bytes) -> None:
        folder = self.folder(digest)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for member in self._members:
                link = folder / member.name
                with contextlib.suppress(FileExistsError):
                    link.symlink_to(member.installer.folder(digest))
            for each in (folder, folder.parent):
                descriptor = os.open(each, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise InstallerError(
                Reason.INSTALLER_FAILED, f"{error.strerror}: {error.filename}"[:200]
            ) from None

    def _names(self, now: Sequence[bytes | None]) -> str:
        told = [
            f"{member.name} ({'nothing' if digest is None else digest.hex()[:8]})"
            for member, digest in zip(self._members, now, strict=True)
        ]
        return ", ".join(told)


def part_of(order: Order, name: str) -> Order:
    """Return the order that the installer of one part gets: its artifacts and its parameters."""
    manifest = order.manifest
    part = next(each for each in manifest.parts if each.name == name)
    own = tuple(each for each in manifest.artifacts if each.part == name)
    narrowed: Manifest = manifest.model_copy(
        update={
            "installer": part.installer,
            "parameters": part.parameters,
            "artifacts": own,
        }
    )
    files = {each.name: order.artifacts[each.name] for each in own}
    return Order(narrowed, order.digest, files, order.unpacked_bytes_max)


def _digest(name: str) -> bytes | None:
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None
