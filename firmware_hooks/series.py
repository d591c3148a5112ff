"""A release made of parts, each with an installer of its own, as one installer: all or none.

Owns `<install_dir>/<component>`:

    parts/<part>/...               where the installer of each part works
    releases/<digest>/parts.json   what each part of a release is called by its own installer
    releases/<digest>/<part>       a link to each part; commands run in the folder that holds them

Parts are staged and put in place in the order that the release names, and taken back in the reverse
one. Nothing is put in place before every part is staged, and nothing is while one asks to wait.
What runs is the release that all parts are of; where they differ nothing is said to run, and going
back goes on until they agree.

To its installer a part is a release of its own: a manifest that names nothing but it, with a digest
of its own.

Rules: every call of every part may be repeated, so after a crash the whole call is made again. A
part that a release does not name is left alone.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from firmware_hooks.contract import (
    Installer,
    InstallerError,
    Order,
    Reboots,
    RetryLater,
    Starts,
)
from firmware_hooks.durable import explained, fsync, write_durably
from sync.manifest import Manifest
from sync.stages import Reason

PARTS: Final = "parts.json"


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

    @property
    def steady_s(self) -> float:
        """The longest that any part asks to be looked at."""
        starting = [each.installer for each in self._members if isinstance(each.installer, Starts)]
        return max((each.steady_s for each in starting), default=0.0)

    def stage(self, order: Order) -> None:
        """Lay every part down."""
        orders = {member.name: part_of(order, member.name) for member in self._members}
        digests = {name: each.digest.hex() for name, each in orders.items()}
        try:
            # Written first: what a part is called has to be known to take it back.
            write_durably(self.folder(order.digest) / PARTS, json.dumps(digests).encode())
        except OSError as error:
            raise explained(error) from None
        for member in self._members:
            member.installer.stage(orders[member.name])
        self._link(order.digest)

    def activate(self, digest: bytes) -> None:
        """Put every part in place."""
        parts = self._parts(digest)
        if parts is None:
            raise InstallerError(Reason.INSTALLER_FAILED, "the release is not staged")
        for at, member in enumerate(self._members):
            try:
                member.installer.activate(parts[member.name])
            except RetryLater as later:
                # To wait is to have switched nothing, and it may take days.
                self._take_back(self._members[:at], parts)
                raise RetryLater(f"{member.name}: {later.detail}", later.wait_s) from None

    def _take_back(self, members: Sequence[Member], parts: Mapping[str, bytes]) -> None:
        """Take parts back that were just put in place, the last one first.

        Raises:
            InstallerError: One could not be; the others were.
        """
        failed = self._every(
            lambda member: member.installer.roll_back(parts[member.name]), list(reversed(members))
        )
        if failed is not None:
            # To go back may wait too, but not as one who has switched nothing.
            raise InstallerError(failed.reason, failed.detail)

    def check_trial(self, digest: bytes) -> None:
        """Make sure that every part is of this release."""
        parts = self._parts(digest) or {}
        for member in self._members:
            try:
                member.installer.check_trial(parts.get(member.name, b""))
            except InstallerError as error:
                detail = f"{member.name}: {error.detail}"
                raise InstallerError(error.reason, detail, is_final=error.is_final) from None

    def commit(self, digest: bytes) -> None:
        """Accept every part; one that cannot does not keep the others from it."""
        parts = self._parts(digest) or {}
        failed = self._every(
            lambda member: member.installer.commit(parts.get(member.name, b"")), self._members
        )
        if failed is not None:
            raise failed

    def roll_back(self, digest: bytes) -> bytes | None:
        """Take every part back, the last one first, and return the release that all are of then.

        Raises:
            RetryLater: A part wants to be asked later; the others were taken back.
            InstallerError: A part could not be taken back; the others were. `INCONSISTENT` if parts
                of several releases are there now.
        """
        parts = self._parts(digest)
        if parts is None:
            return self.running()  # it was never staged
        after: dict[str, bytes | None] = {}

        def back(member: Member) -> None:
            after[member.name] = member.installer.roll_back(parts[member.name])

        failed = self._every(back, list(reversed(self._members)))
        if isinstance(failed, RetryLater):
            raise failed
        if failed is not None:
            is_mixed = len({parts[name] == now for name, now in self._now().items()}) > 1
            reason = Reason.INCONSISTENT if is_mixed else failed.reason
            raise InstallerError(reason, failed.detail) from None
        if not any(after.values()):
            return None
        release = self._release_of(after)
        if release is None:
            detail = f"parts of different releases are there: {_told(after)}"
            raise InstallerError(Reason.INCONSISTENT, detail[:200])
        return release

    def running(self) -> bytes | None:
        """Return the release that all parts are of, None if they differ or there is none."""
        return self._release_of(self._now())

    def folder(self, digest: bytes) -> Path:
        """Return the folder with a link to each part."""
        return self._releases / digest.hex()

    def clean_up(self) -> None:
        """Clean up after every part, and drop what is known of releases that are gone."""
        failed = self._every(lambda member: member.installer.clean_up(), self._members)
        by_name = {member.name: member.installer for member in self._members}
        for folder in self._folders():
            parts = self._parts(bytes.fromhex(folder.name)) or {}
            if not any(
                name in by_name and by_name[name].folder(digest).exists()
                for name, digest in parts.items()
            ):
                for entry in folder.iterdir():
                    entry.unlink()
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

    # Parts.

    def _now(self) -> dict[str, bytes | None]:
        return {member.name: member.installer.running() for member in self._members}

    def _release_of(self, now: Mapping[str, bytes | None]) -> bytes | None:
        for folder in self._folders():
            digest = bytes.fromhex(folder.name)
            parts = self._parts(digest)
            if parts is not None and all(parts.get(name) == each for name, each in now.items()):
                return digest
        return None

    def _folders(self) -> list[Path]:
        if not self._releases.is_dir():
            return []
        found = []
        for folder in self._releases.iterdir():
            with contextlib.suppress(ValueError):
                bytes.fromhex(folder.name)
                found.append(folder)
        return found

    def _parts(self, digest: bytes) -> dict[str, bytes] | None:
        """Return what each part of a release is called, None if it was never staged here."""
        try:
            told = json.loads((self.folder(digest) / PARTS).read_bytes())
            found = {str(name): bytes.fromhex(text) for name, text in told.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return None
        return found if found.keys() >= {member.name for member in self._members} else None

    def _every(
        self, act: Callable[[Member], object], members: Sequence[Member]
    ) -> InstallerError | None:
        """Let each member act, whatever becomes of the others; return the first failure.

        That one wants to be asked later is returned where none has failed.
        """
        first: InstallerError | None = None
        later: RetryLater | None = None
        for member in members:
            try:
                act(member)
            except RetryLater as error:
                later = later or RetryLater(f"{member.name}: {error.detail}", error.wait_s)
            except InstallerError as error:
                first = first or InstallerError(error.reason, f"{member.name}: {error.detail}")
            except (Exception, SystemExit) as error:  # noqa: BLE001 - an installer can be anybody's program
                detail = f"{member.name}: {type(error).__name__}: {error}"[:200]
                first = first or InstallerError(Reason.INSTALLER_FAILED, detail)
        return first or later

    def _link(self, digest: bytes) -> None:
        folder, parts = self.folder(digest), self._parts(digest) or {}
        try:
            for member in self._members:
                with contextlib.suppress(FileExistsError):
                    (folder / member.name).symlink_to(member.installer.folder(parts[member.name]))
            fsync(folder)
        except OSError as error:
            raise explained(error) from None


def part_of(order: Order, name: str) -> Order:
    """Return the order that the installer of one part gets: a release of nothing but this part."""
    manifest = order.manifest
    part = next(each for each in manifest.parts if each.name == name)
    own = tuple(
        each.model_copy(update={"part": ""}) for each in manifest.artifacts if each.part == name
    )
    alone: Manifest = manifest.model_copy(
        update={
            "installer": part.installer,
            "parameters": part.parameters,
            "artifacts": own,
            "parts": (),
        }
    )
    files = {each.name: order.artifacts[each.name] for each in own}
    return Order(alone, alone.digest(), files, order.unpacked_bytes_max, order.room_bytes)


def _told(now: Mapping[str, bytes | None]) -> str:
    return ", ".join(
        f"{name} ({'nothing' if digest is None else digest.hex()[:8]})"
        for name, digest in now.items()
    )
