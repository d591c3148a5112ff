"""Real packages, installed by the real dpkg below a root of their own."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_hooks.contract import InstallerError, Order, RetryLater
from firmware_hooks.deb import DebInstaller
from sync.stages import Reason
from tests.firmware_hooks import debs
from tests.firmware_hooks.releases import put

pytestmark = debs.needs_dpkg


class Device:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = debs.make_root(folder / "root")
        self.said: list[str] = []

    def installer(self, **options: str | float) -> DebInstaller:
        made = DebInstaller("lamp", self.folder / "install", debs.options(self.root, **options))
        made.on_progress = self.said.append
        return made

    def lamp(self, version: str, **scripts: str) -> Path:
        return debs.build(self.folder, "lamp", version, scripts=scripts)

    def order(self, version: str, *packages: Path, **parameters: str | bool) -> Order:
        return debs.order_of(
            self.folder, version, *(packages or (self.lamp(version),)), **parameters
        )

    def dpkg(self, *words: str) -> None:
        """Do by hand what the installer does not do."""
        subprocess.run(
            ["dpkg", f"--root={self.root}", *debs.DPKG_OPTIONS.split(), *words],
            check=True,
            capture_output=True,
        )

    def has(self) -> dict[str, str]:
        return debs.installed(self.root)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only dpkg and what it needs be found: no dpkg-repack."""
    programs = tmp_path / "bin"
    programs.mkdir()
    names = ("dpkg", "dpkg-deb", "dpkg-query", "dpkg-split", "sh", "rm", "tar", "diff")
    for name in (*names, "ldconfig", "start-stop-daemon"):
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert found is not None
        (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))


def test_all_packages_of_a_release_are_installed_and_the_old_ones_come_back(
    device: Device,
) -> None:
    first = put(
        device.installer(),
        device.order("1", device.lamp("1.0"), debs.build(device.folder, "lib-lamp", "1.0")),
    )
    new = device.order("2", device.lamp("2.0"), debs.build(device.folder, "lib-lamp", "2.0"))

    device.installer().stage(new)
    assert device.has() == {"lamp": "1.0", "lib-lamp": "1.0"}
    device.installer().activate(new.digest)
    assert device.has() == {"lamp": "2.0", "lib-lamp": "2.0"}
    assert any("Setting up lamp (2.0)" in line for line in device.said)

    assert device.installer().roll_back(new.digest) == first
    assert device.has() == {"lamp": "1.0", "lib-lamp": "1.0"}
    assert (device.root / "opt/lamp").read_text() == "1.0"


def test_packages_that_need_each_other_are_installed_together(device: Device) -> None:
    lamp = debs.build(device.folder, "lamp", "1", fields={"Depends": "lib-lamp (= 1)"})
    library = debs.build(device.folder, "lib-lamp", "1", fields={"Depends": "lamp (= 1)"})

    put(device.installer(), device.order("1", lamp, library))

    assert device.has() == {"lamp": "1", "lib-lamp": "1"}


def test_the_same_version_built_anew_replaces_what_is_there_and_comes_back(device: Device) -> None:
    old = debs.build(device.folder, "lamp", "1", files={"opt/lamp": "first build"})
    put(device.installer(), device.order("1", old))
    anew = debs.build(device.folder, "lamp", "1", files={"opt/lamp": "second build"})
    new = device.order("2", anew)

    device.installer().stage(new)
    device.installer().activate(new.digest)
    assert (device.root / "opt/lamp").read_text() == "second build"
    device.installer().roll_back(new.digest)

    assert (device.root / "opt/lamp").read_text() == "first build"


def test_a_configuration_file_that_was_edited_stays_and_nobody_is_asked(device: Device) -> None:
    def lamp(version: str) -> Path:
        return debs.build(
            device.folder,
            "lamp",
            version,
            files={"etc/lamp.conf": version},
            conffiles=("/etc/lamp.conf",),
        )

    put(device.installer(), device.order("1", lamp("1")))
    (device.root / "etc/lamp.conf").write_text("edited")
    put(device.installer(), device.order("2", lamp("2")))

    assert device.has() == {"lamp": "2"}
    assert (device.root / "etc/lamp.conf").read_text() == "edited"


def test_a_package_that_a_release_holds_no_more_is_removed(device: Device) -> None:
    extra = debs.build(device.folder, "extra", "1")
    first = put(device.installer(), device.order("1", device.lamp("1"), extra))
    new = device.order("2")
    put(device.installer(), new)
    assert device.has() == {"lamp": "2"}

    assert device.installer().roll_back(new.digest) == first
    assert device.has() == {"extra": "1", "lamp": "1"}


# ------------------------------------------------------------------------- the way back


@debs.needs_repack
def test_what_the_factory_installed_is_repacked_before_it_is_replaced_and_comes_back(
    device: Device,
) -> None:
    device.dpkg("--install", str(device.lamp("0.9")))
    order = device.order("1")
    device.installer().stage(order)
    assert device.has() == {"lamp": "0.9"}
    device.installer().activate(order.digest)
    assert device.has() == {"lamp": "1"}

    assert device.installer().roll_back(order.digest) is None
    assert device.has() == {"lamp": "0.9"}
    assert (device.root / "opt/lamp").read_text() == "0.9"


@pytest.mark.usefixtures("bare_path")
def test_without_a_way_back_a_release_is_refused_before_anything_is_touched(
    device: Device,
) -> None:
    device.dpkg("--install", str(device.lamp("0.9")))

    with pytest.raises(InstallerError) as refused:
        device.installer().stage(device.order("1"))

    assert refused.value.reason == Reason.REQUIREMENT_UNMET
    assert "lamp 0.9" in refused.value.detail
    assert "without_way_back" in refused.value.detail
    assert device.has() == {"lamp": "0.9"}
    assert not list((device.folder / "install").rglob("*.deb"))


@pytest.mark.usefixtures("bare_path")
def test_a_release_that_says_so_goes_on_without_a_way_back_and_tells_that_there_is_none(
    device: Device,
) -> None:
    device.dpkg("--install", str(device.lamp("0.9")))
    order = device.order("1", without_way_back=True)
    device.installer().stage(order)
    device.installer().activate(order.digest)
    assert device.has() == {"lamp": "1"}

    with pytest.raises(InstallerError) as failed:
        device.installer().roll_back(order.digest)

    assert failed.value.reason == Reason.ROLLBACK_FAILED
    assert device.has() == {"lamp": "1"}


@pytest.mark.usefixtures("bare_path")
def test_what_apt_still_has_in_its_cache_is_a_way_back(device: Device) -> None:
    factory = device.lamp("1:0.9")
    device.dpkg("--install", str(factory))
    archives = device.root / "var/cache/apt/archives"
    archives.mkdir(parents=True)
    shutil.copy(factory, archives / "lamp_1%3a0.9_all.deb")
    order = device.order("2", device.lamp("1:2"))

    device.installer().stage(order)
    shutil.rmtree(archives)
    device.installer().activate(order.digest)
    device.installer().roll_back(order.digest)

    assert device.has() == {"lamp": "1:0.9"}


@pytest.mark.usefixtures("bare_path")
def test_what_lies_in_apts_cache_under_a_false_name_is_none(device: Device) -> None:
    device.dpkg("--install", str(device.lamp("0.9")))
    archives = device.root / "var/cache/apt/archives"
    archives.mkdir(parents=True)
    shutil.copy(device.lamp("0.8"), archives / "lamp_0.9_all.deb")
    (archives / "lamp_0.9_amd64.deb").write_bytes(b"rubbish")

    with pytest.raises(InstallerError) as refused:
        device.installer().stage(device.order("1"))

    assert refused.value.reason == Reason.REQUIREMENT_UNMET


@debs.needs_repack
def test_a_package_that_somebody_upgraded_by_hand_runs_no_more_and_is_put_right(
    device: Device,
) -> None:
    order = device.order("1")
    old = put(device.installer(), order)
    device.dpkg("--install", str(device.lamp("7")))
    assert device.installer().running() is None
    with pytest.raises(InstallerError) as failed:
        device.installer().check_trial(old)
    assert "lamp is 7 (installed) instead of 1" in failed.value.detail

    put(device.installer(), order)

    assert device.has() == {"lamp": "1"}
    assert device.installer().running() == old


# ------------------------------------------------------------------- what goes wrong in dpkg


@pytest.mark.parametrize("script", ["preinst", "postinst"])
def test_a_maintainer_script_that_fails_ends_the_install_and_the_old_release_comes_back(
    script: str, device: Device
) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2", device.lamp("2", **{script: "echo the lamp is stuck >&2; exit 1"}))
    device.installer().stage(new)

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(new.digest)

    assert failed.value.reason == Reason.INSTALLER_FAILED
    assert failed.value.detail.startswith("dpkg --install ended with 1")
    assert "script subprocess returned error exit status 1" in failed.value.detail
    assert "the lamp is stuck" in failed.value.detail
    assert device.installer().running() is None
    assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"lamp": "1"}
    assert device.installer().running() == old


def test_a_first_release_whose_script_fails_leaves_nothing_installed(device: Device) -> None:
    new = device.order("1", device.lamp("1", postinst="exit 1"))
    device.installer().stage(new)
    with pytest.raises(InstallerError):
        device.installer().activate(new.digest)
    assert device.has() == {"lamp": "1 half-configured"}

    assert device.installer().roll_back(new.digest) is None

    assert device.has() == {}


@pytest.mark.parametrize("script", ["preinst", "postinst"])
def test_a_maintainer_script_that_hangs_is_ended_and_the_old_release_comes_back(
    script: str, device: Device
) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2", device.lamp("2", **{script: "trap '' TERM; sleep 600"}))
    device.installer().stage(new)

    with pytest.raises(InstallerError) as failed:
        device.installer(timeout_s=1.0).activate(new.digest)

    assert failed.value.reason == Reason.HOOK_TIMED_OUT
    assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"lamp": "1"}


def test_a_maintainer_script_that_floods_its_output_changes_nothing(device: Device) -> None:
    flood = "head -c 30000000 /dev/zero | tr '\\0' x; head -c 30000000 /dev/zero >&2"

    put(device.installer(), device.order("1", device.lamp("1", postinst=flood)))

    assert device.has() == {"lamp": "1"}
    assert sum(map(len, device.said)) < 100_000


def test_a_package_whose_dependency_is_not_here_fails_and_the_old_release_comes_back(
    device: Device,
) -> None:
    old = put(device.installer(), device.order("1"))
    lamp = debs.build(device.folder, "lamp", "2", fields={"Depends": "never-heard-of"})
    new = device.order("2", lamp)
    device.installer().stage(new)

    with pytest.raises(InstallerError):
        device.installer().activate(new.digest)

    assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"lamp": "1"}


# ---------------------------------------------------------------------------------- deaths

ONCE = 'test -e "{flag}" || {{ touch "{flag}"; {act}; }}'


@pytest.mark.parametrize("script", ["preinst", "postinst", "postrm"])
@pytest.mark.parametrize("next_call", ["activate", "roll_back"])
def test_a_dpkg_that_is_killed_in_the_middle_is_repaired_by_the_next_call(
    script: str, next_call: str, device: Device
) -> None:
    """The maintainer script kills the dpkg that runs it, once: a real SIGKILL, halfway."""
    kill = ONCE.format(flag=device.folder / "killed", act="kill -KILL $PPID; sleep 1")
    scripts = {script: kill}
    # Of the old package only the removal runs, of the new one only the rest.
    old = put(
        device.installer(),
        device.order("1", device.lamp("1", **(scripts if script == "postrm" else {}))),
    )
    new = device.order("2", device.lamp("2", **({} if script == "postrm" else scripts)))
    device.installer().stage(new)

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(new.digest)

    assert "was ended by signal 9" in failed.value.detail
    assert device.installer().running() is None
    if next_call == "activate":
        device.installer().activate(new.digest)
        assert device.has() == {"lamp": "2"}
        assert device.installer().running() == new.digest
    else:
        assert device.installer().roll_back(new.digest) == old
        assert device.has() == {"lamp": "1"}
        assert device.installer().running() == old


@pytest.mark.parametrize("next_call", ["activate", "roll_back"])
def test_an_agent_that_is_killed_together_with_its_dpkg_goes_on_where_it_was(
    next_call: str, device: Device
) -> None:
    old = put(device.installer(), device.order("1"))
    act = f'kill -KILL $PPID "$(cat {device.folder}/agent)"; sleep 1'
    kill = ONCE.format(flag=device.folder / "killed", act=act)
    new = device.order("2", device.lamp("2", postinst=kill))
    device.installer().stage(new)
    child = os.fork()
    if child == 0:
        (device.folder / "agent").write_text(str(os.getpid()))
        device.installer().activate(new.digest)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == 9
    assert device.installer().running() is None

    if next_call == "activate":
        device.installer().activate(new.digest)
        assert device.installer().running() == new.digest
    else:
        assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"lamp": "2" if next_call == "activate" else "1"}


def test_a_dpkg_that_outlives_its_agent_is_waited_for(device: Device) -> None:
    """Its script waits until the next call has begun; then both bring the same about."""
    put(device.installer(), device.order("1"))
    go = device.folder / "go"
    os.mkfifo(go)
    wait = ONCE.format(
        flag=device.folder / "once", act=f'kill -KILL "$(cat {device.folder}/agent)"; read x <{go}'
    )
    new = device.order("2", device.lamp("2", postinst=wait))
    device.installer().stage(new)
    child = os.fork()
    if child == 0:
        (device.folder / "agent").write_text(str(os.getpid()))
        device.installer().activate(new.digest)
        os._exit(0)
    os.waitpid(child, 0)

    with pytest.raises(RetryLater):
        device.installer(lock_wait_s=0.1).activate(new.digest)
    assert device.installer().running() is None
    go.write_text("on\n")
    device.installer().activate(new.digest)

    assert device.has() == {"lamp": "2"}
    assert device.installer().running() == new.digest


def test_what_somebody_elses_interrupted_dpkg_left_is_finished_too(device: Device) -> None:
    flag = device.folder / "fixed"
    theirs = debs.build(device.folder, "theirs", "1", scripts={"postinst": f'test -e "{flag}"'})
    with pytest.raises(subprocess.CalledProcessError):
        device.dpkg("--install", str(theirs))
    put(device.installer(), device.order("1"))
    assert device.has() == {"lamp": "1", "theirs": "1 half-configured"}
    assert any("theirs" in line and "not ours" in line for line in device.said)

    flag.touch()
    put(device.installer(), device.order("2"))

    assert device.has() == {"lamp": "2", "theirs": "1"}


# --------------------------------------------------------------------------------- locks


@pytest.mark.parametrize("lock", ["lock", "lock-frontend"])
def test_while_somebody_else_installs_the_agent_is_asked_to_come_back_later(
    lock: str, device: Device
) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    path = device.root / "var/lib/dpkg" / lock
    with subprocess.Popen(
        [sys.executable, "-c", debs.HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RetryLater):
            device.installer(lock_wait_s=0.3).activate(new.digest)
        assert device.installer().running() == old
        other.communicate()

    device.installer().activate(new.digest)

    assert device.has() == {"lamp": "2"}


def test_a_way_back_waits_for_somebody_else_too(device: Device) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    device.installer().activate(new.digest)
    path = device.root / "var/lib/dpkg/lock-frontend"
    with subprocess.Popen(
        [sys.executable, "-c", debs.HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for _ in range(2):
            with pytest.raises(RetryLater, match="lock is taken"):
                device.installer(lock_wait_s=0.3).roll_back(new.digest)
        other.communicate()

    assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"lamp": "1"}


def test_nobody_else_can_install_while_the_agent_does(device: Device) -> None:
    holder = f"""{sys.executable} -c "
import fcntl
with open('{device.root}/var/lib/dpkg/lock-frontend', 'a') as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
" 2>{device.folder}/refused && exit 1; exit 0"""

    put(device.installer(), device.order("1", device.lamp("1", postinst=holder)))

    assert "BlockingIOError" in (device.folder / "refused").read_text()
    with (device.root / "var/lib/dpkg/lock-frontend").open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---------------------------------------------------------------------------- what is refused


def _no_package(device: Device) -> Order:
    path = device.folder / "lamp.deb"
    path.write_bytes(b"rubbish")
    return device.order("1", path)


def _twice(device: Device) -> Order:
    again = device.folder / "again.deb"
    shutil.copy(device.lamp("1"), again)
    return device.order("1", device.lamp("2"), again)


def _foreign(device: Device) -> Order:
    return device.order(
        "1", debs.build(device.folder, "lamp", "1", fields={"Architecture": "s390x"})
    )


def _unknown_parameter(device: Device) -> Order:
    return device.order("1", colour="red")


def _wrong_parameter(device: Device) -> Order:
    return device.order("1", without_way_back="yes")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_no_package, Reason.MANIFEST_INVALID),
        (_twice, Reason.MANIFEST_INVALID),
        (_foreign, Reason.INCOMPATIBLE),
        (_unknown_parameter, Reason.MANIFEST_INVALID),
        (_wrong_parameter, Reason.MANIFEST_INVALID),
    ],
)
def test_what_cannot_be_installed_is_refused_and_nothing_of_it_stays(
    make: Callable[[Device], Order], reason: Reason, device: Device
) -> None:
    old = put(device.installer(), device.order("0"))

    with pytest.raises(InstallerError) as refused:
        device.installer().stage(make(device))

    assert refused.value.reason == reason
    assert refused.value.detail
    assert device.has() == {"lamp": "0"}
    releases = device.folder / "install/lamp/releases"
    assert [path.name for path in releases.iterdir()] == [old.hex()]


FULL = """
import subprocess, sys
from pathlib import Path
from firmware_hooks.contract import InstallerError
from tests.firmware_hooks import debs
from tests.firmware_hooks.releases import put
from tests.firmware_hooks.test_deb import Device

folder = Path(sys.argv[1])
(folder / "root").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder / "root"], check=True)
device = Device(folder)
old = put(device.installer(), device.order("1"))
big = debs.build(folder, "lamp", "2", files={"opt/lamp": "x" * 3_000_000})
new = device.order("2", big)
device.installer().stage(new)
try:
    device.installer().activate(new.digest)
except InstallerError as error:
    assert error.reason == "no_space", error.detail
    assert "No space left" in error.detail, error.detail
else:
    raise AssertionError("it found room")
assert device.installer().roll_back(new.digest) == old
assert device.has() == {"lamp": "1"}
assert (device.root / "opt/lamp").read_text() == "1"
"""


def test_a_device_that_is_really_full_goes_back_to_the_old_packages(tmp_path: Path) -> None:
    apart = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine gives nobody a name space of their own")
    done = subprocess.run(
        [*apart, sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
