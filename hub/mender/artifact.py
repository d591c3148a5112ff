"""A Mender artifact of version 3: read once, from front to back, each part checked as it comes.

Owns the order of its parts, their sums, and what its headers may say. Nothing of it is believed
before its sum was found in `manifest`; whether that was signed is told, or checked by a key.

Refused: other versions, more than one payload, payloads without a type, augmented parts (which a
second, unsigned manifest describes), parts that `manifest` does not name and names without a part.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from firmware_hooks.mender.payload import (
    BadPayload,
    check_file_name,
    check_kind,
    check_script_name,
    check_text,
)
from hub.mender.packing import Unpacked, compression_of
from hub.mender.signature import BadSignature, verify_signature
from hub.mender.tar import CHUNK_BYTES, BadTar, Member, Readable, Tar

FORMAT: Final = "mender"
VERSION: Final = 3

VERSION_BYTES_MAX: Final = 1024
MANIFEST_BYTES_MAX: Final = 256 * 1024
SIGNATURE_BYTES_MAX: Final = 16 * 1024
HEADER_BYTES_MAX: Final = 1024 * 1024
"""Longest header-info, type-info and meta-data."""
SCRIPT_BYTES_MAX: Final = 4 * 1024 * 1024
HEADERS_BYTES_MAX: Final = 32 * 1024 * 1024
"""Longest `header.tar`, unpacked: all headers and scripts."""
PAYLOAD_BYTES_MAX: Final = 8 * 1024**3
"""Longest payload, unpacked: the longest artifact that a release has."""
FILES_MAX: Final = 200
"""Most files, and most scripts; a release may take fewer."""

_LINE: Final = re.compile(rb"([0-9a-f]{64})  ([^\n]{1,1000})\n")

Values = str | list[str]
T = TypeVar("T")


class BadArtifact(ValueError):
    """The file is no Mender artifact that can be used; who made it is to blame. One line."""


class PayloadType(msgspec.Struct, frozen=True):
    """An entry of `payloads` in header-info."""

    type: str | None = None


class Names(msgspec.Struct, frozen=True):
    """What header-info says that an artifact provides."""

    artifact_name: str
    artifact_group: str = ""


class NamesDepends(msgspec.Struct, frozen=True):
    """What header-info says that an artifact needs."""

    device_type: list[str]
    artifact_name: list[str] | None = None
    artifact_group: list[str] | None = None


class HeaderInfo(msgspec.Struct, frozen=True):
    """The file header-info."""

    payloads: list[PayloadType]
    artifact_provides: Names
    artifact_depends: NamesDepends


class TypeInfo(msgspec.Struct, frozen=True):
    """The file type-info."""

    type: str | None = None
    artifact_provides: dict[str, Values] | None = None
    artifact_depends: dict[str, Values] | None = None
    clears_artifact_provides: list[str] | None = None


class _Version(msgspec.Struct, frozen=True):
    format: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MenderArtifact:
    """What an artifact holds. Its files lie where they were unpacked to."""

    info: HeaderInfo
    type_info: TypeInfo
    kind: str
    """Type of the payload."""
    headers: Mapping[str, bytes]
    """header-info, type-info and, if there is one, meta-data, as they came."""
    scripts: Mapping[str, bytes]
    files: Mapping[str, Path]
    """The payload by name, in its order."""
    is_signed: bool
    """It carries a signature; whose was only checked if a key was given."""


def read_artifact(
    file: Path, into: Path, *, key: bytes | None = None, bytes_max: int = PAYLOAD_BYTES_MAX
) -> MenderArtifact:
    """Read a Mender artifact, and unpack its payload into the folder `into`.

    Args:
        file: The artifact.
        into: An empty folder. On an error something may be left there.
        key: Public key in PEM whose owner must have signed it.
        bytes_max: Most bytes of the payload.

    Raises:
        BadArtifact: It is none, is refused, or was not signed with the key.
        OSError: It cannot be read, or the disk is full or fails.
    """
    try:
        with file.open("rb") as content:
            return _Reader(content, into, key, bytes_max).read()
    except BadTar as error:
        raise BadArtifact(f"{file.name}: {error}") from None
    except BadPayload as error:
        raise BadArtifact(f"{file.name}: {error}") from None
    except BadSignature as error:
        raise BadArtifact(f"{file.name}: {error}") from None


class _Reader:
    def __init__(self, stream: Readable, into: Path, key: bytes | None, bytes_max: int) -> None:
        self._tar = Tar(stream)
        self._into = into
        self._key = key
        self._bytes_max = bytes_max
        self._sums: dict[str, str] = {}
        """What is left of the manifest: parts that have not come yet."""

    def read(self) -> MenderArtifact:
        version = self._part("version").all(VERSION_BYTES_MAX)
        said = _decoded("version", version, _Version)
        if (said.format, said.version) != (FORMAT, VERSION):
            raise BadTar(f"it is {said.format[:20]!r} in version {said.version}, not mender in 3")
        manifest = self._part("manifest").all(MANIFEST_BYTES_MAX)
        self._sums = _sums(manifest)
        self._check("version", hashlib.sha256(version).hexdigest())
        part = self._part()
        is_signed = part.name == "manifest.sig"
        if is_signed:
            signature = part.all(SIGNATURE_BYTES_MAX)
            if self._key is not None:
                verify_signature(manifest, signature, self._key)
            part = self._part()
        elif self._key is not None:
            raise BadSignature("it is not signed at all")
        info, type_info, headers, scripts = self._read_headers(part)
        kind = _kind(info, type_info)
        files = self._read_payload(self._part())
        if self._tar.next() is not None:
            raise BadTar("something follows its only payload")
        if self._sums:
            raise BadTar(f"{min(self._sums)[:100]!r} is in its manifest and not in it")
        return MenderArtifact(
            info=info,
            type_info=type_info,
            kind=kind,
            headers=headers,
            scripts=scripts,
            files=files,
            is_signed=is_signed,
        )

    def _part(self, name: str = "") -> Member:
        part = self._tar.next()
        if part is None:
            raise BadTar(f"it ends where {name or 'its header or payload'} should follow")
        if part.name in ("manifest-augment", "header-augment.tar") or part.name.startswith(
            "header-augment.tar."
        ):
            raise BadTar("it is augmented: parts of it are not signed, so it is not taken")
        if name and part.name != name:
            raise BadTar(f"{part.name[:100]!r} stands where {name} should")
        return part

    def _check(self, name: str, sha256: str) -> None:
        wanted = self._sums.pop(name, None)
        if wanted is None:
            raise BadTar(f"{name[:100]!r} is not in its manifest")
        if wanted != sha256:
            raise BadTar(f"{name[:100]!r} is not what its manifest says")

    def _read_headers(
        self, part: Member
    ) -> tuple[HeaderInfo, TypeInfo, dict[str, bytes], dict[str, bytes]]:
        compression = compression_of(part.name, "header.tar")
        summed = _Summed(part)
        tar = Tar(Unpacked(summed, compression, HEADERS_BYTES_MAX))
        headers: dict[str, bytes] = {}
        scripts: dict[str, bytes] = {}
        while (member := tar.next()) is not None:
            name = member.name.removeprefix("headers/0000/")
            if member.name == "header-info" and not headers:
                headers["header-info"] = member.all(HEADER_BYTES_MAX)
            elif name != member.name and name in {"type-info", "meta-data"} - headers.keys():
                headers[name] = member.all(HEADER_BYTES_MAX)
            elif member.name.startswith("scripts/"):
                script = member.name.removeprefix("scripts/")
                check_script_name(script)
                if script in scripts or len(scripts) >= FILES_MAX:
                    raise BadTar(f"the script {script} comes twice, or is one too many")
                scripts[script] = member.all(SCRIPT_BYTES_MAX)
            else:
                raise BadTar(f"its header holds {member.name[:100]!r}, which has no place there")
        self._check(part.name, summed.sha256())
        for name in ("header-info", "type-info"):
            if name not in headers:
                raise BadTar(f"its header has no {name}")
        if not headers.get("meta-data", b"x").strip():
            del headers["meta-data"]
        return (
            _decoded("header-info", headers["header-info"], HeaderInfo),
            _decoded("type-info", headers["type-info"], TypeInfo),
            headers,
            scripts,
        )

    def _read_payload(self, part: Member) -> dict[str, Path]:
        compression = compression_of(part.name, "data/0000.tar")
        tar = Tar(Unpacked(part, compression, self._bytes_max))
        files: dict[str, Path] = {}
        while (member := tar.next()) is not None:
            check_file_name(member.name)
            if member.name in files or len(files) >= FILES_MAX:
                raise BadTar(f"the file {member.name!r} comes twice, or is one too many")
            # Under a name of ours: theirs may be one that this disk takes for another.
            path = self._into / f"file-{len(files):03d}"
            digest = hashlib.sha256()
            with path.open("xb") as output:
                while chunk := member.read(CHUNK_BYTES):
                    digest.update(chunk)
                    output.write(chunk)
            self._check(f"data/0000/{member.name}", digest.hexdigest())
            files[member.name] = path
        return files


class _Summed:
    """A stream whose bytes are summed as they are read."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def read(self, count: int, /) -> bytes:
        chunk = self._stream.read(count)
        self._digest.update(chunk)
        return chunk

    def sha256(self) -> str:
        """Return the sum of all of it; reads what is left."""
        while self.read(CHUNK_BYTES):
            pass
        return self._digest.hexdigest()


def _sums(manifest: bytes) -> dict[str, str]:
    """Return the sums by the names of what they belong to."""
    sums: dict[str, str] = {}
    at = 0
    while at < len(manifest):
        line = _LINE.match(manifest, at)
        if line is None:
            raise BadTar("its manifest has a line that is no sum and name")
        try:
            name = line[2].decode()
        except UnicodeDecodeError:
            raise BadTar("its manifest is not UTF-8") from None
        if name in sums:
            raise BadTar(f"its manifest names {name[:100]!r} twice")
        sums[name] = line[1].decode()
        at = line.end()
    return sums


def _kind(info: HeaderInfo, type_info: TypeInfo) -> str:
    """Return the type of the only payload, which both headers must agree on."""
    check_text(info.artifact_provides.artifact_name)
    check_text(info.artifact_provides.artifact_group)
    if not info.artifact_depends.device_type:
        raise BadTar("it names no device type, so no device can take it")
    if len(info.payloads) != 1:
        raise BadTar(f"it has {len(info.payloads)} payloads; exactly one can be taken")
    kind = info.payloads[0].type
    # Of a root file system, the tool that writes artifacts leaves the second one empty.
    if kind is None or (type_info.type or kind) != kind:
        raise BadTar(f"its payload is of type {kind!r} and of type {type_info.type!r}")
    check_kind(kind)
    return kind


def _decoded(name: str, text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadTar(f"its {name} cannot be understood: {error}"[:300]) from None
