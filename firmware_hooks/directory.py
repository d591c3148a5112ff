"""The `directory` installer: a release tree beside the running one, switched by an atomic link.

Owns `<install_dir>/<component>`:

    releases/<digest>/      one tree for each release, named by the manifest's SHA-256
    current -> releases/... what runs
    previous -> releases/...what ran before the last switch

A tree comes as one tar file, plain or compressed with gzip or xz. It is unpacked under a name
ending in `.partial`, made durable and renamed, so a tree with its final name is complete. Links are
replaced by renaming a new one over them, and the folder is fsynced, so a power cut leaves the old
or the new one, where the disk honours fsync.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Final

from firmware_hooks.contract import InstallerError, Order
from sync.manifest import Artifact
from sync.stages import Reason

ENTRIES_MAX: Final = 200_000
PATH_BYTES_MAX: Final = 1024
CHUNK_BYTES: Final = 1024 * 1024
PARTIAL: Final = ".partial"


class DirectoryInstaller:
    """Installs release trees of one component."""

    def __init__(self, component: str, install_dir: Path) -> None:
        """Work in `install_dir/component`."""
        self._home = install_dir / component
        self._releases = self._home / "releases"

    def stage(self, order: Order) -> None:
        """Unpack the tree beside the running one."""
        final = self.folder(order.digest)
        if final.is_dir():
            return
        partial = final.with_name(final.name + PARTIAL)
        if len(order.manifest.artifacts) != 1:
            raise InstallerError(
                Reason.MANIFEST_INVALID, "the directory installer takes exactly one artifact"
            )
        artifact = order.manifest.artifacts[0]
        try:
            self._releases.mkdir(parents=True, exist_ok=True)
            _remove(partial)
            partial.mkdir()
            _verify(order.artifacts[artifact.name], artifact)
            _unpack(order.artifacts[artifact.name], partial, order.unpacked_bytes_max)
            _fsync_tree(partial)
            partial.rename(final)
            _fsync(self._releases)
            _fsync(self._home)
        except InstallerError:
            _remove(partial)
            raise
        except (OSError, tarfile.TarError, EOFError, ValueError) as error:
            _remove(partial)
            raise _explained(error) from None

    def activate(self, digest: bytes) -> None:
        """Point `previous` at what runs and `current` at the staged tree."""
        if not self.folder(digest).is_dir():
            raise InstallerError(Reason.INSTALLER_FAILED, "the release is not staged")
        running = self.running()
        try:
            if running is not None and running != digest:
                self._point("previous", running)
            if running != digest:
                self._point("current", digest)
        except OSError as error:
            raise _explained(error) from None

    def commit(self, digest: bytes) -> None:
        """Nothing is left to do: the link decides, and it stands."""

    def roll_back(self, digest: bytes) -> bytes | None:
        """Point `current` back at `previous`, if it points at `digest`."""
        running = self.running()
        if running != digest:
            return running
        previous = self._target("previous")
        try:
            if previous is None:
                with contextlib.suppress(FileNotFoundError):
                    (self._home / "current").unlink()
                    _fsync(self._home)
                return None
            if not self.folder(previous).is_dir():
                raise InstallerError(Reason.ROLLBACK_FAILED, "the earlier release is gone")
            self._point("current", previous)
        except OSError as error:
            raise _explained(error, Reason.ROLLBACK_FAILED) from None
        return previous

    def running(self) -> bytes | None:
        """Return the digest that `current` points to."""
        return self._target("current")

    def folder(self, digest: bytes) -> Path:
        """Return the tree of a release."""
        return self._releases / digest.hex()

    def clean_up(self) -> None:
        """Remove trees that are neither current nor previous, and what was left half unpacked."""
        keep = {digest.hex() for digest in (self.running(), self._target("previous")) if digest}
        with contextlib.suppress(FileNotFoundError):
            for tree in sorted(self._releases.iterdir()):
                if tree.name not in keep:
                    _remove(tree)
            for link in self._home.glob("*.next"):
                link.unlink()

    def _target(self, link: str) -> bytes | None:
        try:
            return bytes.fromhex((self._home / link).readlink().name)
        except (OSError, ValueError):
            return None

    def _point(self, link: str, digest: bytes) -> None:
        scratch = self._home / f"{link}.next"
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        scratch.symlink_to(Path("releases") / digest.hex())
        scratch.replace(self._home / link)
        _fsync(self._home)


def _explained(error: Exception, reason: Reason = Reason.INSTALLER_FAILED) -> InstallerError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InstallerError(Reason.NO_SPACE, "no room on the disk for the release")
    if isinstance(error, OSError):
        return InstallerError(reason, f"{error.strerror}: {error.filename}"[:200])
    return InstallerError(reason, f"the tree cannot be unpacked: {error}"[:200])


def _verify(path: Path, artifact: Artifact) -> None:
    digest = hashlib.sha256()
    length_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            length_bytes += len(chunk)
    if length_bytes != artifact.length_bytes or digest.hexdigest() != artifact.sha256:
        raise InstallerError(
            Reason.DIGEST_MISMATCH, f"{artifact.name} on disk is not what the manifest names"
        )


def _unpack(path: Path, into: Path, bytes_max: int) -> None:
    """Unpack a tar file whose every entry is checked first.

    Refused: absolute paths, `..`, names that differ in case only, links that leave the tree,
    devices and pipes, entries below a link, and more bytes or entries than allowed (sparse files
    count with their full length).
    """
    seen: set[str] = set()
    links: set[PurePosixPath] = set()
    total_bytes = 0
    with tarfile.open(path, "r:*") as archive:
        for count, member in enumerate(archive, 1):
            name = PurePosixPath(member.name)
            if count > ENTRIES_MAX:
                raise ValueError(f"more than {ENTRIES_MAX} entries")
            if not (member.isreg() or member.isdir() or member.issym()):
                raise ValueError(f"{member.name[:80]!r} is neither file, folder nor symbolic link")
            if len(os.fsencode(member.name)) > PATH_BYTES_MAX or "\0" in member.name:
                raise ValueError("a name is too long")
            if str(name) == ".":
                continue
            if any(parent in links for parent in name.parents):
                raise ValueError(f"{member.name[:80]!r} lies below a link")
            folded = str(name).casefold()
            if folded in seen and not member.isdir():
                raise ValueError(f"{member.name[:80]!r} comes twice, perhaps in another case")
            seen.add(folded)
            total_bytes += member.size if member.isreg() else 0
            if total_bytes > bytes_max:
                raise InstallerError(Reason.TOO_LARGE, f"unpacked, more than {bytes_max} bytes")
            if member.issym():
                links.add(name)
            # The `data` filter refuses absolute names, `..`, links out of the tree and devices,
            # and drops owners and special mode bits (PEP 706).
            archive.extract(member, into, filter="data", set_attrs=True)


def _fsync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            if not path.is_symlink():
                _fsync(path)
        _fsync(Path(folder))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
