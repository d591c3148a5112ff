"""Releases: a manifest becomes one once every artifact it names is here.

Owns that check, and how a person names a release. Never installs or assigns one.
"""

from typing import Final

from hub.artifact_store import ArtifactStore
from hub.artifacts import is_digest
from hub.errors import Clash, NotFound, WrongContent
from hub.store import releases
from hub.store.database import Connection
from hub.store.releases import Release
from sync.manifest import BadManifest, Manifest, manifest_from

MISSING_NAMED_MAX: Final = 10


def check_release(fields: object, artifacts: ArtifactStore) -> Manifest:
    """Return the manifest with these fields, if it can be released.

    Raises:
        WrongContent: It is no manifest, or an artifact has another length than it says.
        Clash: An artifact is not here yet; names those that are missing.
    """
    try:
        manifest = manifest_from(fields)
    except BadManifest as error:
        raise WrongContent(str(error)) from None
    lengths = {each: artifacts.length_bytes(each.sha256) for each in manifest.artifacts}
    missing = [each for each, length in lengths.items() if length is None]
    if missing:
        named = ", ".join(f"{each.name} ({each.sha256})" for each in missing[:MISSING_NAMED_MAX])
        left_count = len(missing) - MISSING_NAMED_MAX
        more = f" and {left_count} more" if left_count > 0 else ""
        raise Clash(
            f"artifacts are missing: {named}{more}; upload each with PUT /api/v1/blobs/<sha256>"
        )
    for each, length in lengths.items():
        if length != each.length_bytes:
            raise WrongContent(
                f"{each.name} has {length} bytes, and the manifest says {each.length_bytes}"
            )
    return manifest


def publish(connection: Connection, manifest: Manifest, now_ms: int) -> tuple[Release, bool]:
    """Add a release; return it, and whether it is new.

    Raises:
        Clash: The component has another release of this version already.
    """
    digest = manifest.digest()
    known = releases.by_version(connection, manifest.component, manifest.version)
    if known is not None:
        if known.digest != digest:
            raise Clash(
                f"{manifest.component} {manifest.version} was released before with other content "
                f"(manifest {known.digest.hex()}): what was released never changes, "
                "so give this one another version"
            )
        return known, False
    release = Release(digest, manifest.component, manifest.version, manifest.canonical(), now_ms)
    releases.save(connection, release)
    return release, True


def find(connection: Connection, name: str) -> Release:
    """Return the release that a person calls `component@version`, or names by its digest.

    Raises:
        NotFound: There is none.
    """
    component, at, version = name.partition("@")
    found = None
    if at:
        found = releases.by_version(connection, component, version)
    elif is_digest(name):
        found = releases.by_digest(connection, bytes.fromhex(name))
    if found is None:
        raise NotFound(
            f"there is no release {name[:150]!r}: name it component@version or by its manifest's "
            "SHA-256; GET /api/v1/releases lists what there is"
        )
    return found
