"""Debian packages for tests, and a root that dpkg installs them below."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from firmware_hooks.contract import Options, Order
from sync.manifest import Artifact, Health, Manifest

# Maintainer scripts run without a chroot, so the root needs no shell of its own, and no superuser.
DPKG_OPTIONS = "--force-script-chrootless --force-not-root --no-debsig"

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg") is None or shutil.which("dpkg-deb") is None, reason="needs dpkg"
)
needs_repack = pytest.mark.skipif(shutil.which("dpkg-repack") is None, reason="needs dpkg-repack")

Scripts = Mapping[str, str]


def make_root(folder: Path) -> Path:
    """Make an empty root with an empty database."""
    database = folder / "var/lib/dpkg"
    for name in ("info", "updates", "triggers"):
        (database / name).mkdir(parents=True)
    (database / "status").touch()
    (database / "available").touch()
    return folder


def options(root: Path, **more: str | float) -> Options:
    return {"root": str(root), "dpkg_options": DPKG_OPTIONS, **more}


def build(
    folder: Path,
    name: str,
    version: str,
    *,
    files: Mapping[str, str] | None = None,
    scripts: Scripts | None = None,
    fields: Mapping[str, str] | None = None,
    conffiles: tuple[str, ...] = (),
) -> Path:
    """Build a package, in the same bytes each time."""
    tree = folder / f"tree-{name}-{version}"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    control = {
        "Package": name,
        "Version": version,
        "Architecture": "all",
        "Maintainer": "Tests <tests@example.org>",
        **(fields or {}),
        "Description": "made by a test",
    }
    (tree / "DEBIAN/control").write_text("".join(f"{k}: {v}\n" for k, v in control.items()))
    if conffiles:
        (tree / "DEBIAN/conffiles").write_text("".join(f"{path}\n" for path in conffiles))
    for script, text in (scripts or {}).items():
        path = tree / "DEBIAN" / script
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    for inside, content in (files or {f"opt/{name}": version}).items():
        (tree / inside).parent.mkdir(parents=True, exist_ok=True)
        (tree / inside).write_text(content)
    made = folder / f"{name}_{version.replace(':', '-')}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)],
        check=True,
        capture_output=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )
    return made


def order_of(folder: Path, version: str, *packages: Path, **parameters: str | bool) -> Order:
    """Return the order for a release of these packages."""
    manifest = Manifest(
        component="lamp",
        version=version,
        installer="deb",
        parameters=dict(parameters),
        artifacts=tuple(
            Artifact(
                name=path.name,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                length_bytes=path.stat().st_size,
            )
            for path in packages
        ),
        health=Health(command=("true",)),
    )
    return Order(manifest, manifest.digest(), {path.name: path for path in packages}, 10_000_000)


def installed(root: Path) -> dict[str, str]:
    """Return what dpkg has below the root: version and state by name."""
    done = subprocess.run(
        [
            "dpkg-query",
            f"--admindir={root}/var/lib/dpkg",
            "--show",
            "--showformat=${Package} ${Version} ${db:Status-Status}\\n",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    return {
        name: version if state == "installed" else f"{version} {state}"
        for name, version, state in (row for row in rows if len(row) == 3)
        if state not in ("not-installed", "config-files")
    }


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
"""Holds a lock of dpkg until its standard input ends; tells when it does."""
