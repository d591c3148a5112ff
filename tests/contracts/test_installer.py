"""Every installer of this project keeps the contract that ships in the package."""

from importlib.metadata import entry_points
from pathlib import Path

from firmware_hooks.conformance import InstallerConformance
from firmware_hooks.contract import ENTRY_POINTS, Installer, Order
from firmware_hooks.directory import DirectoryInstaller
from tests.firmware_hooks.trees import release


class TestDirectory(InstallerConformance):
    def make_installer(self, folder: Path) -> Installer:
        return DirectoryInstaller(self.component, folder / "install")

    def make_order(self, folder: Path, version: str) -> Order:
        manifest, tree = release(
            {"VERSION": version.encode(), "bin/run": b"go"}, version=f"{version}.0"
        )
        path = folder / f"tree-{version}"
        path.write_bytes(tree)
        return Order(manifest, manifest.digest(), {"tree.tar": path}, 10_000_000)

    def assert_runs(self, folder: Path, version: str | None) -> None:
        shown = folder / "install/lamp/current/VERSION"
        assert (shown.read_text() if shown.exists() else None) == version


def test_every_installer_that_can_be_chosen_is_held_to_the_contract() -> None:
    named = {point.value.partition(":")[2] for point in entry_points(group=ENTRY_POINTS)}
    held = {
        kind.removeprefix("Test") + "Installer"
        for kind, value in globals().items()
        if isinstance(value, type) and issubclass(value, InstallerConformance)
    }
    assert named <= held
