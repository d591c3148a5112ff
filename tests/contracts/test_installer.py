"""What every installer keeps, whatever it installs: the calls in their order, and repeated."""

from collections.abc import Callable
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from firmware_hooks.contract import ENTRY_POINTS, Installer, InstallerError, Order
from sync.manifest import Manifest
from sync.stages import Reason
from tests.firmware_hooks.trees import release

Maker = Callable[[str], tuple[Manifest, bytes]]

MAKERS: dict[str, Maker] = {
    "directory": lambda version: release({"VERSION": version.encode()}, version=version)
}
"""How to make a release for each installer; one that is missing here fails every test."""

FOUND = {point.name: point for point in entry_points(group=ENTRY_POINTS)}


class Bench:
    """An installer on a device of its own, and releases for it."""

    def __init__(self, name: str, folder: Path) -> None:
        self._kind: Any = FOUND[name].load()
        self._make = MAKERS[name]
        self._folder = folder
        self._numbers = count()

    @property
    def installer(self) -> Installer:
        """Return the installer as a new start of the agent makes it."""
        installer: Installer = self._kind("lamp", self._folder / "install")
        return installer

    def order(self, version: str, *, spoilt: bool = False) -> Order:
        manifest, content = self._make(version)
        path = self._folder / f"artifact-{next(self._numbers)}"
        path.write_bytes(b"x" + content[1:] if spoilt else content)
        artifacts = {manifest.artifacts[0].name: path}
        return Order(manifest, manifest.digest(), artifacts, 10_000_000)

    def run(self, version: str) -> bytes:
        """Install a release to its good end."""
        order = self.order(version)
        self.installer.stage(order)
        self.installer.activate(order.digest)
        self.installer.check_trial(order.digest)
        self.installer.commit(order.digest)
        self.installer.clean_up()
        return order.digest


@pytest.fixture(params=sorted(FOUND))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


def test_on_an_empty_device_nothing_runs_and_making_an_installer_touches_nothing(
    bench: Bench, tmp_path: Path
) -> None:
    assert bench.installer.running() is None
    assert list(tmp_path.iterdir()) == []


def test_a_release_runs_from_its_activation_on_and_not_before(bench: Bench) -> None:
    old, new = bench.run("1"), bench.order("2")

    bench.installer.stage(new)
    assert bench.installer.running() == old
    bench.installer.activate(new.digest)
    assert bench.installer.running() == new.digest
    assert bench.installer.folder(new.digest).is_dir()


def test_every_call_may_be_repeated(bench: Bench) -> None:
    old, new = bench.run("1"), bench.order("2")

    for _ in range(3):
        bench.installer.stage(new)
    for _ in range(3):
        bench.installer.activate(new.digest)
    for _ in range(3):
        assert bench.installer.roll_back(new.digest) == old
        assert bench.installer.running() == old
    for _ in range(3):
        bench.installer.clean_up()
    assert bench.installer.folder(old).is_dir()


def test_what_is_staged_again_after_a_roll_back_can_be_activated(bench: Bench) -> None:
    bench.run("1")
    new = bench.order("2")
    bench.installer.stage(new)
    bench.installer.activate(new.digest)
    bench.installer.roll_back(new.digest)
    bench.installer.clean_up()

    bench.installer.stage(new)
    bench.installer.activate(new.digest)

    assert bench.installer.running() == new.digest


def test_rolling_back_before_the_switch_was_thrown_leaves_what_runs(bench: Bench) -> None:
    first, second, new = bench.run("1"), bench.run("2"), bench.order("3")
    bench.installer.stage(new)

    assert bench.installer.roll_back(new.digest) == second
    assert bench.installer.running() == second != first


def test_after_the_first_release_of_a_device_was_rolled_back_nothing_runs(bench: Bench) -> None:
    new = bench.order("1")
    bench.installer.stage(new)
    bench.installer.activate(new.digest)

    for _ in range(2):
        assert bench.installer.roll_back(new.digest) is None
        assert bench.installer.running() is None


def test_what_was_not_staged_is_not_activated_and_what_runs_goes_on(bench: Bench) -> None:
    old = bench.run("1")

    with pytest.raises(InstallerError):
        bench.installer.activate(bench.order("2").digest)

    assert bench.installer.running() == old
    assert bench.installer.roll_back(bench.order("2").digest) == old


def test_an_artifact_that_the_disk_has_spoilt_is_refused_and_nothing_changes(bench: Bench) -> None:
    old, new = bench.run("1"), bench.order("2", spoilt=True)

    with pytest.raises(InstallerError) as refused:
        bench.installer.stage(new)

    assert refused.value.reason == Reason.DIGEST_MISMATCH
    assert bench.installer.running() == old
    with pytest.raises(InstallerError):
        bench.installer.activate(new.digest)
    assert bench.installer.running() == old


def test_a_trial_of_what_does_not_run_is_refused(bench: Bench) -> None:
    bench.run("1")

    with pytest.raises(InstallerError):
        bench.installer.check_trial(bench.order("2").digest)


def test_cleaning_up_keeps_what_runs_and_the_way_back(bench: Bench) -> None:
    bench.run("1")
    old, new = bench.run("2"), bench.order("3")
    bench.installer.stage(new)
    bench.installer.activate(new.digest)
    bench.installer.clean_up()

    assert bench.installer.running() == new.digest
    assert bench.installer.roll_back(new.digest) == old
