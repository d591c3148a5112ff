"""Releases of several files for tests, for any installer."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from firmware_hooks.contract import Installer, Order
from sync.manifest import Artifact, Health, Manifest

Parameters = Mapping[str, str | int | float | bool]


def order_of(
    folder: Path,
    version: str,
    files: Mapping[str, bytes],
    *,
    installer: str,
    parameters: Parameters | None = None,
) -> Order:
    """Write the artifacts of a release below `folder`, and return the order to install it."""
    manifest = Manifest(
        component="lamp",
        version=f"{version}.0",
        installer=installer,
        parameters=dict(parameters or {}),
        artifacts=tuple(
            Artifact(
                name=name,
                sha256=hashlib.sha256(content).hexdigest(),
                length_bytes=len(content),
            )
            for name, content in files.items()
        ),
        health=Health(command=("true",)),
    )
    paths = {}
    for name, content in files.items():
        paths[name] = folder / f"{version}-{name}"
        paths[name].write_bytes(content)
    return Order(manifest, manifest.digest(), paths, 10_000_000)


def put(installer: Installer, order: Order) -> bytes:
    """Install a release as the agent does when all goes well."""
    installer.stage(order)
    installer.activate(order.digest)
    installer.check_trial(order.digest)
    installer.commit(order.digest)
    installer.clean_up()
    return order.digest
