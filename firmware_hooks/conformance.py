"""What every installer must keep, as tests that anybody can run on theirs.

Owns the promises of `firmware_hooks.contract` in a form that can fail. Needs pytest, and so is
imported by tests alone:

    pytest.register_assert_rewrite("firmware_hooks.conformance")  # in conftest.py: says more

    from firmware_hooks.conformance import InstallerConformance

    class TestMine(InstallerConformance):
        def make_installer(self, folder): ...
        def make_order(self, folder, version): ...

Deaths are real: see `firmware_hooks.deaths`.
"""

import resource
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

import pytest

from firmware_hooks.contract import Installer, InstallerError, Order, Reboots, RetryLater
from firmware_hooks.deaths import in_child, killed
from sync.stages import Reason

_SPOILT: Final = b"\xff\xfe spoilt"

CALLS: Final = ("stage", "activate", "roll_back", "commit", "clean_up")
"""The calls that change something, each killed in the middle and repeated."""

REBOOTS_MAX: Final = 3
AGAIN: Final = 2
"""How often a call that was killed is killed again at the same step."""


class InstallerConformance:
    """The contract. A subclass says how to make an installer and releases for it."""

    component: ClassVar[str] = "lamp"
    kill_stride: ClassVar[int] = 1
    """Die at every n-th step; more than 1 for installers whose calls take seconds."""
    returns_after_commit: ClassVar[bool] = True
    """Whether `roll_back` still finds the way after `commit`; the agent never takes it then."""

    keeps_apart: ClassVar[bool] = False
    """Whether two components have nothing in common on a device: no slot, chip, package or file."""
    lays_down: ClassVar[bool] = True
    """Whether `stage` puts what it is given onto the disk, and not elsewhere."""

    # What a subclass says.

    def make_installer(self, folder: Path) -> Installer:
        """Return the installer as a new start of the agent makes it, all of it below `folder`."""
        raise NotImplementedError

    def make_order(self, folder: Path, version: str) -> Order:
        """Return an order of a release with this version; artifacts are files below `folder`.

        Orders of the same version must have the same digest. The artifacts may lie in the same
        place each time, and must be written anew: a test may have spoilt them.
        """
        raise NotImplementedError

    def prepare_device(self, folder: Path) -> None:
        """Put below `folder` what the installer expects of a device: programs, folders."""

    def clear_device(self, folder: Path) -> None:
        """End what the installer has started; `folder` is going to be removed."""

    def busy(self, folder: Path) -> AbstractContextManager[object] | None:
        """Return a block in which the device asks to be left alone; None if it never does."""
        del folder
        return None

    def reboot(self, folder: Path, given: tuple[str, ...]) -> None:
        """Do what the device does when it restarts. Needed by installers that are `Reboots`."""
        raise NotImplementedError

    def fall_back(self, folder: Path, given: tuple[str, ...]) -> None:
        """Do what the device does when it restarts, fails to, and starts what ran before.

        Needed by installers that are `Reboots`.
        """
        raise NotImplementedError

    def assert_runs(self, folder: Path, version: str | None) -> None:
        """Look whether this version is what the device uses; None for none of ours.

        The default believes the installer.
        """

    # Steps of the tests.

    @pytest.fixture(autouse=True)
    def _in_folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.home = tmp_path / "bench"
        yield
        self._clear()

    def _clear(self) -> None:
        if self.home.exists():
            self.clear_device(self.home)
            shutil.rmtree(self.home, ignore_errors=True)

    @property
    def installer(self) -> Installer:
        """Return an installer that knows only what is on the disk."""
        if not self.home.exists():
            self.home.mkdir()
            self.prepare_device(self.home)
        return self.make_installer(self.home)

    def order(self, version: str) -> Order:
        """Return an order for this bench."""
        folder = self.folder / "orders"
        folder.mkdir(exist_ok=True)
        return self.make_order(folder, version)

    def settle(self) -> None:
        """Restart the device as often as the installer waits for it."""
        for _ in range(REBOOTS_MAX):
            given = self._awaited()
            if given is None:
                return
            self.reboot(self.home, given)
        pytest.fail(f"it still waits for a restart of the device after {REBOOTS_MAX}")

    def activate(self, order: Order) -> None:
        """Activate, and restart the device if it takes that."""
        self.installer.activate(order.digest)
        self.settle()

    def roll_back(self, order: Order) -> bytes | None:
        """Roll back, and restart the device if it takes that."""
        back_to = self.installer.roll_back(order.digest)
        self.settle()
        return back_to

    def run(self, version: str) -> Order:
        """Install a release to its good end."""
        order = self.order(version)
        self.installer.stage(order)
        self.activate(order)
        self.installer.check_trial(order.digest)
        self.installer.commit(order.digest)
        self.installer.clean_up()
        return order

    def paths(self) -> set[str]:
        """Return every file that lies on the bench."""
        return {str(path) for path in self.home.rglob("*") if path.is_symlink() or path.is_file()}

    # The contract.

    def test_on_an_empty_device_nothing_runs_and_making_an_installer_touches_nothing(self) -> None:
        made = self.installer
        before = self.paths()
        made = self.installer

        assert made.running() is None
        made.clean_up()
        assert self.paths() == before
        self.assert_runs(self.home, None)

    def test_a_release_runs_from_its_activation_on_and_not_before(self) -> None:
        old, new = self.run("1"), self.order("2")

        self.installer.stage(new)
        assert self.installer.running() == old.digest
        self.assert_runs(self.home, "1")
        self.activate(new)
        assert self.installer.running() == new.digest
        self.assert_runs(self.home, "2")
        self.installer.check_trial(new.digest)
        assert self.installer.folder(new.digest).is_dir()

    def test_another_component_of_the_same_installer_is_left_alone(self) -> None:
        if not self.keeps_apart:
            pytest.skip("its components share something of the device")
        mine = self.run("1")

        def be(component: str) -> None:
            self.component = component  # type: ignore[misc]  # of this test alone

        def still_runs(component: str, release: Order) -> None:
            be(component)
            assert self.installer.running() == release.digest
            self.installer.check_trial(release.digest)

        be("lamp.app")  # as the part `app` of a component is called
        theirs = self.run("2")
        still_runs("lamp", mine)
        self.installer.clean_up()
        still_runs("lamp.app", theirs)
        newer = self.order("3")
        self.installer.stage(newer)
        self.activate(newer)
        still_runs("lamp", mine)
        be("lamp.app")
        assert self.roll_back(newer) == theirs.digest
        self.installer.clean_up()
        still_runs("lamp", mine)
        still_runs("lamp.app", theirs)
        be("lamp")

    def test_what_the_disk_has_no_room_for_is_refused_and_nothing_is_left(self) -> None:
        if not self.lays_down:
            pytest.skip("it lays nothing down on the disk")
        old, new = self.run("1"), self.order("2")
        for bounds, reason in (
            ({"room_bytes": 0}, Reason.NO_SPACE),
            ({"unpacked_bytes_max": 0, "room_bytes": 1}, Reason.TOO_LARGE),
        ):
            before = self.paths()
            with pytest.raises(InstallerError) as refused:
                self.installer.stage(replace(new, **bounds))  # type: ignore[arg-type]
            assert refused.value.reason == reason
            assert self.installer.running() == old.digest
            assert self.paths() == before
        self.installer.stage(new)
        self.activate(new)
        assert self.installer.running() == new.digest

    def test_a_device_that_is_busy_is_left_as_it_is_until_it_is_not(self) -> None:
        old, new = self.run("1"), self.order("2")
        self.installer.stage(new)
        block = self.busy(self.home)
        if block is None:
            pytest.skip("it never asks to be called later")
        with block:
            for _ in range(2):
                with pytest.raises(RetryLater) as later:
                    self.installer.activate(new.digest)
                assert later.value.wait_s > 0
                assert self.installer.running() == old.digest
                self.assert_runs(self.home, "1")
        self.activate(new)
        assert self.installer.running() == new.digest
        block = self.busy(self.home)
        assert block is not None
        with block, pytest.raises(RetryLater):
            self.installer.roll_back(new.digest)
        assert self.roll_back(new) == old.digest
        self.assert_runs(self.home, "1")

    def test_every_call_may_be_repeated(self) -> None:
        old, new = self.run("1"), self.order("2")

        for _ in range(3):
            self.installer.stage(new)
        for _ in range(3):
            self.activate(new)
            self.installer.check_trial(new.digest)
        for _ in range(3):
            assert self.roll_back(new) == old.digest
            assert self.installer.running() == old.digest
            self.assert_runs(self.home, "1")
        for _ in range(3):
            self.installer.clean_up()
        assert self.installer.folder(old.digest).is_dir()
        self.installer.stage(new)
        self.activate(new)
        for _ in range(3):
            self.installer.commit(new.digest)
            self.installer.check_trial(new.digest)
        self.assert_runs(self.home, "2")

    def test_what_is_staged_again_after_a_roll_back_can_be_activated(self) -> None:
        self.run("1")
        new = self.order("2")
        self.installer.stage(new)
        self.activate(new)
        self.roll_back(new)
        self.installer.clean_up()

        self.installer.stage(new)
        self.activate(new)

        assert self.installer.running() == new.digest
        self.assert_runs(self.home, "2")

    def test_rolling_back_before_the_switch_was_thrown_leaves_what_runs(self) -> None:
        self.run("1")
        second, new = self.run("2"), self.order("3")
        self.installer.stage(new)

        assert self.roll_back(new) == second.digest
        assert self.installer.running() == second.digest
        self.assert_runs(self.home, "2")

    def test_after_the_first_release_of_a_device_was_rolled_back_nothing_runs(self) -> None:
        new = self.order("1")
        self.installer.stage(new)
        self.activate(new)

        for _ in range(2):
            assert self.roll_back(new) is None
            assert self.installer.running() is None
            self.assert_runs(self.home, None)

    def test_what_was_not_staged_is_not_activated_and_what_runs_goes_on(self) -> None:
        old, new = self.run("1"), self.order("2")

        with pytest.raises(InstallerError):
            self.installer.activate(new.digest)

        assert self.installer.running() == old.digest
        assert self.roll_back(new) == old.digest
        self.assert_runs(self.home, "1")

    def test_an_artifact_that_the_disk_has_spoilt_is_refused_and_nothing_of_it_stays(self) -> None:
        old, new = self.run("1"), self.order("2")
        before = self.paths()
        artifact = next(iter(new.artifacts.values()))
        artifact.write_bytes(_SPOILT + artifact.read_bytes()[len(_SPOILT) :])

        with pytest.raises(InstallerError) as refused:
            self.installer.stage(new)

        assert refused.value.reason == Reason.DIGEST_MISMATCH
        assert refused.value.detail
        assert self.paths() == before
        assert not self.installer.folder(new.digest).exists()
        with pytest.raises(InstallerError):
            self.installer.activate(new.digest)
        assert self.installer.running() == old.digest
        self.assert_runs(self.home, "1")
        self.installer.stage(self.order("2"))

    def test_a_trial_of_what_does_not_run_is_refused(self) -> None:
        self.run("1")
        new = self.order("2")

        with pytest.raises(InstallerError):
            self.installer.check_trial(new.digest)
        self.installer.stage(new)
        with pytest.raises(InstallerError):
            self.installer.check_trial(new.digest)

    def test_cleaning_up_keeps_what_runs_and_the_way_back(self) -> None:
        first = self.run("1")
        old, new = self.run("2"), self.order("3")
        self.installer.stage(new)
        self.activate(new)
        self.installer.clean_up()

        assert not self.installer.folder(first.digest).exists()
        assert self.installer.running() == new.digest
        assert self.roll_back(new) == old.digest
        self.assert_runs(self.home, "2")

    # Restarts of the device.

    def test_while_a_restart_is_awaited_the_old_release_is_what_runs(self) -> None:
        old, new = self.run("1"), self.order("2")
        self.installer.stage(new)
        self.installer.activate(new.digest)
        if self._awaited() is None:
            assert self.installer.running() == new.digest
            return

        assert self.installer.running() == old.digest
        self.assert_runs(self.home, "1")
        with pytest.raises(InstallerError):
            self.installer.check_trial(new.digest)
        self.settle()
        assert self._awaited() is None
        assert self.installer.running() == new.digest

    def test_a_device_that_fell_back_says_so_and_runs_the_old_release(self) -> None:
        old, new = self.run("1"), self.order("2")
        self.installer.stage(new)
        self.installer.activate(new.digest)
        given = self._awaited()
        if given is None:
            pytest.skip("it runs releases without a restart of the device")
        self.fall_back(self.home, given)

        with pytest.raises(InstallerError) as failed:
            self.installer.check_trial(new.digest)

        assert failed.value.reason == Reason.FELL_BACK
        assert self.installer.running() == old.digest
        self.assert_runs(self.home, "1")
        assert self.roll_back(new) == old.digest
        assert self.installer.running() == old.digest

    def _awaited(self) -> tuple[str, ...] | None:
        installer = self.installer
        return installer.awaits_reboot() if isinstance(installer, Reboots) else None

    # Deaths.

    @pytest.mark.parametrize("call", CALLS)
    def test_killed_at_any_step_and_repeated_a_call_ends_as_if_it_was_called_once(
        self, call: str
    ) -> None:
        deaths = 0
        for at in self._steps_of(call):
            deaths += 1
            self._end(call, at)
        assert deaths > 0 or call in ("commit", "clean_up"), "no step of it could be killed"

    @pytest.mark.parametrize("call", CALLS[:3])
    def test_killed_at_the_same_step_again_and_again_a_call_ends_well_when_it_is_let(
        self, call: str
    ) -> None:
        for at in self._steps_of(call, again=AGAIN):
            self._end(call, at)

    def _steps_of(self, call: str, again: int = 0) -> Iterator[int]:
        """Prepare a bench for each step of a call, and kill the call there.

        `again` is how often it is repeated and killed at that step once more; it may be that there
        is no such step the next time.
        """
        for at in range(1, 100_000, self.kill_stride * (1 + again)):
            self._clear()
            order = self._prepare(call)

            def act(order: Order = order) -> None:
                self._call(call, order)

            if not killed(act, at):
                return
            for _ in range(again):
                killed(act, at)
            yield at

    def _prepare(self, call: str) -> Order:
        self.run("1")
        order = self.order("2")
        if call != "stage":
            self.installer.stage(order)
        if call in ("roll_back", "commit"):
            self.activate(order)
        if call == "clean_up":
            self.activate(order)
            self.installer.commit(order.digest)
        return order

    def _call(self, call: str, order: Order) -> None:
        if call == "stage":
            self.installer.stage(order)
        elif call == "clean_up":
            self.installer.clean_up()
        else:
            getattr(self.installer, call)(order.digest)

    def _end(self, call: str, at: int) -> None:
        """Repeat a call that was killed, and see that the install comes to its ends."""
        old, order = self.order("1"), self.order("2")
        where = f"{call} killed at step {at}"
        if call == "stage":
            assert self.installer.running() == old.digest, where
            self.assert_runs(self.home, "1")
        self._call(call, order)
        self.settle()
        is_new = call in ("activate", "commit", "clean_up")
        assert self.installer.running() == (order if is_new else old).digest, where
        self.assert_runs(self.home, "2" if is_new else "1")
        if call == "roll_back":
            self.installer.clean_up()
            self.installer.stage(order)
        if not is_new:
            self.activate(order)
        self.installer.check_trial(order.digest)
        self.assert_runs(self.home, "2")
        self.installer.clean_up()
        assert not [path for path in self.paths() if path.endswith(".partial")], where
        if call in ("commit", "clean_up") and not self.returns_after_commit:
            return
        assert self.roll_back(order) == old.digest, where
        self.assert_runs(self.home, "1")

    def test_killed_at_any_step_of_an_activation_it_can_be_rolled_back_at_once(self) -> None:
        for at in self._steps_of("activate"):
            order, old = self.order("2"), self.order("1")
            assert self.roll_back(order) == old.digest, f"activate killed at step {at}"
            assert self.installer.running() == old.digest
            self.assert_runs(self.home, "1")

    # Places that cannot be written.

    def test_a_target_that_takes_no_bytes_is_the_installers_error_and_what_runs_goes_on(
        self,
    ) -> None:
        """The limit for written files stands for a full disk: it holds for root as well."""
        old, new = self.run("1"), self.order("2")

        def stage_where_nothing_fits() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            self.installer.stage(new)

        said = in_child(stage_where_nothing_fits)

        assert said["raised"] == "InstallerError", said
        assert said["detail"], said
        assert self.installer.running() == old.digest
        self.assert_runs(self.home, "1")
        self.installer.stage(new)
        self.activate(new)
        self.assert_runs(self.home, "2")

    def test_a_folder_that_cannot_be_made_is_the_installers_error(self) -> None:
        order = self.order("1")
        where = self.installer.folder(order.digest)
        blocked = next(path for path in [where, *where.parents] if path.parent.is_dir())
        blocked.write_text("a file where a folder should be")

        with pytest.raises(InstallerError) as failed:
            self.installer.stage(order)

        assert failed.value.detail
        blocked.unlink()
        self.installer.stage(order)
