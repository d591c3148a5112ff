"""Writing a Mender artifact of version 3: the same bytes for the same content.

Owns the order of its parts. What Mender itself would refuse is refused when it is read.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from hub.mender.artifact import FORMAT, VERSION
from hub.mender.packing import Compression, packer
from hub.mender.signature import sign_manifest

MODE: Final = 0o600
SCRIPT_MODE: Final = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is to be written."""

    artifact_name: str
    device_types: tuple[str, ...]
    kind: str
    """Type of the payload: the update module's name."""
    files: Mapping[str, Path]
    """The payload, in its order."""
    artifact_group: str = ""
    depends_names: tuple[str, ...] = ()
    """Artifacts of which one must be installed."""
    depends_groups: tuple[str, ...] = ()
    provides: Mapping[str, str] = field(default_factory=dict)
    depends: Mapping[str, str | list[str]] = field(default_factory=dict)
    clears_provides: tuple[str, ...] = ()
    meta_data: bytes = b""
    scripts: Mapping[str, bytes] = field(default_factory=dict)


def write_artifact(
    output: Path,
    draft: Draft,
    *,
    compression: Compression = Compression.GZIP,
    key: bytes | None = None,
) -> None:
    """Write an artifact, signed if there is a private `key` (PEM, no passphrase).

    Raises:
        BadSignature: The key cannot be used.
        OSError: A file cannot be read, or `output` not be written.
    """
    version = json.dumps({"format": FORMAT, "version": VERSION}).encode()
    with tempfile.TemporaryFile() as payload, output.open("wb") as file:
        _write_tar(payload, compression, draft.files)
        header_file = io.BytesIO()
        _write_tar(header_file, compression, _headers(draft))
        header = header_file.getvalue()
        header_name = f"header.tar{compression}"
        sums = {f"data/0000/{name}": _sum_of(path) for name, path in draft.files.items()}
        sums[header_name] = hashlib.sha256(header).hexdigest()
        sums["version"] = hashlib.sha256(version).hexdigest()
        manifest = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "version", version)
            _add(tar, "manifest", manifest)
            if key is not None:
                _add(tar, "manifest.sig", sign_manifest(manifest, key))
            _add(tar, header_name, header)
            member = _member(f"data/0000.tar{compression}", payload.tell())
            payload.seek(0)
            tar.addfile(member, payload)


def _headers(draft: Draft) -> dict[str, bytes]:
    needs: dict[str, list[str]] = {"device_type": list(draft.device_types)}
    if draft.depends_names:
        needs["artifact_name"] = list(draft.depends_names)
    if draft.depends_groups:
        needs["artifact_group"] = list(draft.depends_groups)
    gives = {"artifact_name": draft.artifact_name}
    if draft.artifact_group:
        gives["artifact_group"] = draft.artifact_group
    info = {
        "payloads": [{"type": draft.kind}],
        "artifact_provides": gives,
        "artifact_depends": needs,
    }
    type_info: dict[str, object] = {"type": draft.kind}
    if draft.provides:
        type_info["artifact_provides"] = dict(draft.provides)
    if draft.depends:
        type_info["artifact_depends"] = dict(draft.depends)
    if draft.clears_provides:
        type_info["clears_artifact_provides"] = list(draft.clears_provides)
    return {
        "header-info": json.dumps(info).encode(),
        **{f"scripts/{name}": draft.scripts[name] for name in sorted(draft.scripts)},
        "headers/0000/type-info": json.dumps(type_info).encode(),
        "headers/0000/meta-data": draft.meta_data,
    }


def _write_tar(
    output: IO[bytes], compression: Compression, content: Mapping[str, bytes] | Mapping[str, Path]
) -> None:
    packed = packer(output, compression)
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, each in content.items():
            if isinstance(each, Path):
                with each.open("rb") as file:
                    tar.addfile(_member(name, each.stat().st_size), file)
            else:
                _add(tar, name, each)
    if packed is not output:
        packed.close()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    tar.addfile(_member(name, len(content)), io.BytesIO(content))


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = SCRIPT_MODE if name.startswith("scripts/") else MODE
    return member


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
