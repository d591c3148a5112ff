"""Whether what runs on the device lets a release in: versions that it requires or forbids.

Owns one pure decision. A version is compared as it is written; only `*` stands for anything.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from firmware_hooks.contract import InstallerError
from sync.manifest import Manifest
from sync.stages import Reason


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


def _matches(version: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(version, pattern) for pattern in patterns)
