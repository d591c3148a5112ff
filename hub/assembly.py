"""From files as they are to a release: images, packages, bundles, and releases of several parts.

Owns the key `files` of a description, which says what the artifacts are. Everything else of it is a
manifest without its artifacts, as for `hub.release_build`, whose archive a `tree` becomes. Never
speaks to a hub, and never runs anything.

Rule: the same description and files give the same digest, whoever assembles them, wherever.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hub.release_build import BadRelease, pack, read_fields, scan
from sync.manifest import ARTIFACT_BYTES_MAX, Artifact, BadManifest, Manifest, manifest_from

FILES_MAX_COUNT: Final = 100
KEYS: Final = frozenset({"path", "tree", "name", "part"})
TREE_SUFFIX: Final = ".tar.gz"


@dataclass(frozen=True, slots=True)
class Assembly:
    """A release that is ready to be published."""

    manifest: Manifest
    artifacts: Mapping[str, Path]
    """Where each artifact lies, by name."""

    @property
    def name(self) -> str:
        """Return `component@version`."""
        return f"{self.manifest.component}@{self.manifest.version}"


@contextmanager
def assemble(
    description: Path,
    *,
    version: str | None = None,
    unmeasured: str | None = None,
    work_dir: Path | None = None,
) -> Iterator[Assembly]:
    """Assemble a release; archives of trees lie in temporary files until the `with` block ends.

    Args:
        description: A TOML file. Paths in it are relative to its folder.
        version: Takes the place of the one in the description.
        unmeasured: The same: why it has no owner or outcome.
        work_dir: Where the temporary files go; None for the system's place.

    Raises:
        BadRelease: The description or a file is wrong, or there is no room for an archive.
    """
    fields = read_fields(description)
    if version is not None:
        fields["version"] = version
    if unmeasured is not None:
        fields["unmeasured"] = unmeasured
    if "artifacts" in fields:
        raise BadRelease(f"{description}: artifacts: leave it out, it is worked out from files")
    files = fields.pop("files", None)
    if not isinstance(files, list) or not 0 < len(files) <= FILES_MAX_COUNT:
        raise BadRelease(
            f"{description}: files: say what the artifacts are, in 1 to {FILES_MAX_COUNT} tables "
            '[[files]] with path = "image.zst" or tree = "folder"'
        )
    with tempfile.TemporaryDirectory(prefix="fieldfare-release-", dir=work_dir) as folder:
        found = [
            _artifact(each, number, description, Path(folder)) for number, each in enumerate(files)
        ]
        artifacts = [artifact.model_dump() for artifact, _ in found]
        try:
            manifest = manifest_from({**fields, "artifacts": artifacts})
        except BadManifest as error:
            raise BadRelease(f"{description}: {error}") from None
        yield Assembly(manifest, {artifact.name: path for artifact, path in found})


def _artifact(entry: Any, number: int, description: Path, folder: Path) -> tuple[Artifact, Path]:
    where = f"{description}: files.{number}"
    if not isinstance(entry, dict) or set(entry) - KEYS or len({"path", "tree"} & set(entry)) != 1:
        raise BadRelease(f"{where}: give path or tree, and name and part if you like")
    if not all(isinstance(value, str) and value for value in entry.values()):
        raise BadRelease(f"{where}: every value is a text that is not empty")
    source = description.parent / (entry.get("path") or entry["tree"])
    name = entry.get("name") or source.name + (TREE_SUFFIX if "tree" in entry else "")
    path = source
    try:
        if "tree" in entry:
            path = folder / f"{number}{TREE_SUFFIX}"
            with path.open("w+b") as output:
                pack(scan([source]), output)
        elif not source.is_file():
            fault = "is no file" if source.exists() else "does not exist"
            raise BadRelease(f"{where}: {source} {fault}")
        length_bytes = path.stat().st_size
        if length_bytes > ARTIFACT_BYTES_MAX:
            raise BadRelease(f"{where}: {length_bytes} bytes, at most {ARTIFACT_BYTES_MAX}")
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BadRelease(f"{where}: {error.filename}: {error.strerror}") from None
    try:
        artifact = Artifact.model_validate(
            {
                "name": name,
                "sha256": sha256,
                "length_bytes": length_bytes,
                "part": entry.get("part", ""),
            }
        )
    except ValueError:
        raise BadRelease(
            f"{where}: {name!r} is no name of an artifact (letters, digits and . _ -), or "
            f"{entry.get('part')!r} none of a part (small letters, digits and -)"
        ) from None
    return artifact, path
