"""Tar files for tests: honest trees, and everything that an honest tool would not write."""

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Iterable, Mapping

from sync.manifest import Artifact, Health, Manifest

Entry = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"", mode: int = 0o644) -> Entry:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = mode
    member.mtime = 1_700_000_000
    return member, content


def folder(name: str) -> Entry:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    member.mode = 0o755
    return member, b""


def link(name: str, target: str) -> Entry:
    member = tarfile.TarInfo(name)
    member.type = tarfile.SYMTYPE
    member.linkname = target
    return member, b""


def special(name: str, kind: bytes, target: str = "") -> Entry:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


def tar(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in entries:
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def packed(plain: bytes, how: str) -> bytes:
    if how == "gz":
        return gzip.compress(plain, mtime=0)
    return lzma.compress(plain) if how == "xz" else plain


def release(
    files: Mapping[str, bytes], *, version: str = "1.0.0", extra: Iterable[Entry] = ()
) -> tuple[Manifest, bytes]:
    """Return a manifest and its tree."""
    tree = tar(*(file(name, content) for name, content in files.items()), *extra)
    return manifest_for(tree, version=version), tree


def manifest_for(tree: bytes, *, version: str = "1.0.0") -> Manifest:
    digest = hashlib.sha256(tree).hexdigest()
    return Manifest(
        component="lamp",
        version=version,
        artifacts=(Artifact(name="tree.tar", sha256=digest, length_bytes=len(tree)),),
        health=Health(command=("true",)),
    )
