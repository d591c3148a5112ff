"""The contract of installers for `compose`, apart from the others: it takes minutes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from firmware_hooks.compose import ComposeInstaller
from firmware_hooks.conformance import InstallerConformance
from firmware_hooks.contract import Installer, Order
from tests.firmware_hooks.composed import Composed, both, composed

pytestmark = pytest.mark.timeout(600)


class TestCompose(InstallerConformance):
    """Real containers of the real podman-compose."""

    kill_stride = 1 if os.environ.get("FIELDFARE_SOAK") else 150
    keeps_apart = True

    composed: ClassVar[Composed]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _start(cls) -> Iterator[None]:
        with composed() as cls.composed:
            yield

    def clear_device(self, folder: Path) -> None:
        self.composed.clear()

    def make_installer(self, folder: Path) -> Installer:
        return ComposeInstaller(self.component, folder / "install", self.composed.options())

    def make_order(self, folder: Path, version: str) -> Order:
        return self.composed.order(folder, version)

    def assert_runs(self, folder: Path, version: str | None) -> None:
        assert self.composed.shows() == ({} if version is None else both(version))
