"""The `directory` installer: a release tree beside the running one, switched by an atomic link.

Owns `<install_dir>/<component>`:

    releases/<digest>/      one tree for each release, named by the manifest's SHA-256
    current -> releases/... what runs
    previous -> releases/...what ran before the last switch
    trees/<digest>          the list of each tree whose manifest names one, as it was unpacked

A tree comes as one tar file. It is unpacked under a name ending in `.partial`, made durable and
renamed, so a tree with its final name is complete. Links are replaced by renaming a new one over
them, and the folder is fsynced, so a power cut leaves the old or the new one, where the disk
honours fsync.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from sync.manifest import Artifact
from sync.stages import Reason

CHUNK_BYTES: Final = 1024 * 1024
DIGEST_BYTES: Final = 32
PARTIAL: Final = ".partial"
NEXT: Final = ".next"


class DirectoryInstaller:
    """Installs release trees of one component."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Work in `install_dir/component`. There are no options.

        Raises:
            InstallerError: There is one.
        """
        if options:
            raise InstallerError(
                Reason.INSTALLER_FAILED,
                f"the directory installer has no option {min(options)!r}: take it out of the "
                "device's settings",
            )
        self._home = install_dir / component
        self._releases = self._home / "releases"
        self._trees = self._home / "trees"

    def stage(self, order: Order) -> None:
        """Unpack the tree beside the running one."""
        if len(order.manifest.artifacts) != 1:
            raise InstallerError(
                Reason.MANIFEST_INVALID, "the directory installer takes exactly one artifact"
            )
        artifact = order.manifest.artifacts[0]
        final = self.folder(order.digest)
        if final.is_dir():
            return
        partial = final.with_name(final.name + PARTIAL)
        try:
            _make_folder(self._releases)
            _remove(partial)
            partial.mkdir()
            _verify(order.artifacts[artifact.name], artifact)
            _unpack(order.artifacts[artifact.name], partial, order.unpacked_bytes_max)
            self._keep_list(order, partial)
            _fsync_tree(partial)
            partial.rename(final)
            _fsync(self._releases)
        except (OSError, InstallerError) as error:
            with contextlib.suppress(OSError):
                _remove(partial)
            if isinstance(error, OSError):
                raise _explained(error) from None
            raise

    def can_start_from(self, digest: bytes) -> bool:
        """Tell whether the release is here, and its list is."""
        return self.folder(digest).is_dir() and self._list(digest).is_file()

    def stage_pack(self, order: Order, pack: Path, base: bytes) -> str:
        """Make the tree of what runs and the pack, in a process of its own."""
        # Imported here, as unpacking is.
        from firmware_hooks.packed import apply_pack  # noqa: PLC0415

        final = self.folder(order.digest)
        if final.is_dir():
            return "it was here already"
        partial = final.with_name(final.name + PARTIAL)
        try:
            _make_folder(self._trees)
            _remove(partial)
            partial.mkdir()
            said = apply_pack(
                order,
                pack,
                base=self.folder(base),
                base_list=self._list(base),
                into=partial,
                list_to=self._list(order.digest),
            )
            _fsync(self._list(order.digest))
            _fsync(self._trees)
            _fsync_tree(partial)
            partial.rename(final)
            _fsync(self._releases)
        except (OSError, InstallerError) as error:
            with contextlib.suppress(OSError):
                _remove(partial)
                _remove(self._list(order.digest))
            if isinstance(error, OSError):
                raise _explained(error) from None
            raise
        return said

    def activate(self, digest: bytes) -> None:
        """Point `previous` at what runs and `current` at the staged tree."""
        if not self.folder(digest).is_dir():
            raise InstallerError(Reason.INSTALLER_FAILED, "the release is not staged")
        running = self.running()
        if running == digest:
            return
        try:
            if running is not None:
                self._point("previous", running)
            self._point("current", digest)
        except OSError as error:
            raise _explained(error) from None

    def check_trial(self, digest: bytes) -> None:
        """Make sure that `current` still points at the release."""
        if self.running() != digest:
            raise InstallerError(Reason.INSTALLER_FAILED, "`current` points at another release")

    def commit(self, digest: bytes) -> None:
        """Nothing is left to do: the link decides, and it stands."""

    def roll_back(self, digest: bytes) -> bytes | None:
        """Point `current` back at `previous`, if it points at `digest`."""
        running = self.running()
        if running != digest:
            return running
        previous = self._target("previous")
        if previous == digest:
            return digest  # it ran before as well; nothing earlier is known
        try:
            if previous is None:
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
        try:
            for tree in sorted(self._releases.iterdir()):
                if tree.name not in keep:
                    _remove(tree)
            if self._trees.is_dir():
                for text in sorted(self._trees.iterdir()):
                    if text.name not in keep:
                        _remove(text)
            for link in self._home.glob(f"*{NEXT}"):
                link.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _explained(error) from None

    def _list(self, digest: bytes) -> Path:
        return self._trees / digest.hex()

    def _keep_list(self, order: Order, tree: Path) -> None:
        """Keep the list of a tree that is as its manifest says, so that a pack can start from it.

        A tree that is not still is what the artifact holds, and that is what was signed.
        """
        from firmware_hooks.tree import BadTree, list_tree, tree_named  # noqa: PLC0415

        named = tree_named(order.manifest.parameters)
        if named is None:
            return
        try:
            text = list_tree(tree)
        except BadTree:
            return
        if hashlib.sha256(text).digest() == named[0]:
            _make_folder(self._trees)
            self._list(order.digest).write_bytes(text)
            _fsync(self._list(order.digest))
            _fsync(self._trees)

    def _target(self, link: str) -> bytes | None:
        try:
            digest = bytes.fromhex((self._home / link).readlink().name)
        except (OSError, ValueError):
            return None
        return digest if len(digest) == DIGEST_BYTES else None

    def _point(self, link: str, digest: bytes) -> None:
        scratch = self._home / f"{link}{NEXT}"
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        scratch.symlink_to(Path("releases") / digest.hex())
        scratch.replace(self._home / link)
        _fsync(self._home)


def _explained(error: OSError, reason: Reason = Reason.INSTALLER_FAILED) -> InstallerError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InstallerError(Reason.NO_SPACE, "no room on the disk for the release")
    where = f": {os.fsdecode(error.filename)}" if error.filename is not None else ""
    return InstallerError(reason, f"{error.strerror or error}{where}"[:200])


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
    # Imported here: unpacking takes 2 MB of memory, and most agents install nothing for weeks.
    from firmware_hooks.archive import BadArchive, TooLarge, unpack  # noqa: PLC0415

    try:
        unpack(path, into, bytes_max=bytes_max)
    except TooLarge as error:
        raise InstallerError(Reason.TOO_LARGE, str(error)[:200]) from None
    except BadArchive as error:
        raise InstallerError(Reason.INSTALLER_FAILED, str(error)[:200]) from None


def _make_folder(folder: Path) -> None:
    """Make `folder` and what it lies in, durably."""
    missing = [folder, *folder.parents]
    missing = missing[: next(n for n, each in enumerate(missing) if each.is_dir())]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        _fsync(each.parent)


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
