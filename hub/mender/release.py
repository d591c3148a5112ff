"""From a Mender artifact to a release of ours, for the installer `mender-module`.

Owns what each of its headers means here: device types become `compatible`, the artifact's name
the version, what it depends on `requires`. What cannot be said here is refused, never dropped.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from firmware_hooks.mender.payload import (
    ARTIFACT_GROUP,
    ARTIFACT_NAME,
    FILES,
    PAYLOAD_TYPE,
    SCRIPTS,
    artifact_name,
)
from hub.mender.artifact import BadArtifact, MenderArtifact, Values, read_artifact
from hub.release_build import BadRelease
from sync.manifest import VERSION_PATTERN, BadManifest, Manifest, manifest_from

INSTALLER: Final = "mender-module"

ARTIFACTS_MAX: Final = 100
"""Most artifacts of a release."""

OURS: Final = ("artifacts", "compatible", "installer", "parameters")
"""Fields of a manifest that the Mender artifact says."""


@dataclass(frozen=True, slots=True)
class MenderRelease:
    """A release that is ready to be published."""

    manifest: Manifest
    artifacts: Mapping[str, Path]
    """Where each artifact lies, by its name."""
    is_signed: bool
    """Whether the Mender artifact carried a signature."""


@contextmanager
def mender_release(
    file: Path,
    fields: Mapping[str, Any],
    *,
    key: bytes | None = None,
    stands_for: Mapping[str, str] | None = None,
    work_dir: Path | None = None,
) -> Iterator[MenderRelease]:
    """Make a release of a Mender artifact; its files are there until the `with` block ends.

    Args:
        file: The Mender artifact.
        fields: What a manifest needs and it does not say: `component` and `health`, and what else
            is wanted; a `version` takes the place of its name.
        key: Public key (PEM) whose owner must have signed it.
        stands_for: Component for each key that it may depend on, such as `rootfs-image.version`.
        work_dir: Where its files are unpacked; None for the system's place.

    Raises:
        BadRelease: It is no Mender artifact, was not signed with the key, or cannot be said here.
    """
    said = sorted(set(OURS) & fields.keys())
    if said:
        raise BadRelease(f"{said[0]}: leave it out, the Mender artifact says it")
    with tempfile.TemporaryDirectory(prefix="fieldfare-mender-", dir=work_dir) as folder:
        try:
            found = read_artifact(file, Path(folder), key=key)
            places = _places(found, Path(folder))
            described = [_described(name, path) for name, path in places.items()]
        except BadArtifact as error:
            raise BadRelease(str(error)) from None
        except OSError as error:
            raise BadRelease(f"{file} cannot be unpacked: {error.strerror or error}") from None
        if len(described) > ARTIFACTS_MAX:
            raise BadRelease(
                f"{file.name} has {len(described)} files, headers and scripts; a release has at "
                f"most {ARTIFACTS_MAX}"
            )
        try:
            manifest = manifest_from(
                {
                    **fields,
                    "version": fields.get("version") or version_of(_name(found)),
                    "compatible": found.info.artifact_depends.device_type,
                    "installer": INSTALLER,
                    "parameters": _parameters(found),
                    "requires": _requires(found, fields, stands_for or {}),
                    "artifacts": described,
                }
            )
        except BadManifest as error:
            raise BadRelease(f"{file.name}: {error}") from None
        yield MenderRelease(manifest, places, found.is_signed)


def version_of(name: str) -> str:
    """Return the version for an artifact's name; what a version cannot hold becomes `_`.

    Raises:
        BadRelease: It is too long, or nothing is left of it.
    """
    version = re.sub(r"[^A-Za-z0-9.+~_-]", "_", name).lstrip(".+~_-")
    if not re.fullmatch(VERSION_PATTERN, version):
        raise BadRelease(f"{name[:80]!r} cannot be a version: give one with --version")
    return version


def _name(found: MenderArtifact) -> str:
    return found.info.artifact_provides.artifact_name


def _places(found: MenderArtifact, folder: Path) -> dict[str, Path]:
    """Return where the release's artifacts lie; headers and scripts are written there first."""
    places: dict[str, Path] = {}
    texts = dict(found.headers)
    texts |= {artifact_name(SCRIPTS, at): text for at, text in enumerate(found.scripts.values())}
    for name, text in texts.items():
        places[name] = folder / f"text-{name}"
        places[name].write_bytes(text)
    places |= {artifact_name(FILES, at): path for at, path in enumerate(found.files.values())}
    return places


def _described(name: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"name": name, "sha256": digest, "length_bytes": path.stat().st_size}


def _parameters(found: MenderArtifact) -> dict[str, str]:
    parameters = {
        PAYLOAD_TYPE: found.kind,
        ARTIFACT_NAME: _name(found),
        FILES: json.dumps([*found.files], ensure_ascii=False),
        SCRIPTS: json.dumps([*found.scripts], ensure_ascii=False),
    }
    if found.info.artifact_provides.artifact_group:
        parameters[ARTIFACT_GROUP] = found.info.artifact_provides.artifact_group
    return parameters


def _requires(
    found: MenderArtifact, fields: Mapping[str, Any], stands_for: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return which components must run in which versions.

    Raises:
        BadRelease: It depends on something that no component stands for.
    """
    info = found.info.artifact_depends
    needs: dict[str, Values] = {
        **(found.type_info.artifact_depends or {}),
        "artifact_name": info.artifact_name or [],
        "artifact_group": info.artifact_group or [],
    }
    known = {"artifact_name": str(fields.get("component", "")), **stands_for}
    requires: dict[str, list[str]] = {
        component: list(versions) for component, versions in fields.get("requires", {}).items()
    }
    for key, values in needs.items():
        if not values:
            continue
        component = known.get(key)
        if component is None:
            raise BadRelease(
                f"it depends on {key[:60]!r} being {values!r:.80}: say which component that is "
                f"with --depends {key[:60]}=COMPONENT"
            )
        versions = [values] if isinstance(values, str) else values
        if component in requires:
            raise BadRelease(f"two things that it depends on stand for the component {component}")
        requires[component] = [version_of(each) for each in versions]
    return requires
