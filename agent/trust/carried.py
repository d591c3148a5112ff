"""A folder or archive that somebody carried here: what of it is signed, and may be kept.

Owns the folder `imported` in the state folder, from which downloads are spared. Nothing is written
elsewhere, whatever the medium holds: files are kept under their own digest alone, and only those
that signed manifests name.

Format: what `fieldfare release export` writes. `metadata/` as a hub serves it, `blobs/<sha256>`;
as a folder, or as an uncompressed POSIX tar of it.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from agent.plain import open_plain
from agent.trust.refresh import load_chain, refresh
from agent.trust.shelf import IMPORTED, Shelf
from agent.trust.sources import FolderSource, Source, Unreachable
from sync.manifest import BadManifest, Manifest, parse_manifest
from sync.metadata import Refused
from sync.stages import Reason
from sync.trust import Chain, Target, target_in

MEMBERS_MAX: Final = 50_000
"""Most entries of an archive that are looked at."""

HEADER_BYTES_MAX: Final = 1024 * 1024
"""Longest header of an archive that is read into memory."""

READ_BYTES: Final = 256 * 1024

_PLAIN: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)

_NAME: Final = re.compile(
    r"(?:\./)?(metadata/(?:timestamp|[1-9][0-9]{0,15}\.(?:root|snapshot|targets))\.json"
    r"|blobs/[0-9a-f]{64})"
)


class CannotImport(Exception):
    """The path holds nothing that can be imported; the message is one line."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import."""

    root_version: int
    targets_version: int
    releases: tuple[str, ...]
    """Releases of which everything is here now, as `component@version`."""
    bytes_count: int


class Medium(Source, Protocol):
    """Metadata and the files it leads to."""

    def blob(self, digest: str) -> IO[bytes] | None:
        """Open the file of this digest; None if it is not there."""
        ...


def import_from(path: Path, state_dir: Path, pinned: bytes, *, disk_reserve_bytes: int) -> Imported:
    """Believe what `path` can prove, and keep the files of the releases that are on its list.

    What an earlier import brought and nobody has fetched is dropped.

    Raises:
        CannotImport: It is neither folder nor archive, or there is no room.
        Refused: Its metadata does not verify; files are then not looked at.
        OSError: The disk of this device fails.
    """
    shelf = Shelf(state_dir, pinned)
    with _medium(path) as medium, shelf.alone():
        chain = load_chain(shelf, pinned)
        try:
            refresh(chain, shelf, medium)
        except Unreachable as error:
            raise CannotImport(f"{path} cannot be read: {error}") from None
        keeping = _Keeping(state_dir / IMPORTED, disk_reserve_bytes)
        keeping.clear()
        found = list(_releases(chain, medium, keeping))
        return Imported(
            chain.root.version,
            chain.targets.version if chain.targets is not None else 0,
            tuple(found),
            keeping.bytes_count,
        )


def become_owner(state_dir: Path) -> None:
    """Go on as the user whom the state folder belongs to, if this is root.

    What root writes there the agent could not use; and whoever can write there could lead root
    elsewhere by a link.

    Raises:
        OSError: This may not be done.
    """
    if os.geteuid() != 0 or not state_dir.exists():
        return
    owner = state_dir.stat()
    if owner.st_uid == 0:
        return
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


def _releases(chain: Chain, medium: Medium, keeping: "_Keeping") -> Iterator[str]:
    if chain.targets is None:
        return
    for path in sorted(chain.targets.targets):
        target = target_in(chain.targets, path)
        manifest = _manifest(medium, keeping, target) if target is not None else None
        if manifest is None:
            continue
        parts = [(each.sha256, each.length_bytes) for each in manifest.artifacts]
        if sum(keeping.keep(medium, digest, length) for digest, length in parts) == len(parts):
            yield f"{manifest.component}@{manifest.version}"


def _manifest(medium: Medium, keeping: "_Keeping", target: Target) -> Manifest | None:
    digest = target.digest.hex()
    if not keeping.keep(medium, digest, target.length_bytes):
        return None
    try:
        return parse_manifest(keeping.path(digest).read_bytes(), digest=target.digest)
    except BadManifest:
        return None  # of a newer program


class _Keeping:
    """The folder of what was imported."""

    def __init__(self, folder: Path, disk_reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = disk_reserve_bytes
        self.bytes_count = 0

    def path(self, digest: str) -> Path:
        return self._folder / digest

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    def keep(self, medium: Medium, digest: str, length_bytes: int) -> bool:
        """Copy a file if it is there and is what its name says; tell whether it is here now."""
        if self.path(digest).exists():
            return True
        source = medium.blob(digest)
        if source is None:
            return False
        with source:
            free_bytes = shutil.disk_usage(self._folder).free
            if free_bytes < length_bytes + self._reserve_bytes:
                raise CannotImport(
                    f"{free_bytes // 1024} KiB are free and a file of {length_bytes // 1024} KiB "
                    "is to be imported: make room; what was believed is kept"
                )
            return self._copy(source, digest, length_bytes)

    def _copy(self, source: IO[bytes], digest: str, length_bytes: int) -> bool:
        part = self._folder / f"{digest}.part"
        hashed = hashlib.sha256()
        left_bytes = length_bytes
        try:
            with part.open("wb") as file:
                while left_bytes > 0 and (chunk := _read(source, min(READ_BYTES, left_bytes))):
                    left_bytes -= len(chunk)
                    hashed.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if left_bytes or hashed.hexdigest() != digest:
                return False
            part.replace(self.path(digest))
        finally:
            part.unlink(missing_ok=True)
        self.bytes_count += length_bytes
        return True


def _read(source: IO[bytes], count: int) -> bytes:
    try:
        return source.read(count)
    except (OSError, ValueError, tarfile.TarError):
        return b""  # a medium that fails; the file is then too short


@contextlib.contextmanager
def _medium(path: Path) -> Iterator[Medium]:
    if path.is_dir():
        yield FolderMedium(path)
        return
    descriptor = open_plain(path)
    if descriptor is None:
        raise CannotImport(f"{path} is neither a folder nor a file that can be read")
    with os.fdopen(descriptor, "rb") as file:
        yield TarMedium(file, str(path))


class FolderMedium(FolderSource):
    """A folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._blobs = folder / "blobs"

    def blob(self, digest: str) -> IO[bytes] | None:
        """As `Medium.blob`. Only plain files count."""
        descriptor = open_plain(self._blobs / digest)
        return None if descriptor is None else os.fdopen(descriptor, "rb")


class TarMedium:
    """An archive, of which only plain members with names of ours are ever looked at."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Read the list of its members.

        Raises:
            CannotImport: It is no archive, or is damaged.
        """
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            self._archive = tarfile.open(  # type: ignore[call-overload]  # noqa: SIM115 - it owns nothing but our file
                fileobj=_Bounded(file), mode="r:", tarinfo=_Entry
            )
            for _ in range(MEMBERS_MAX):
                member = self._archive.next()
                if member is None:
                    return
                self._archive.members.clear()  # ours are kept below
                ours = _NAME.fullmatch(member.name)
                if ours is not None and member.type in _PLAIN and member.size >= 0:
                    self._members.setdefault(ours[1], member)
        except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
            raise CannotImport(f"{name} is no archive that can be read: {error}") from None
        raise CannotImport(f"{name} has more than {MEMBERS_MAX} entries")

    def get(self, name: str, bytes_max: int) -> bytes | None:
        """As `Source.get`."""
        file = self._open(f"metadata/{name}")
        if file is None:
            return None
        content = bytearray()
        with file:
            while chunk := _read(file, READ_BYTES):
                content += chunk
                if len(content) > bytes_max:
                    raise Refused(Reason.ENDLESS, f"{name} goes on after {bytes_max} bytes")
        return bytes(content)

    def blob(self, digest: str) -> IO[bytes] | None:
        """As `Medium.blob`."""
        return self._open(f"blobs/{digest}")

    def _open(self, name: str) -> IO[bytes] | None:
        member = self._members.get(name)
        return None if member is None else self._archive.extractfile(member)


class _Entry(tarfile.TarInfo):
    """An entry of an archive, of which 512 bytes are read and nothing more.

    tarfile reads what precedes an entry for its long name, its extended fields or its holes into
    memory, each within the next. Names of ours need none of that, so such entries are passed over.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # The place that tarfile means for this: "can be overridden in a subclass".
        if self.size < 0:
            raise tarfile.ReadError("an entry is shorter than nothing")
        self.offset_data = archive.fileobj.tell()
        blocks_count = -(-self.size // tarfile.BLOCKSIZE)
        archive.offset = self.offset_data + blocks_count * tarfile.BLOCKSIZE
        return self


class _Bounded:
    """A file that does not let an archive's header ask for any amount of memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.name = ""

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= HEADER_BYTES_MAX:
            raise tarfile.ReadError("a header is longer than any that is read")
        return self._file.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
