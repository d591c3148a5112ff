"""Whether what runs on the device lets a release in: versions that it requires or forbids.

Owns pure decisions. A version is compared as it is written; only `*` stands for anything.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from firmware_hooks.contract import InstallerError
from sync.manifest import Manifest
from sync.stages import Reason
from sync.versions import is_older


def check_versions(manifest: Manifest, running: Mapping[str, str]) -> None:
    """Check a manifest against the versions that run, by component.

    Raises:
        InstallerError: A required version does not run, or a forbidden one does.
    """
    for component, versions in manifest.requires.items():
        runs = running.get(component)
        if runs is None or not _matches(runs, versions):
            raise InstallerError(
                Reason.REQUIREMENT_UNMET,
                f"needs {component} {' or '.join(versions)}"[:120]
                + f"; {runs or 'nothing of it'} runs here",
            )
    for component, versions in manifest.forbids.items():
        runs = running.get(component)
        if runs is not None and _matches(runs, versions):
            raise InstallerError(
                Reason.FORBIDDEN_VERSION, f"must not meet {component} {runs}, which runs here"
            )


def check_floor(manifest: Manifest, *floors: str) -> None:
    """Check that a release is not older than what may be gone back to.

    Args:
        manifest: Of the release.
        floors: Oldest versions, empty for none: of the device, and of the release that runs.

    Raises:
        InstallerError: It is.
    """
    for floor in floors:
        if floor and is_older(manifest.version, floor):
            raise InstallerError(
                Reason.DOWNGRADE,
                f"{manifest.component} {manifest.version} is older than {floor}, the oldest that "
                "may be installed here"[:200],
            )


def check_way(manifest: Manifest, way: str) -> None:
    """Check that a release is put in place as the one before was: else both would run.

    `way` is how that was, empty if there was none.

    Raises:
        InstallerError: It is not.
    """
    if way and way_of(manifest) != way:
        raise InstallerError(
            Reason.INCOMPATIBLE,
            f"what runs was put there by {way}, and this release wants {way_of(manifest)}: "
            "give it another component name"[:200],
        )


def way_of(manifest: Manifest) -> str:
    """Return in words how a release is put in place."""
    parts = ", ".join(f"{part.name} by {part.installer}" for part in manifest.parts)
    return parts or manifest.installer


def _matches(version: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(version, pattern) for pattern in patterns)
