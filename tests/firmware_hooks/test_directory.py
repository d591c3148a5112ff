import os
import resource
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from firmware_hooks import directory, durable
from firmware_hooks.contract import ENTRY_POINTS, Installer, InstallerError, Order
from firmware_hooks.directory import DirectoryInstaller
from sync.manifest import Manifest
from sync.stages import Reason
from tests.firmware_hooks.trees import file, manifest_for, packed, release, tar

OLD = release({"VERSION": b"1"}, version="1.0.0")
NEW = release({"VERSION": b"2", "bin/run": b"go"}, version="2.0.0")
NEWER = release({"VERSION": b"3"}, version="3.0.0")


@pytest.fixture
def installer(tmp_path: Path) -> DirectoryInstaller:
    return DirectoryInstaller("lamp", tmp_path / "opt" / "fieldfare")


def order_for(made: tuple[Manifest, bytes], tmp_path: Path, bytes_max: int = 10**6) -> Order:
    manifest, tree = made
    artifact = manifest.artifacts[0]
    path = tmp_path / artifact.sha256
    path.write_bytes(tree)
    return Order(manifest, manifest.digest(), {artifact.name: path}, bytes_max)


def put(installer: DirectoryInstaller, made: tuple[Manifest, bytes], tmp_path: Path) -> bytes:
    """Install a release as the agent does when all goes well."""
    order = order_for(made, tmp_path)
    installer.stage(order)
    installer.activate(order.digest)
    installer.check_trial(order.digest)
    installer.commit(order.digest)
    installer.clean_up()
    return order.digest


def version_of(tmp_path: Path) -> str:
    return (tmp_path / "opt/fieldfare/lamp/current/VERSION").read_text()


def trees(tmp_path: Path) -> set[str]:
    folder = tmp_path / "opt/fieldfare/lamp/releases"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_it_is_found_by_its_entry_point() -> None:
    (entry,) = entry_points(group=ENTRY_POINTS, name="directory")
    made: Installer = entry.load()("lamp", Path("/nowhere"))

    assert isinstance(made, DirectoryInstaller)


def test_staging_touches_nothing_that_runs(installer: DirectoryInstaller, tmp_path: Path) -> None:
    old = put(installer, OLD, tmp_path)
    order = order_for(NEW, tmp_path)

    installer.stage(order)

    assert (installer.running(), version_of(tmp_path)) == (old, "1")
    assert (installer.folder(order.digest) / "bin/run").read_bytes() == b"go"


def test_the_new_release_runs_once_it_is_activated_and_the_old_one_is_kept(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    old = put(installer, OLD, tmp_path)
    new = put(installer, NEW, tmp_path)

    assert (installer.running(), version_of(tmp_path)) == (new, "2")
    assert trees(tmp_path) == {old.hex(), new.hex()}


def test_rolling_back_makes_the_release_run_that_ran_before(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    old, new = put(installer, OLD, tmp_path), put(installer, NEW, tmp_path)

    assert installer.roll_back(new) == old
    assert version_of(tmp_path) == "1"
    assert installer.roll_back(new) == old
    assert version_of(tmp_path) == "1"


def test_rolling_back_the_first_release_leaves_nothing_running(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    first = put(installer, OLD, tmp_path)

    assert installer.roll_back(first) is None
    assert installer.running() is None
    assert installer.roll_back(first) is None


def test_rolling_back_what_was_never_switched_to_changes_nothing(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    put(installer, OLD, tmp_path)
    new = put(installer, NEW, tmp_path)
    never = order_for(NEWER, tmp_path)
    installer.stage(never)

    assert installer.roll_back(never.digest) == new
    assert version_of(tmp_path) == "2"


def test_a_release_that_is_tried_again_and_fails_stays_where_nothing_earlier_is_known(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    old, new = put(installer, OLD, tmp_path), put(installer, NEW, tmp_path)
    installer.roll_back(new)
    installer.activate(old)

    assert installer.roll_back(old) == old
    assert version_of(tmp_path) == "1"


def test_a_release_whose_tree_is_gone_is_not_gone_back_to(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    old, new = put(installer, OLD, tmp_path), put(installer, NEW, tmp_path)
    durable.remove(installer.folder(old))

    with pytest.raises(InstallerError) as failed:
        installer.roll_back(new)

    assert failed.value.reason == Reason.ROLLBACK_FAILED
    assert installer.running() == new


def test_only_what_runs_and_what_ran_before_stays_after_cleaning_up(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    old = put(installer, OLD, tmp_path)
    new = put(installer, NEW, tmp_path)
    (installer.folder(old).parent / f"{'ab' * 32}.partial").mkdir()
    newer = put(installer, NEWER, tmp_path)

    assert trees(tmp_path) == {new.hex(), newer.hex()}


def test_cleaning_up_where_nothing_was_installed_is_harmless(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    installer.clean_up()

    assert not (tmp_path / "opt").exists()


def test_what_was_not_staged_is_not_activated(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    old = put(installer, OLD, tmp_path)

    with pytest.raises(InstallerError):
        installer.activate(NEW[0].digest())

    assert installer.running() == old


def test_a_switch_by_somebody_else_is_noticed_before_the_trial(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    old, new = put(installer, OLD, tmp_path), put(installer, NEW, tmp_path)
    installer._point("current", old)

    with pytest.raises(InstallerError):
        installer.check_trial(new)


def test_a_link_that_points_to_something_else_counts_as_nothing_running(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    put(installer, OLD, tmp_path)
    current = tmp_path / "opt/fieldfare/lamp/current"
    current.unlink()
    current.symlink_to("releases/feed")

    assert installer.running() is None


def _two_artifacts(tmp_path: Path) -> Order:
    order = order_for(NEW, tmp_path)
    first = order.manifest.artifacts[0]
    both = (first, first.model_copy(update={"name": "more"}))
    manifest = order.manifest.model_copy(update={"artifacts": both})
    return Order(manifest, order.digest, order.artifacts, order.unpacked_bytes_max)


def _changed_on_disk(tmp_path: Path) -> Order:
    order = order_for(NEW, tmp_path)
    (path,) = order.artifacts.values()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    return order


def _longer_on_disk(tmp_path: Path) -> Order:
    order = order_for(NEW, tmp_path)
    (path,) = order.artifacts.values()
    path.write_bytes(path.read_bytes() + b"x")
    return order


def _gone(tmp_path: Path) -> Order:
    order = order_for(NEW, tmp_path)
    (path,) = order.artifacts.values()
    path.unlink()
    return order


def _no_archive(tmp_path: Path) -> Order:
    return order_for((manifest_for(b"rubbish" * 200), b"rubbish" * 200), tmp_path)


def _leads_out(tmp_path: Path) -> Order:
    tree = packed(tar(file("VERSION", b"2"), file("../x", b"x")), "gz")
    return order_for((manifest_for(tree), tree), tmp_path)


def _no_room(tmp_path: Path) -> Order:
    return replace(order_for(NEW, tmp_path), room_bytes=2)


def _too_large(tmp_path: Path) -> Order:
    return order_for(NEW, tmp_path, bytes_max=2)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_two_artifacts, Reason.MANIFEST_INVALID),
        (_changed_on_disk, Reason.DIGEST_MISMATCH),
        (_longer_on_disk, Reason.DIGEST_MISMATCH),
        (_gone, Reason.INSTALLER_FAILED),
        (_no_archive, Reason.INSTALLER_FAILED),
        (_leads_out, Reason.INSTALLER_FAILED),
        (_too_large, Reason.TOO_LARGE),
        (_no_room, Reason.NO_SPACE),
    ],
)
def test_what_cannot_be_staged_leaves_nothing_behind(
    installer: DirectoryInstaller,
    tmp_path: Path,
    make: Callable[[Path], Order],
    reason: Reason,
) -> None:
    old = put(installer, OLD, tmp_path)

    with pytest.raises(InstallerError) as failed:
        installer.stage(make(tmp_path))

    assert failed.value.reason == reason
    assert failed.value.detail
    assert trees(tmp_path) == {old.hex()}
    assert installer.running() == old


def test_a_full_disk_is_said_and_leaves_nothing_behind(
    installer: DirectoryInstaller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put(installer, OLD, tmp_path)
    order = order_for(release({"big": bytes(500_000)}), tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(directory, "fsync_tree", full)
    with pytest.raises(InstallerError) as failed:
        installer.stage(order)

    assert failed.value.reason == Reason.NO_SPACE
    assert trees(tmp_path) == {old.hex()}


def test_a_file_longer_than_the_system_lets_it_be_is_a_failure_and_not_a_crash(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    order = order_for(release({"big": bytes(900_000)}), tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(InstallerError):
            installer.stage(order)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert trees(tmp_path) == set()


def test_staging_begins_anew_over_what_a_crash_left(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    order = order_for(NEW, tmp_path)
    partial = installer.folder(order.digest).with_name(f"{order.digest.hex()}.partial")
    (partial / "bin").mkdir(parents=True)
    (partial / "left-over").write_text("x")

    installer.stage(order)

    found = installer.folder(order.digest)
    assert {path.name for path in found.iterdir()} == {"VERSION", "bin"}


def test_a_link_that_a_crash_left_does_not_stop_the_switch(
    installer: DirectoryInstaller, tmp_path: Path
) -> None:
    put(installer, OLD, tmp_path)
    (tmp_path / "opt/fieldfare/lamp/current.next").symlink_to("nowhere")

    new = put(installer, NEW, tmp_path)

    assert installer.running() == new


class Died(BaseException):
    """Stands for a power cut: nothing catches it, nothing is tidied up."""


def durable_steps(monkeypatch: pytest.MonkeyPatch, die_at: int) -> list[str]:
    """Die at the chosen one of the steps by which the installer changes the disk."""
    done: list[str] = []

    def around(name: str) -> None:
        real = getattr(directory, name)

        def step(*args: object) -> object:
            done.append(name)
            if len(done) == die_at:
                raise Died
            return real(*args)

        monkeypatch.setattr(directory, name, step)

    for name in ("fsync", "remove", "verify", "_unpack", "fsync_tree"):
        around(name)
    return done


@pytest.mark.parametrize("die_at", range(1, 30))
def test_dying_at_any_step_and_repeating_the_call_ends_as_if_it_was_called_once(
    installer: DirectoryInstaller,
    tmp_path: Path,
    die_at: int,
) -> None:
    put(installer, OLD, tmp_path)
    order = order_for(NEW, tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: installer.stage(order),
        lambda: installer.activate(order.digest),
        lambda: installer.roll_back(order.digest),
        lambda: installer.activate(order.digest),
        installer.clean_up,
    ]
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        durable_steps(patch, die_at)
        for call in calls:
            try:
                call()
            except Died:
                call()
            seen.append(version_of(tmp_path))

    assert seen == ["1", "2", "1", "2", "2"]
    assert (installer.folder(order.digest) / "bin/run").read_bytes() == b"go"
    assert not list((tmp_path / "opt/fieldfare/lamp").rglob("*.partial"))
