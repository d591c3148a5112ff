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
import hashlib
from pathlib import Path
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.durable import (
    PARTIAL,
    explained,
    fsync,
    fsync_tree,
    make_folder,
    remove,
    verify,
)
from firmware_hooks.options import known
from sync.stages import Reason

DIGEST_BYTES: Final = 32
NEXT: Final = ".next"


class DirectoryInstaller:
    """Installs release trees of one component."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Work in `install_dir/component`. There are no options.

        Raises:
            InstallerError: There is one.
        """
        known("directory", options, ())
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
            make_folder(self._releases)
            remove(partial)
            partial.mkdir()
            verify(order.artifacts[artifact.name], artifact)
            _unpack(order.artifacts[artifact.name], partial, order)
            self._keep_list(order, partial)
            fsync_tree(partial)
            partial.rename(final)
            fsync(self._releases)
        except (OSError, InstallerError) as error:
            with contextlib.suppress(OSError):
                remove(partial)
            if isinstance(error, OSError):
                raise explained(error) from None
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
            make_folder(self._trees)
            remove(partial)
            partial.mkdir()
            said = apply_pack(
                order,
                pack,
                base=self.folder(base),
                base_list=self._list(base),
                into=partial,
                list_to=self._list(order.digest),
            )
            fsync(self._list(order.digest))
            fsync(self._trees)
            fsync_tree(partial)
            partial.rename(final)
            fsync(self._releases)
        except (OSError, InstallerError) as error:
            with contextlib.suppress(OSError):
                remove(partial)
                remove(self._list(order.digest))
            if isinstance(error, OSError):
                raise explained(error) from None
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
            raise explained(error) from None

    def check_trial(self, digest: bytes) -> None:
        """Make sure that `current` still points at the release."""
        if self.running() != digest:
            detail = "`current` points at another release"
            raise InstallerError(Reason.INSTALLER_FAILED, detail, is_final=True)

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
                fsync(self._home)
                return None
            if not self.folder(previous).is_dir():
                raise InstallerError(Reason.ROLLBACK_FAILED, "the earlier release is gone")
            self._point("current", previous)
        except OSError as error:
            raise explained(error, Reason.ROLLBACK_FAILED) from None
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
                    remove(tree)
            if self._trees.is_dir():
                for text in sorted(self._trees.iterdir()):
                    if text.name not in keep:
                        remove(text)
            for link in self._home.glob(f"*{NEXT}"):
                link.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise explained(error) from None

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
            make_folder(self._trees)
            self._list(order.digest).write_bytes(text)
            fsync(self._list(order.digest))
            fsync(self._trees)

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
        fsync(self._home)


def _unpack(path: Path, into: Path, order: Order) -> None:
    # Imported here: unpacking takes 2 MB of memory, and most agents install nothing for weeks.
    from firmware_hooks.archive import BadArchive, TooLarge, unpack  # noqa: PLC0415

    try:
        unpack(path, into, bytes_max=order.bytes_max)
    except TooLarge:
        raise order.too_large() from None
    except BadArchive as error:
        raise InstallerError(Reason.INSTALLER_FAILED, str(error)[:200]) from None
