"""Files and folders that survive a power cut, where the disk honours fsync.

Owns the few ways in which an installer changes the disk: beside, synced, renamed, and the folder
synced. Knows nothing of releases.
"""

import contextlib
import errno
import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import BinaryIO, Final

from firmware_hooks.contract import InstallerError
from sync.manifest import Artifact
from sync.stages import Reason

CHUNK_BYTES: Final = 1024 * 1024
PARTIAL: Final = ".partial"
"""Ends the name of what is not whole yet."""
DETAIL_CHARACTERS_MAX: Final = 200


def write_durably(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole or not at all, also across a power cut.

    Raises:
        OSError: The disk is full or fails; what was at `path` still is.
    """
    copy_durably(io.BytesIO(content), path)


def copy_durably(source: BinaryIO, path: Path) -> None:
    """Put the rest of an open file at `path`, as `write_durably` does."""
    make_folder(path.parent)
    scratch = path.with_name(path.name + PARTIAL)
    with scratch.open("wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    fsync(path.parent)


def make_folder(folder: Path) -> None:
    """Make `folder` and what it lies in, durably."""
    missing = [folder, *folder.parents]
    missing = missing[: next(n for n, each in enumerate(missing) if each.is_dir())]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        fsync(each.parent)


def fsync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Make everything below `root` durable, and `root` itself."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            if not path.is_symlink():
                fsync(path)
        fsync(Path(folder))


def remove(path: Path) -> None:
    """Remove a file, a link or a whole tree; nothing if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def verify(path: Path, artifact: Artifact) -> None:
    """Make sure that the file at `path` is what the manifest names.

    Raises:
        InstallerError: It is not.
        OSError: It cannot be read.
    """
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


def explained(error: OSError, reason: Reason = Reason.INSTALLER_FAILED) -> InstallerError:
    """Return what an error of the system means to an install."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InstallerError(Reason.NO_SPACE, "no room on the disk for the release")
    name = error.filename
    where = f": {os.fsdecode(name)}" if isinstance(name, (str, bytes, os.PathLike)) else ""
    return InstallerError(reason, f"{error.strerror or error}{where}"[:DETAIL_CHARACTERS_MAX])
