"""From a folder to a release: its description is checked, its files become one artifact.

Owns `release.toml`, which is a manifest without its artifacts, and the one form of archive that a
tree has. Never speaks to a hub, and never runs anything of the tree.

Rule: the same tree gives the same digest, whoever builds it, wherever and whenever. So the archive
holds names, bytes, links and whether a file can be run, in one order, and nothing else. Compression
is part of the bytes: two machines agree as long as their zlib does.
"""

import gzip
import hashlib
import os
import posixpath
import stat
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from firmware_hooks.tree import PARAMETER_DIGEST, PARAMETER_LENGTH, BadTree, list_files
from sync.manifest import ARTIFACT_BYTES_MAX, Artifact, BadManifest, Manifest, manifest_from

DESCRIPTION: Final = "release.toml"
"""Name of the description inside a tree; it is not packed."""

DESCRIPTION_BYTES_MAX: Final = 256 * 1024

ARTIFACT_NAME: Final = "tree.tar.gz"

ENTRIES_MAX_COUNT: Final = 50_000
"""Most files, folders and links of a tree."""

NAME_BYTES_MAX: Final = 1000
"""Longest name with its folders; devices refuse longer ones."""

TREE_BYTES_MAX: Final = 8 * 1024**3
"""Most bytes of all files of a tree, before compression."""

LEFT_OUT: Final = frozenset({".git", "__pycache__"})
"""Folders that tools leave behind; no release wants them."""

COMPRESS_LEVEL: Final = 9

READ_BYTES: Final = 256 * 1024

_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
_PROGRAM_MODE: Final = 0o755

_PLACEHOLDER: Final = {"name": ARTIFACT_NAME, "sha256": "0" * 64, "length_bytes": 0}


class BadRelease(Exception):
    """The description or the tree cannot become a release; whoever wrote it is to blame.

    The message is one line. Nothing was written that stays.
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """What one name of a tree stands for."""

    path: Path
    kind: str
    """`file`, `folder` or `link`."""


@dataclass(frozen=True, slots=True)
class Build:
    """A release that is ready to be published."""

    manifest: Manifest
    artifact: Path
    """Where the archive lies."""
    entries_count: int
    tree_bytes: int
    """Bytes of all files before compression."""

    @property
    def name(self) -> str:
        """Return `component@version`."""
        return f"{self.manifest.component}@{self.manifest.version}"

    @property
    def digest(self) -> str:
        """Return the release's identity in hexadecimal digits."""
        return self.manifest.digest().hex()


def read_description(
    file: Path, *, version: str | None = None, unmeasured: str | None = None
) -> dict[str, Any]:
    """Return the fields of a manifest, without artifacts, that `file` gives; all are checked.

    Args:
        file: A `release.toml`.
        version: Takes the place of the one in the file.
        unmeasured: The same: why it has no owner or outcome.

    Raises:
        BadRelease: It cannot be read, is no TOML, or a key is missing, unknown or out of bounds;
            says which.
    """
    fields = read_fields(file)
    if version is not None:
        fields["version"] = version
    if unmeasured is not None:
        fields["unmeasured"] = unmeasured
    if "artifacts" in fields:
        raise BadRelease(f"{file}: artifacts: leave it out, it is worked out from the tree")
    if "files" in fields:
        raise BadRelease(f"{file}: files: a release of files is made by `release assemble`")
    try:
        manifest_from({**fields, "artifacts": [_PLACEHOLDER]})
    except BadManifest as error:
        raise BadRelease(f"{file}: {error}") from None
    return fields


def read_fields(file: Path) -> dict[str, Any]:
    """Return what a description says, unchecked.

    Raises:
        BadRelease: It cannot be read, or is no TOML; says why.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise BadRelease(
            f"{file} cannot be read ({error.strerror}): a release needs a description; "
            f"name it with --manifest, or put {DESCRIPTION} into the tree"
        ) from None
    if len(text) > DESCRIPTION_BYTES_MAX:
        raise BadRelease(f"{file} has {len(text)} bytes, at most {DESCRIPTION_BYTES_MAX}")
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise BadRelease(f"{file} is not UTF-8, so it is no TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise BadRelease(f"{file} is not TOML: {error}") from None


def scan(trees: Sequence[Path], *, left_out: Path | None = None) -> dict[str, Entry]:
    """Return what `trees` hold, by name; of two with the same name the later tree's counts.

    Args:
        trees: Folders.
        left_out: A file that is no part of the release: its description.

    Raises:
        BadRelease: A tree is no folder, or holds what cannot travel: a device, socket or pipe, a
            link that leads out of it or nowhere, an unreadable folder, a name that is not text.
    """
    entries: dict[str, Entry] = {}
    for tree in trees:
        if not tree.is_dir():
            fault = "is no folder" if tree.exists() else "does not exist"
            raise BadRelease(f"the tree {tree} {fault}")
        for name, entry in _walk(tree, tree, left_out):
            before = entries.get(name)
            if before is not None and "folder" in {before.kind, entry.kind}:
                if before.kind == entry.kind:
                    continue
                raise BadRelease(
                    f"{name} is a {before.kind} in {before.path} and a {entry.kind} in {entry.path}"
                )
            entries[name] = entry
            if len(entries) > ENTRIES_MAX_COUNT:
                raise BadRelease(f"the tree has more than {ENTRIES_MAX_COUNT} entries")
    if not entries:
        raise BadRelease(f"the tree {', '.join(map(str, trees))} is empty")
    _check_case(entries)
    for name, entry in entries.items():
        if entry.kind == "link":
            _check_link(name, str(entry.path.readlink()), entries)
    return dict(sorted(entries.items(), key=lambda item: item[0].encode()))


def pack(
    entries: Mapping[str, Entry], output: IO[bytes], on_bytes: Callable[[int], None] | None = None
) -> int:
    """Write the archive of `entries` to `output` and return how many bytes of files went in.

    Raises:
        BadRelease: A file cannot be read, changes meanwhile, or all of them are too large.
            `output` then holds a part of an archive.
    """
    tree_bytes = 0
    with (
        gzip.GzipFile(
            filename="", mode="wb", compresslevel=COMPRESS_LEVEL, fileobj=output, mtime=0
        ) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, entry in entries.items():
            member = tarfile.TarInfo(name)
            if entry.kind == "folder":
                member.type, member.mode = tarfile.DIRTYPE, _DIRECTORY_MODE
                archive.addfile(member)
            elif entry.kind == "link":
                member.type, member.mode = tarfile.SYMTYPE, 0o777
                member.linkname = str(entry.path.readlink())
                archive.addfile(member)
            else:
                _add_file(archive, member, entry.path)
                tree_bytes += member.size
                if tree_bytes > TREE_BYTES_MAX:
                    raise BadRelease(f"the tree has more than {TREE_BYTES_MAX} bytes")
                if on_bytes is not None:
                    on_bytes(member.size)
    return tree_bytes


@contextmanager
def build_release(
    trees: Sequence[Path],
    description: Path,
    *,
    version: str | None = None,
    unmeasured: str | None = None,
    work_dir: Path | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Build]:
    """Build a release; its archive lies in a temporary file until the `with` block ends.

    Args:
        trees: Folders, laid over each other; a later one's files count.
        description: The `release.toml`.
        version: Takes the place of the one in the description.
        unmeasured: The same: why it has no owner or outcome.
        work_dir: Where the temporary file goes; None for the system's place.
        on_bytes: Told how many bytes each packed file has.

    Raises:
        BadRelease: The description or a tree is wrong, or there is no room for the archive.
    """
    fields = read_description(description, version=version, unmeasured=unmeasured)
    entries = scan(trees, left_out=description)
    with tempfile.TemporaryDirectory(prefix="fieldfare-release-", dir=work_dir) as folder:
        artifact = Path(folder) / ARTIFACT_NAME
        try:
            with artifact.open("w+b") as output:
                tree_bytes = pack(entries, output, on_bytes)
        except OSError as error:
            raise BadRelease(f"{artifact} cannot be written: {error.strerror}") from None
        length_bytes = artifact.stat().st_size
        if length_bytes > ARTIFACT_BYTES_MAX:
            raise BadRelease(f"the archive has {length_bytes} bytes, at most {ARTIFACT_BYTES_MAX}")
        described = Artifact(
            name=ARTIFACT_NAME, sha256=_digest_of(artifact), length_bytes=length_bytes
        )
        parameters = {**fields.get("parameters", {}), **_tree_parameters(entries)}
        manifest = manifest_from(
            {**fields, "parameters": parameters, "artifacts": [described.model_dump()]}
        )
        yield Build(manifest, artifact, len(entries), tree_bytes)


def _tree_parameters(entries: Mapping[str, Entry]) -> dict[str, str | int]:
    """Return what the manifest says about the list of the tree, by which packs are checked."""
    try:
        text = list_files((name, entry.path) for name, entry in entries.items())
    except BadTree:
        return {}  # too long a list: such a release always travels whole
    return {PARAMETER_DIGEST: hashlib.sha256(text).hexdigest(), PARAMETER_LENGTH: len(text)}


def _walk(tree: Path, folder: Path, left_out: Path | None) -> Iterator[tuple[str, Entry]]:
    try:
        found = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError as error:
        raise BadRelease(f"the folder {folder} cannot be read: {error.strerror}") from None
    for each in found:
        path = Path(each.path)
        name = path.relative_to(tree).as_posix()
        if each.name in LEFT_OUT or (left_out is not None and _is_same(path, left_out)):
            continue
        if len(os.fsencode(name)) > NAME_BYTES_MAX:
            raise BadRelease(f"the name {name[:60]}... in {tree} is longer than {NAME_BYTES_MAX}")
        if not name.isprintable():
            raise BadRelease(f"the name {name!r} in {tree} is not printable text (UTF-8)")
        mode = each.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            yield name, Entry(path, "link")
        elif stat.S_ISDIR(mode):
            yield name, Entry(path, "folder")
            yield from _walk(tree, path, left_out)
        elif stat.S_ISREG(mode):
            yield name, Entry(path, "file")
        else:
            raise BadRelease(f"{path} is neither file, folder nor link, so it cannot travel")


def _is_same(path: Path, other: Path) -> bool:
    return path.name == other.name and path.absolute() == other.absolute()


def _check_case(entries: Iterable[str]) -> None:
    """Refuse what devices refuse: some of their file systems cannot hold both names."""
    seen: dict[str, str] = {}
    for name in entries:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise BadRelease(f"{other} and {name} differ in case only: rename one")


def _check_link(name: str, leads_to: str, entries: Mapping[str, Entry]) -> None:
    where = f"the link {name} -> {leads_to}"
    if not leads_to.isprintable():
        raise BadRelease(f"the link {name} leads to a name that is not printable text")
    if posixpath.isabs(leads_to):
        raise BadRelease(f"{where} leaves the tree: make it relative")
    reached = posixpath.normpath(posixpath.join(posixpath.dirname(name), leads_to))
    if reached == ".." or reached.startswith("../"):
        raise BadRelease(f"{where} leaves the tree")
    if reached != "." and reached not in entries:
        raise BadRelease(f"{where} leads to nothing in the tree")


def _add_file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    try:
        # Not followed: a link that took the file's place since it was looked at is refused.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise BadRelease(f"{path} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as content:
        before = os.fstat(descriptor)
        member.size = before.st_size
        member.mode = _PROGRAM_MODE if before.st_mode & stat.S_IXUSR else _FILE_MODE
        try:
            archive.addfile(member, content)
        except OSError as error:
            if error.errno is not None:
                raise  # the archive's disk is to blame, not the file
            raise BadRelease(f"{path} became shorter while it was packed") from None
        after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BadRelease(f"{path} changed while it was packed; build from a tree at rest")


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
