"""One slot: a block device or a file that an image is written to from its beginning.

Owns the writing, the reading back and the refusals. Knows no bootloader and no release.

What is written goes past the kernel's cache where the filesystem allows that (`O_DIRECT`), is
synced, and is read back past the cache, block by block, so that what counts as written is what the
medium gives.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firmware_hooks.contract import InstallerError
from sync.stages import Reason

BLOCK_BYTES: Final = 1024 * 1024
"""Written, verified and told of at once."""

ALIGNMENT_BYTES: Final = 4096
"""What `O_DIRECT` asks for on any disk."""

SAMPLE_BYTES: Final = 4096
SAMPLES: Final = 16
"""How much is looked at to see whether a slot still holds what was written."""

TOLD_BYTES: Final = 64 * 1024 * 1024
"""How much is written between two words about it."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a slot holds from its beginning on."""

    length_bytes: int
    sha256: str
    sample: str
    """SHA-256 of `SAMPLES` small parts of it."""


class Slot:
    """A place for an image."""

    def __init__(self, path: Path) -> None:
        """Work with the device or file at `path`; nothing is opened yet."""
        self._path = path

    def refuse_if_used(self) -> None:
        """Make sure that nothing runs from the slot or has it mounted.

        Raises:
            InstallerError: Something does, or there is no such device or file.
        """
        found = self._found()
        if stat.S_ISBLK(found.st_mode):
            if Path("/").stat().st_dev == found.st_rdev:
                raise self._wrong("is the root filesystem of what runs")
            number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
            for line in Path("/proc/self/mountinfo").read_text().splitlines():
                fields = line.split()
                if fields[2] == number:
                    raise self._wrong(f"is mounted at {fields[4]}")
        real = str(self._path.resolve())
        for backing in Path("/sys").glob("block/loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if backing.read_text().strip() == real:
                    raise self._wrong(f"is in use as /dev/{backing.parent.parent.name}")

    def write(self, chunks: Iterable[bytes], tell: Callable[[str], None]) -> Written:
        """Write an image and read it back.

        Args:
            chunks: The image, in order.
            tell: Called with a line now and then.

        Raises:
            InstallerError: It does not fit, or what is read back is not what was written.
            OSError: The device fails, or the disk that holds the file is full.
        """
        blocks: list[bytes] = []
        whole = hashlib.sha256()
        length_bytes = 0
        with self._opened(os.O_WRONLY) as file:
            room_bytes = file.length_bytes()
            for block in _blocks(chunks, file.buffer):
                if length_bytes + len(block) > room_bytes:
                    raise InstallerError(
                        Reason.TOO_LARGE,
                        f"the image does not fit: {self._path} has {room_bytes} bytes",
                    )
                file.write(block)
                blocks.append(hashlib.sha256(block).digest())
                whole.update(block)
                length_bytes += len(block)
                if length_bytes % TOLD_BYTES == 0:
                    tell(f"{length_bytes // BLOCK_BYTES} MiB written to {self._path}")
            file.sync()
        if length_bytes == 0:
            raise InstallerError(Reason.INSTALLER_FAILED, "the image is empty")
        for number, block in enumerate(self._read(length_bytes)):
            if hashlib.sha256(block).digest() != blocks[number]:
                raise self._wrong(
                    f"gives back something else than was written, within the {BLOCK_BYTES} bytes"
                    f" at {number * BLOCK_BYTES}; the medium may be worn out"
                )
        tell(f"{length_bytes} bytes written to {self._path} and read back")
        return Written(length_bytes, whole.hexdigest(), self._sample(length_bytes))

    def settled(self) -> Written:
        """Sync what somebody else has written, and return what all of the slot holds then.

        Raises:
            OSError: The device fails.
        """
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            length_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        finally:
            os.close(descriptor)
        digest = hashlib.sha256()
        for block in self._read(length_bytes):
            digest.update(block)
        return Written(length_bytes, digest.hexdigest(), self._sample(length_bytes))

    def holds(self, written: Written) -> bool:
        """Tell whether the slot holds it, by reading all of it.

        Raises:
            OSError: It cannot be read.
        """
        digest = hashlib.sha256()
        for block in self._read(written.length_bytes):
            digest.update(block)
        return digest.hexdigest() == written.sha256

    def seems_to_hold(self, written: Written) -> bool:
        """Tell whether the slot holds it, by reading a little here and there.

        Raises:
            OSError: It cannot be read.
        """
        return self._sample(written.length_bytes) == written.sample

    def _sample(self, length_bytes: int) -> str:
        digest = hashlib.sha256()
        last = max(0, length_bytes - SAMPLE_BYTES)
        with self._path.open("rb", buffering=0) as file:
            for number in range(SAMPLES):
                file.seek(last * number // (SAMPLES - 1))
                digest.update(file.read(min(SAMPLE_BYTES, length_bytes)))
        return digest.hexdigest()

    def _read(self, length_bytes: int) -> Iterator[memoryview]:
        """Give the first bytes in blocks, as the medium gives them."""
        left_bytes = length_bytes
        with self._opened(os.O_RDONLY) as file:
            while left_bytes > 0:
                got_bytes = min(file.read(), left_bytes)
                if got_bytes == 0:
                    raise self._wrong("ends before the image does")
                left_bytes -= got_bytes
                yield file.buffer[:got_bytes]

    def _found(self) -> os.stat_result:
        try:
            found = self._path.stat()
        except OSError as error:
            raise self._wrong(f"cannot be used: {error.strerror}") from None
        if not (stat.S_ISBLK(found.st_mode) or stat.S_ISREG(found.st_mode)):
            raise self._wrong("is neither a block device nor a file")
        return found

    @contextmanager
    def _opened(self, mode: int) -> Iterator["_Open"]:
        flags = mode | os.O_CLOEXEC
        if mode == os.O_WRONLY and stat.S_ISBLK(self._found().st_mode):
            flags |= os.O_EXCL  # the kernel refuses while it is mounted, or part of something
        try:
            descriptor = os.open(self._path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise self._wrong("is in use") from None
            if error.errno != errno.EINVAL:
                raise
            descriptor = os.open(self._path, flags)  # a filesystem without O_DIRECT
        try:
            # Not closed by hand: an error may leave somebody holding a part of it.
            yield _Open(descriptor, memoryview(mmap.mmap(-1, BLOCK_BYTES)))
        finally:
            os.close(descriptor)

    def _wrong(self, why: str) -> InstallerError:
        return InstallerError(Reason.INSTALLER_FAILED, f"the slot {self._path} {why}"[:200])


class _Open:
    """An open slot, with a buffer that lies as `O_DIRECT` wants it."""

    def __init__(self, descriptor: int, buffer: memoryview) -> None:
        self._descriptor = descriptor
        self.buffer = buffer

    def length_bytes(self) -> int:
        length_bytes = os.lseek(self._descriptor, 0, os.SEEK_END)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return length_bytes

    def write(self, block: memoryview) -> None:
        done_bytes = 0
        while done_bytes < len(block):
            left = block[done_bytes:]
            if len(left) % ALIGNMENT_BYTES:
                aligned_bytes = len(left) - len(left) % ALIGNMENT_BYTES
                if aligned_bytes == 0:
                    self._through_the_cache()
                else:
                    left = left[:aligned_bytes]
            done_bytes += os.write(self._descriptor, left)

    def read(self) -> int:
        """Fill the buffer as far as there is something; return how far."""
        filled_bytes = 0
        while filled_bytes < len(self.buffer):
            if filled_bytes % ALIGNMENT_BYTES:
                break  # the end of a file
            got_bytes = os.readv(self._descriptor, [self.buffer[filled_bytes:]])
            if got_bytes == 0:
                break
            filled_bytes += got_bytes
        return filled_bytes

    def sync(self) -> None:
        os.fsync(self._descriptor)
        # Where O_DIRECT is not to be had, the next reading shall still not come from the cache.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _through_the_cache(self) -> None:
        """The last bytes of an image need not fill a block."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)


def _blocks(chunks: Iterable[bytes], buffer: memoryview) -> Iterator[memoryview]:
    """Collect chunks in the buffer and give it whenever it is full, and what is left at the end."""
    filled_bytes = 0
    for chunk in chunks:
        with memoryview(chunk) as given:
            at = 0
            while at < len(given):
                taken_bytes = min(len(given) - at, len(buffer) - filled_bytes)
                buffer[filled_bytes : filled_bytes + taken_bytes] = given[at : at + taken_bytes]
                at += taken_bytes
                filled_bytes += taken_bytes
                if filled_bytes == len(buffer):
                    yield buffer[:]
                    filled_bytes = 0
    if filled_bytes:
        yield buffer[:filled_bytes]
