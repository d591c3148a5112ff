"""One path on the device where a plain file belongs: looking at it, and replacing it whole.

Owns how a path is walked: step by step below an allowed folder, so that no symbolic link leads
elsewhere, whoever may write to the folders on the way.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from firmware_hooks.contract import InstallerError
from firmware_hooks.durable import CHUNK_BYTES, PARTIAL, explained
from sync.stages import Reason

FOLDER_MODE: Final = 0o755
"""Of folders on the way that are not there."""
DIGESTS_COUNT_MAX: Final = 1000
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """A plain file: its content, and who may do what with it."""

    sha256: str
    mode: int
    user: int
    group: int


@dataclass(frozen=True, slots=True)
class Place:
    """A path and the allowed folder that it lies below."""

    root: Path
    path: Path

    def look(self) -> Found | None:
        """Return what lies there, None if nothing does.

        Raises:
            InstallerError: It is no plain file, a link is in the way, or it cannot be read.
        """
        try:
            with self.opened() as file:
                seen = os.fstat(file.fileno())
                digest = _digest(file, seen)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explained(error) from None
        return Found(digest, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file there.

        Raises:
            InstallerError: It is no plain file, or a link is in the way.
            OSError: It is not there, or cannot be read.
        """
        with self._folder() as folder:
            try:
                # Without O_NONBLOCK, opening a named pipe would wait for somebody to write to it.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                descriptor = os.open(self.path.name, flags, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise self._no_plain_file() from None
                raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._no_plain_file()
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            yield file

    def put(self, source: Path, wanted: Found) -> None:
        """Put a copy of `source` there, which is known to be as `wanted`, unless it is there.

        Raises:
            InstallerError: A link or something else is in the way.
            OSError: The disk is full or fails; what lay there still does.
        """
        with self._folder(makes=True) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._scratch, dir_fd=folder)
            if self.look() == wanted:
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = os.open(self._scratch, flags, 0o600, dir_fd=folder)
            with (
                open(descriptor, "wb") as file,  # noqa: PTH123 - a descriptor, not a path
                source.open("rb") as given,
            ):
                while chunk := given.read(CHUNK_BYTES):
                    file.write(chunk)
                file.flush()
                os.fchown(file.fileno(), wanted.user, wanted.group)
                os.fchmod(file.fileno(), wanted.mode)
                os.fsync(file.fileno())
            os.rename(self._scratch, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def take_away(self) -> None:
        """Remove what lies there, if anything does.

        Raises:
            InstallerError: A link is in the way.
            OSError: The disk fails.
        """
        with contextlib.suppress(FileNotFoundError), self._folder() as folder:
            for name in (self._scratch, self.path.name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    @property
    def _scratch(self) -> str:
        return f".{self.path.name}.fieldfare{PARTIAL}"

    def _no_plain_file(self) -> InstallerError:
        return InstallerError(Reason.INCOMPATIBLE, f"{self.path} is no plain file")

    @contextlib.contextmanager
    def _folder(self, *, makes: bool = False) -> Iterator[int]:
        folder = os.open(self.root, _FOLDER)
        try:
            for step in self.path.parent.relative_to(self.root).parts:
                below = self._step(folder, step, makes=makes)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    def _step(self, folder: int, step: str, *, makes: bool) -> int:
        try:
            return os.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            if not makes:
                raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise InstallerError(
                    Reason.INCOMPATIBLE, f"{step} on the way to {self.path} is a link or no folder"
                ) from None
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(step, FOLDER_MODE, dir_fd=folder)
            os.fsync(folder)
        return os.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)


_digests: dict[tuple[int, ...], str] = {}
"""SHA-256 of files that were read before, by what changes with their content."""


def _digest(file: BinaryIO, seen: os.stat_result) -> str:
    """Return the SHA-256 of an open file, which is not read again while its times stand still."""
    key = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    if key not in _digests:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        if len(_digests) >= DIGESTS_COUNT_MAX:
            _digests.clear()
        _digests[key] = digest.hexdigest()
    return _digests[key]
