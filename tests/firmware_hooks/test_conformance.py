"""The shipped contract tests catch installers that break it: each of these breaks one promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

LIARS = """
from pathlib import Path

from firmware_hooks import directory
from firmware_hooks.conformance import InstallerConformance
from firmware_hooks.contract import Order
from firmware_hooks.directory import DirectoryInstaller
from tests.firmware_hooks.trees import release


class _Conformance(InstallerConformance):
    kind = DirectoryInstaller

    def make_installer(self, folder):
        return self.kind("lamp", folder / "install")

    def make_order(self, folder, version):
        manifest, tree = release({"VERSION": version.encode()}, version=f"{version}.0")
        path = folder / f"tree-{version}"
        path.write_bytes(tree)
        return Order(manifest, manifest.digest(), {"tree.tar": path}, 10_000_000)

    def assert_runs(self, folder, version):
        shown = folder / "install/lamp/current/VERSION"
        assert (shown.read_text() if shown.exists() else None) == version


class TestHonest(_Conformance):
    pass


class TestSwitchesWhileStaging(_Conformance):
    class kind(DirectoryInstaller):
        def stage(self, order):
            super().stage(order)
            super().activate(order.digest)


class TestSwitchesInTwoSteps(_Conformance):
    class kind(DirectoryInstaller):
        def _point(self, link, digest):
            (self._home / link).unlink(missing_ok=True)
            (self._home / link).symlink_to(Path("releases") / digest.hex())


class TestUnpacksInPlace(_Conformance):
    class kind(DirectoryInstaller):
        def stage(self, order):
            if not self.folder(order.digest).is_dir():
                self.folder(order.digest).mkdir(parents=True)
                super().stage(order)


class TestBelievesTheDisk(_Conformance):
    class kind(DirectoryInstaller):
        def stage(self, order):
            real, directory.verify = directory.verify, lambda *_: None
            try:
                super().stage(order)
            finally:
                directory.verify = real


class TestForgetsTheWayBack(_Conformance):
    class kind(DirectoryInstaller):
        def clean_up(self):
            super().clean_up()
            for tree in (self._home / "releases").glob("*"):
                if tree != self.folder(self.running() or b""):
                    directory.remove(tree)


class TestKeepsEverything(_Conformance):
    class kind(DirectoryInstaller):
        def clean_up(self):
            pass


class TestTriesAnything(_Conformance):
    class kind(DirectoryInstaller):
        def check_trial(self, digest):
            pass


class TestFallsOver(_Conformance):
    class kind(DirectoryInstaller):
        def stage(self, order):
            directory.make_folder(self._releases)
            (self._releases / "note").write_text("x")
            super().stage(order)


class TestRollsBackWhatNeverRan(_Conformance):
    class kind(DirectoryInstaller):
        def roll_back(self, digest):
            return super().roll_back(self.running() or digest)


class TestRemembersInMemory(_Conformance):
    staged = set()

    class kind(DirectoryInstaller):
        def stage(self, order):
            super().stage(order)
            self.is_staged = True

        def activate(self, digest):
            if not getattr(self, "is_staged", False):
                raise RuntimeError("who are you?")
            super().activate(digest)
"""

CAUGHT_BY = {
    "SwitchesWhileStaging": "test_a_release_runs_from_its_activation_on_and_not_before",
    "SwitchesInTwoSteps": "test_killed_at_any_step_of_an_activation_it_can_be_rolled_back",
    "UnpacksInPlace": "test_killed_at_any_step_and_repeated_a_call_ends_as_if",
    "BelievesTheDisk": "test_an_artifact_that_the_disk_has_spoilt_is_refused",
    "ForgetsTheWayBack": "test_cleaning_up_keeps_what_runs_and_the_way_back",
    "KeepsEverything": "test_cleaning_up_keeps_what_runs_and_the_way_back",
    "TriesAnything": "test_a_trial_of_what_does_not_run_is_refused",
    "FallsOver": "test_a_target_that_takes_no_bytes_is_the_installers_error",
    "RollsBackWhatNeverRan": "test_rolling_back_before_the_switch_was_thrown_leaves",
    "RemembersInMemory": "test_every_call_may_be_repeated",
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Run the contract over all of them and return what failed for each."""
    page = tmp_path_factory.mktemp("liars") / "test_liars.py"
    page.write_text(LIARS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rf"]
    done = subprocess.run(
        [*command, "-c", "/dev/null", "--rootdir", str(page.parent), str(page)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for kind, test in re.findall(r"^FAILED .*?::Test(\w+)::(\w+)", done.stdout, re.MULTILINE):
        found.setdefault(kind, set()).add(test)
    return found


@pytest.mark.parametrize("kind", CAUGHT_BY)
def test_an_installer_that_breaks_a_promise_fails_the_test_of_that_promise(
    kind: str, failed: dict[str, set[str]]
) -> None:
    assert any(test.startswith(CAUGHT_BY[kind]) for test in failed[kind]), failed.get(kind)


def test_an_installer_that_keeps_them_fails_none(failed: dict[str, set[str]]) -> None:
    assert "Honest" not in failed
