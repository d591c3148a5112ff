import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.directory import DirectoryInstaller
from firmware_hooks.file import FileInstaller
from sync.stages import Reason
from tests.firmware_hooks.releases import Parameters, order_of, put
from tests.firmware_hooks.trees import release


class Device:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etc = folder / "etc"
        self.etc.mkdir()
        self.conf = self.etc / "lamp.conf"

    @property
    def installer(self) -> FileInstaller:
        return FileInstaller("lamp", self.folder / "install", {"roots": str(self.etc)})

    def order(
        self,
        version: str,
        files: Mapping[str, bytes] | None = None,
        **parameters: str | float | bool,
    ) -> Order:
        given: Parameters = parameters or {"path": str(self.conf)}
        files = files or {"lamp.conf": version.encode()}
        return order_of(self.folder, version, files, installer="file", parameters=given)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_file_gets_the_mode_and_owner_that_the_release_says(device: Device) -> None:
    account = pwd.getpwuid(os.geteuid())
    order = device.order("1", path=str(device.conf), mode="0640", owner=f"{account.pw_name}")

    put(device.installer, order)

    seen = device.conf.stat()
    assert stat.S_IMODE(seen.st_mode) == 0o640
    assert (seen.st_uid, seen.st_gid) == (account.pw_uid, account.pw_gid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_a_file_to_another_user_and_group_and_takes_it_back(device: Device) -> None:
    put(device.installer, device.order("1"))
    new = device.order("2", path=str(device.conf), owner="nobody:daemon")
    device.installer.stage(new)
    device.installer.activate(new.digest)
    seen = device.conf.stat()
    assert (seen.st_uid, seen.st_gid) == (pwd.getpwnam("nobody").pw_uid, 1)

    device.installer.roll_back(new.digest)
    seen = device.conf.stat()
    assert (seen.st_uid, seen.st_gid) == (0, 0)


def test_a_folder_that_is_missing_is_made_below_a_root(device: Device) -> None:
    put(device.installer, device.order("1", path=str(device.etc / "a/b/lamp.conf")))

    assert (device.etc / "a/b/lamp.conf").read_bytes() == b"1"


def test_rolling_back_the_first_release_brings_back_what_the_factory_put_there(
    device: Device,
) -> None:
    device.conf.write_bytes(b"factory")
    device.conf.chmod(0o604)
    order = device.order("1")
    device.installer.stage(order)
    device.installer.activate(order.digest)
    assert device.conf.read_bytes() == b"1"

    assert device.installer.roll_back(order.digest) is None

    assert device.conf.read_bytes() == b"factory"
    assert stat.S_IMODE(device.conf.stat().st_mode) == 0o604


def test_what_a_release_names_no_more_goes_back_to_what_lay_there_before(device: Device) -> None:
    device.conf.write_bytes(b"factory")
    put(device.installer, device.order("1"))
    put(device.installer, device.order("2", path=str(device.etc / "other.conf")))

    assert device.conf.read_bytes() == b"factory"
    assert (device.etc / "other.conf").read_bytes() == b"2"


def test_a_file_that_was_edited_while_no_release_named_it_is_what_is_brought_back(
    device: Device,
) -> None:
    device.conf.write_bytes(b"factory")
    put(device.installer, device.order("1"))
    put(device.installer, device.order("2", path=str(device.etc / "other.conf")))
    device.conf.write_bytes(b"edited")
    third = device.order("3")
    device.installer.stage(third)
    device.installer.activate(third.digest)
    assert device.conf.read_bytes() == b"3"

    device.installer.roll_back(third.digest)

    assert device.conf.read_bytes() == b"edited"


# ---------------------------------------------------------------------- changed by others


def test_a_file_that_somebody_changed_runs_no_more_and_is_not_written_over(
    device: Device,
) -> None:
    old = put(device.installer, device.order("1"))
    device.conf.write_bytes(b"edited")

    assert device.installer.running() is None
    with pytest.raises(InstallerError) as refused:
        device.installer.check_trial(old)
    assert str(device.conf) in refused.value.detail
    with pytest.raises(InstallerError) as refused:
        device.installer.stage(device.order("2"))
    assert refused.value.reason == Reason.REQUIREMENT_UNMET
    assert str(device.conf) in refused.value.detail
    assert device.conf.read_bytes() == b"edited"


def test_a_file_that_somebody_changed_after_staging_is_not_written_over_either(
    device: Device,
) -> None:
    put(device.installer, device.order("1"))
    new = device.order("2")
    device.installer.stage(new)
    device.conf.write_bytes(b"edited")

    with pytest.raises(InstallerError) as refused:
        device.installer.activate(new.digest)

    assert refused.value.reason == Reason.REQUIREMENT_UNMET
    assert device.conf.read_bytes() == b"edited"
    device.installer.roll_back(new.digest)
    assert device.conf.read_bytes() == b"edited"


def test_a_release_may_replace_what_was_changed_and_a_copy_of_it_is_kept(device: Device) -> None:
    put(device.installer, device.order("1"))
    device.conf.write_bytes(b"edited")
    new = device.order("2", path=str(device.conf), replace_changed=True)

    put(device.installer, new)

    assert device.conf.read_bytes() == b"2"
    (kept,) = (device.folder / "install/lamp/changed").iterdir()
    assert kept.read_bytes() == b"edited"


def test_a_file_that_was_taken_away_is_put_back_by_installing_the_release_again(
    device: Device,
) -> None:
    order = device.order("1")
    put(device.installer, order)
    device.conf.unlink()
    assert device.installer.running() is None

    assert put(device.installer, order) == device.installer.running()
    assert device.conf.read_bytes() == b"1"


def test_another_mode_is_a_change_too_and_is_put_right(device: Device) -> None:
    order = device.order("1")
    put(device.installer, order)
    device.conf.chmod(0o777)
    assert device.installer.running() is None

    put(device.installer, order)

    assert stat.S_IMODE(device.conf.stat().st_mode) == 0o644


def test_the_same_content_written_anew_is_no_change(device: Device) -> None:
    old = put(device.installer, device.order("1"))
    device.conf.unlink()
    device.conf.write_bytes(b"1")
    device.conf.chmod(0o644)

    assert device.installer.running() == old


# ----------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"path": "{etc}/../passwd"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}/./x"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}//x"}, Reason.MANIFEST_INVALID),
        ({"path": "etc/x"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}/x\0"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}"}, Reason.INCOMPATIBLE),
        ({"path": "{etc}-more/x"}, Reason.INCOMPATIBLE),
        ({"path": "/etc/passwd"}, Reason.INCOMPATIBLE),
        ({"mode": "0644"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}/x", "mode": "4755"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}/x", "mode": "rwx"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}/x", "mode": "-1"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}/x", "owner": "nobody-of-that-name"}, Reason.REQUIREMENT_UNMET),
        ({"path": "{etc}/x", "owner": "root:no-such-group"}, Reason.REQUIREMENT_UNMET),
        ({"path": "{etc}/x", "colour": "red"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}/x", "replace_changed": "yes"}, Reason.MANIFEST_INVALID),
        ({"path": "{etc}/folder"}, Reason.INCOMPATIBLE),
        ({"path": "{etc}/link"}, Reason.INCOMPATIBLE),
        ({"path": "{etc}/dangling"}, Reason.INCOMPATIBLE),
        ({"path": "{etc}/pipe"}, Reason.INCOMPATIBLE),
        ({"path": "{etc}/outside/x"}, Reason.INCOMPATIBLE),
        ({"path": "{etc}/plain/x"}, Reason.INCOMPATIBLE),
    ],
)
def test_what_a_device_does_not_allow_is_refused_and_nothing_of_it_stays(
    parameters: dict[str, str | bool], reason: Reason, device: Device
) -> None:
    (device.etc / "folder").mkdir()
    (device.etc / "plain").write_text("x")
    (device.etc / "link").symlink_to("plain")
    (device.etc / "dangling").symlink_to("nowhere")
    (device.folder / "elsewhere").mkdir()
    (device.etc / "outside").symlink_to(device.folder / "elsewhere")
    os.mkfifo(device.etc / "pipe")
    given = {
        name: value.replace("{etc}", str(device.etc)) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
    before = sorted(device.etc.rglob("*"))

    with pytest.raises(InstallerError) as refused:
        device.installer.stage(device.order("1", None, **given))

    assert refused.value.reason == reason
    assert refused.value.detail
    assert sorted(device.etc.rglob("*")) == before
    assert not list((device.folder / "install").rglob("*.conf"))


def test_without_roots_nothing_may_be_installed(device: Device) -> None:
    with pytest.raises(InstallerError) as refused:
        FileInstaller("lamp", device.folder / "install").stage(device.order("1"))

    assert refused.value.reason == Reason.INCOMPATIBLE
    assert "roots" in refused.value.detail


def test_an_option_that_there_is_not_is_said_to_the_owner_of_the_device(tmp_path: Path) -> None:
    with pytest.raises(InstallerError) as refused:
        FileInstaller("lamp", tmp_path, {"root": "/etc"})

    assert "'root'" in refused.value.detail


def test_two_artifacts_with_one_path_are_refused(device: Device) -> None:
    order = device.order(
        "1",
        {"a": b"a", "b": b"b"},
        **{"path.a": str(device.conf), "path.b": str(device.conf)},
    )
    with pytest.raises(InstallerError) as refused:
        device.installer.stage(order)
    assert refused.value.reason == Reason.MANIFEST_INVALID


def test_a_folder_that_became_a_link_after_staging_is_not_walked_through(device: Device) -> None:
    (device.etc / "lamp.d").mkdir()
    elsewhere = device.folder / "elsewhere"
    elsewhere.mkdir()
    order = device.order("1", path=str(device.etc / "lamp.d/x"))
    device.installer.stage(order)
    (device.etc / "lamp.d").rmdir()
    (device.etc / "lamp.d").symlink_to(elsewhere)

    with pytest.raises(InstallerError):
        device.installer.activate(order.digest)

    assert list(elsewhere.iterdir()) == []
    assert device.installer.running() is None


def test_a_component_that_another_installer_keeps_is_left_to_it(device: Device) -> None:
    manifest, tree = release({"VERSION": b"1"})
    path = device.folder / "tree"
    path.write_bytes(tree)
    others = DirectoryInstaller("lamp", device.folder / "install")
    put(others, Order(manifest, manifest.digest(), {"tree.tar": path}, 10**6))

    with pytest.raises(InstallerError) as refused:
        device.installer.stage(device.order("2"))

    assert refused.value.reason == Reason.INCOMPATIBLE
    assert others.running() == manifest.digest()


def test_a_state_file_that_cannot_be_read_is_said_and_not_written_over(device: Device) -> None:
    put(device.installer, device.order("1"))
    switch = device.folder / "install/lamp/switch.json"
    switch.write_text("{}")

    assert device.installer.running() is None
    acts: list[Callable[[], object]] = [
        lambda: device.installer.stage(device.order("2")),
        lambda: device.installer.roll_back(device.order("1").digest),
        device.installer.clean_up,
    ]
    for act in acts:
        with pytest.raises(InstallerError) as refused:
            act()
        assert refused.value.reason == Reason.INCONSISTENT
    assert switch.read_text() == "{}"
    assert device.conf.read_bytes() == b"1"


# --------------------------------------------------------------------------- what goes wrong


def test_a_stuck_install_is_left_behind_by_the_next_release(device: Device) -> None:
    """Version 2 took a path that cannot be given back; version 3 puts everything right."""
    put(device.installer, device.order("1"))
    blocked = device.etc / "d"
    second = device.order(
        "2",
        {"a": b"a", "b": b"b"},
        **{"path.a": str(device.conf), "path.b": str(blocked / "b")},
    )
    device.installer.stage(second)
    device.installer.activate(second.digest)
    blocked.rename(device.etc / "aside")
    blocked.symlink_to("aside")
    with pytest.raises(InstallerError):
        device.installer.roll_back(second.digest)
    assert device.installer.running() is None

    blocked.unlink()
    (device.etc / "aside").rename(blocked)
    third = put(device.installer, device.order("3"))

    assert device.installer.running() == third
    assert device.conf.read_bytes() == b"3"
    assert not (blocked / "b").exists()


FULL = """
import subprocess, sys
from pathlib import Path
from firmware_hooks.contract import InstallerError
from tests.firmware_hooks.releases import put
from tests.firmware_hooks.test_file import Device

folder = Path(sys.argv[1])
device = Device(folder)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", device.etc], check=True)
old = put(device.installer, device.order("1"))
new = device.order("2", {"lamp.conf": b"2" * 300_000})
device.installer.stage(new)
try:
    device.installer.activate(new.digest)
except InstallerError as error:
    assert error.reason == "no_space", error.reason
else:
    raise AssertionError("it found room")
assert device.conf.read_bytes() == b"1"
assert device.installer.roll_back(new.digest) == old
assert device.installer.running() == old
assert [path.name for path in device.etc.iterdir()] == ["lamp.conf"]
"""


READ_ONLY = """
import subprocess, sys
from pathlib import Path
from firmware_hooks.contract import InstallerError
from tests.firmware_hooks.releases import put
from tests.firmware_hooks.test_file import Device

device = Device(Path(sys.argv[1]))
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", device.etc], check=True)
old = put(device.installer, device.order("1"))
new = device.order("2")
device.installer.stage(new)
subprocess.run(["mount", "-o", "remount,ro", device.etc], check=True)
try:
    device.installer.activate(new.digest)
except InstallerError as error:
    assert "Read-only file system" in error.detail, error.detail
else:
    raise AssertionError("it was written")
assert device.conf.read_bytes() == b"1"
try:
    device.installer.roll_back(new.digest)
except InstallerError as error:
    assert error.reason == "rollback_failed", error.reason
else:
    raise AssertionError("it was written")
subprocess.run(["mount", "-o", "remount,rw", device.etc], check=True)
assert device.installer.roll_back(new.digest) == old
assert device.installer.running() == old
"""


@pytest.mark.parametrize("script", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_a_target_that_takes_nothing_leaves_the_old_file_and_can_be_rolled_back(
    script: str, tmp_path: Path
) -> None:
    apart = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine gives nobody a name space of their own")
    done = subprocess.run(
        [*apart, sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
