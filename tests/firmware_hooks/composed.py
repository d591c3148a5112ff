"""A real podman-compose, and releases of two services for it."""

import contextlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_hooks.contract import Options, Order
from tests.firmware_hooks.podman import LOOP, Podman, podman
from tests.firmware_hooks.releases import order_of

LIMITS = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"

TWO = """
version: "3"
services:
  web:
    image: ${FIELDFARE_IMAGE_WEB}
    depends_on: [store]
    restart: always
  store:
    image: ${FIELDFARE_IMAGE_STORE}
    restart: always
"""


class Composed:
    """podman-compose over a podman of its own."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        self.podman = podman
        self._folder = folder
        self._archives: dict[str, bytes] = {}
        self._program = folder / "podman"  # podman-compose takes one word for it
        self._program.write_text(f'#!/bin/sh\nexec {shlex.join(podman.words)} "$@"\n')
        self._program.chmod(0o755)

    def options(self, **more: str | float) -> Options:
        return {
            "podman": str(self._program),
            "compose": f"podman-compose --podman-path {self._program}",
            "run_options": LIMITS,
            "stop_s": 1,
            **more,
        }

    def order(
        self,
        folder: Path,
        version: str,
        *,
        file: str = TWO,
        services: str = "web store",
        store_does: str = LOOP,
        **parameters: str,
    ) -> Order:
        return order_of(
            folder,
            version,
            {
                "compose": file.encode(),
                "web": self._image(f"web-{version}"),
                "store": self._image(f"store-{version}", store_does),
            },
            installer="compose",
            parameters={"services": services, **parameters},
        )

    def _image(self, version: str, does: str = LOOP) -> bytes:
        """Return the same bytes for the same version: podman stamps what it saves."""
        name = f"{version} {does}"
        if name not in self._archives:
            archive = self.podman.image(version, self._folder / "image", does)
            self._archives[name] = archive.read_bytes()
        return self._archives[name]

    def shows(self) -> dict[str, str]:
        """Return what each container that runs says its version is."""
        names = self.podman("ps", "--format", "{{.Names}}").split()
        return {name: self.podman("exec", name, "cat", "/version") for name in sorted(names)}

    def networks(self) -> set[str]:
        listed = json.loads(self.podman("network", "ls", "--format", "json"))
        return {each.get("name", each.get("Name")) for each in listed} - {"podman"}

    def clear(self) -> None:
        self.podman.clear()
        if networks := self.networks():
            self.podman("network", "rm", "--force", *networks)


def both(version: str) -> dict[str, str]:
    """Return what `shows` says while a release runs."""
    return {f"fieldfare-lamp_{name}_1": f"{name}-{version}" for name in ("store", "web")}


@contextlib.contextmanager
def composed() -> Iterator[Composed]:
    """Give a podman-compose, or skip the test."""
    for program in ("podman-compose", "flock", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    with podman(alone=True) as made, tempfile.TemporaryDirectory() as folder:
        found = Composed(made, Path(folder))
        try:
            yield found
        finally:
            found.clear()
