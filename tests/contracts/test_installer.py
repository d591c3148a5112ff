"""Every installer of this project keeps the contract that ships in the package."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

import pytest

from firmware_hooks.conformance import InstallerConformance
from firmware_hooks.container import ContainerInstaller
from firmware_hooks.contract import ENTRY_POINTS, Installer, Order
from firmware_hooks.deb import DebInstaller
from firmware_hooks.directory import DirectoryInstaller
from firmware_hooks.file import FileInstaller
from firmware_hooks.mcu import McuInstaller
from firmware_hooks.mender import ledger
from firmware_hooks.mender_module import MenderModuleInstaller
from firmware_hooks.program import ProgramInstaller
from firmware_hooks.sm_plugin import SmPluginInstaller
from tests.contracts import test_compose
from tests.fakes.firmware import BOARDS
from tests.firmware_hooks import debs, plugins, slots
from tests.firmware_hooks import rauc_device as rauc
from tests.firmware_hooks import swupdate_device as swupdate
from tests.firmware_hooks.mender import MODULE, SLOTS, device, mender_order
from tests.firmware_hooks.podman import Podman, podman
from tests.firmware_hooks.releases import order_of
from tests.firmware_hooks.trees import release


def every(usual: int) -> int:
    """Return at which steps a call is killed: at each in the long run, else at one of so many."""
    return 1 if os.environ.get("FIELDFARE_SOAK") else usual


@debs.needs_dpkg
class TestDeb(InstallerConformance):
    """Real packages and a real dpkg, below a root of their own."""

    kill_stride = every(9)

    def prepare_device(self, folder: Path) -> None:
        debs.make_root(folder / "root")

    def make_installer(self, folder: Path) -> Installer:
        options = {**debs.options(folder / "root"), "lock_wait_s": 0.3}
        return DebInstaller(self.component, folder / "install", options)

    @contextlib.contextmanager
    def busy(self, folder: Path) -> Iterator[None]:
        """Let another program hold dpkg's lock."""
        lock = folder / "root/var/lib/dpkg/lock-frontend"
        command = [sys.executable, "-c", debs.HOLD, str(lock)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            try:
                yield
            finally:
                other.communicate()

    def make_order(self, folder: Path, version: str) -> Order:
        lamp = debs.build(folder, "lamp", version)
        extra = debs.build(folder, f"extra-{version}", "1")
        return debs.order_of(folder, version, lamp, extra)

    def assert_runs(self, folder: Path, version: str | None) -> None:
        expected = {"lamp": version, f"extra-{version}": "1"} if version else {}
        assert debs.installed(folder / "root") == expected
        assert not version or (folder / "root/opt/lamp").read_text() == version


class TestContainer(InstallerConformance):
    """Real containers of the real podman."""

    kill_stride = every(40)
    keeps_apart = True

    podman: ClassVar[Podman]
    images: ClassVar[dict[str, bytes]]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _start(cls) -> Iterator[None]:
        with podman() as cls.podman:
            cls.images = {}
            yield

    def clear_device(self, folder: Path) -> None:
        self.podman.clear()

    def make_installer(self, folder: Path) -> Installer:
        return ContainerInstaller(self.component, folder / "install", self.podman.options())

    def make_order(self, folder: Path, version: str) -> Order:
        if version not in self.images:
            archive = self.podman.image(version, folder / f"image-{version}.tar")
            self.images[version] = archive.read_bytes()
        return order_of(folder, version, {"image": self.images[version]}, installer="container")

    def assert_runs(self, folder: Path, version: str | None) -> None:
        assert self.podman.shows() == version


class TestDirectory(InstallerConformance):
    keeps_apart = True

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


class TestFile(InstallerConformance):
    """Each version has a file that the version before has not."""

    def prepare_device(self, folder: Path) -> None:
        (folder / "etc").mkdir()
        (folder / "etc/lamp.conf").write_text("from the factory")

    def make_installer(self, folder: Path) -> Installer:
        options = {"roots": f"{folder}/etc:{folder}/opt"}
        return FileInstaller(self.component, folder / "install", options)

    def make_order(self, folder: Path, version: str) -> Order:
        etc = self.home / "etc"
        return order_of(
            folder,
            version,
            {"lamp.conf": version.encode(), "extra": b"extra " + version.encode()},
            installer="file",
            parameters={
                "path.lamp.conf": f"{etc}/lamp.conf",
                "mode.lamp.conf": "0640",
                "path.extra": f"{etc}/lamp.d/extra-{version}",
            },
        )

    def assert_runs(self, folder: Path, version: str | None) -> None:
        shown = (folder / "etc/lamp.conf").read_text()
        assert shown == (version or "from the factory")
        extra = sorted(path.name for path in (folder / "etc").glob("lamp.d/*"))
        assert extra == ([f"extra-{version}"] if version else [])


class TestMcu(InstallerConformance):
    """`dd` stands for a flasher and a file for the chip; test_mcu.py has a real flasher."""

    kill_stride = every(6)

    def prepare_device(self, folder: Path) -> None:
        (folder / "chip").write_bytes(b"from the factory".ljust(1000, b"\xff"))

    def make_installer(self, folder: Path) -> Installer:
        chip = folder / "chip"
        options = {
            "write": f"dd if={{image}} of={chip} conv=notrunc,fsync status=none",
            "read": f"dd if={chip} of={{image}} status=none",
            "identify": f"head -n 1 {chip}",
        }
        return McuInstaller(self.component, folder / "install", options)

    def make_order(self, folder: Path, version: str) -> Order:
        image = f"runs {version}.0\n".encode().ljust(100, b"x")
        return order_of(folder, version, {"image": image}, installer="mcu")

    def assert_runs(self, folder: Path, version: str | None) -> None:
        shown = (folder / "chip").read_bytes()
        assert shown.startswith(b"from the" if version is None else f"runs {version}.0".encode())
        assert len(shown) == 1000


class TestProgram(InstallerConformance):
    """The program is a shell script that copies an image to where the device looks for it."""

    kill_stride = every(3)

    def prepare_device(self, folder: Path) -> None:
        program = folder / "flash"
        program.write_text(
            f"""#!/bin/sh
            set -eu
            sign={folder}/sign
            case "$1" in
            activate) cp "$FIELDFARE_ARTIFACTS_DIR/image" "$sign.new"; mv "$sign.new" "$sign" ;;
            roll-back)
                if [ -z "$FIELDFARE_OTHER_DIGEST" ]; then rm -f "$sign"; exit 0; fi
                cp "$FIELDFARE_OTHER_ARTIFACTS_DIR/image" "$sign.new"; mv "$sign.new" "$sign" ;;
            check-trial) cmp "$FIELDFARE_ARTIFACTS_DIR/image" "$sign" ;;
            esac
            """
        )
        program.chmod(0o755)

    def make_installer(self, folder: Path) -> Installer:
        options = {"command": f"{folder}/flash"}
        return ProgramInstaller(self.component, folder / "install", options)

    def make_order(self, folder: Path, version: str) -> Order:
        return order_of(folder, version, {"image": version.encode()}, installer="program")

    def assert_runs(self, folder: Path, version: str | None) -> None:
        sign = folder / "sign"
        assert (sign.read_text() if sign.exists() else None) == version


class TestSmPlugin(InstallerConformance):
    """A plugin that knows only one module at a time."""

    kill_stride = every(6)

    def prepare_device(self, folder: Path) -> None:
        plugins.make_plugin(folder, "jar", has_list=False)

    def make_installer(self, folder: Path) -> Installer:
        options = {"plugins": f"{folder}/plugins"}
        return SmPluginInstaller(self.component, folder / "install", options)

    @contextlib.contextmanager
    def busy(self, folder: Path) -> Iterator[None]:
        """Let the plugin say that it wants to be called later."""
        before = '[ "$1" != prepare ] || { echo locked >&2; exit 3; }'
        plugins.make_plugin(folder, "jar", has_list=False, before=before)
        try:
            yield
        finally:
            plugins.make_plugin(folder, "jar", has_list=False)

    def make_order(self, folder: Path, version: str) -> Order:
        wanted = f"install\tlamp\t{version}\tlamp.jar\ninstall\textra-{version}\n"
        files = {"modules.tsv": wanted.encode(), "lamp.jar": version.encode()}
        if version != "1":
            files["modules.tsv"] += f"remove\textra-{int(version) - 1}\n".encode()
        return order_of(folder, version, files, installer="sm-plugin", parameters={"plugin": "jar"})

    def assert_runs(self, folder: Path, version: str | None) -> None:
        expected = {"lamp": f"{version}\n{version}", f"extra-{version}": "newest"}
        assert plugins.modules(folder) == (expected if version else {})


class TestMenderModule(InstallerConformance):
    """The module copies its file to where the device looks for it, and knows the way back."""

    kill_stride = every(4)
    lays_down = False
    returns_after_commit = False

    def prepare_device(self, folder: Path) -> None:
        device(folder, {"copy": MODULE.format(sign=folder / "sign")})

    def make_installer(self, folder: Path) -> Installer:
        options = {"modules_dir": f"{folder}/modules", "scripts_dir": f"{folder}/scripts"}
        return MenderModuleInstaller(self.component, folder / "install", options)

    def make_order(self, folder: Path, version: str) -> Order:
        return mender_order(folder, version, {"image": version.encode()}, kind="copy")

    def assert_runs(self, folder: Path, version: str | None) -> None:
        sign = folder / "sign"
        assert (sign.read_text() if sign.exists() else None) == version


class TestAbSlots(InstallerConformance):
    """With a Raspberry Pi; the others below run it with other bootloaders."""

    kill_stride = every(3)
    lays_down = False
    board: ClassVar[str] = "tryboot"
    packed_by: ClassVar[str] = "gz"

    def make_installer(self, folder: Path) -> Installer:
        return slots.installer(folder, self.board)

    def make_order(self, folder: Path, version: str) -> Order:
        return slots.order(folder, slots.image(version), version, self.packed_by)

    def prepare_device(self, folder: Path) -> None:
        slots.make_device(folder, self.board)

    def reboot(self, folder: Path, given: tuple[str, ...]) -> None:
        BOARDS[self.board](folder).boot(*given)

    def fall_back(self, folder: Path, given: tuple[str, ...]) -> None:
        BOARDS[self.board](folder).boot(*given)
        BOARDS[self.board](folder).boot()

    def assert_runs(self, folder: Path, version: str | None) -> None:
        expected = slots.FACTORY if version is None else slots.image(version)
        assert slots.booted(folder, self.board)[: len(expected)] == expected


class TestAbSlotsOfUBoot(TestAbSlots):
    board = "uboot"
    packed_by = "zst"
    kill_stride = every(9)


class TestAbSlotsOfCustom(TestAbSlots):
    board = "custom"
    packed_by = "raw"
    kill_stride = every(9)


class TestRauc(InstallerConformance):
    """With RAUC's own service."""

    kill_stride = every(3)
    lays_down = False

    @pytest.fixture(autouse=True)
    def _devices(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        rauc.require_rauc()
        self.authority = rauc.make_authority(tmp_path_factory.getbasetemp() / "authority")
        self.device: rauc.RaucDevice | None = None
        yield
        self.end_device()

    def end_device(self) -> None:
        if self.device is not None:
            self.device.stop()

    def make_installer(self, folder: Path) -> Installer:
        assert self.device is not None
        return self.device.installer()

    def make_order(self, folder: Path, version: str) -> Order:
        return rauc.order(folder, rauc.make_bundle(self.authority, version), version)

    def prepare_device(self, folder: Path) -> None:
        self.end_device()
        self.device = rauc.RaucDevice(folder, self.authority)

    def reboot(self, folder: Path, given: tuple[str, ...]) -> None:
        assert self.device is not None
        self.device.boot()

    def fall_back(self, folder: Path, given: tuple[str, ...]) -> None:
        for _ in range(2):
            self.reboot(folder, given)

    def assert_runs(self, folder: Path, version: str | None) -> None:
        assert self.device is not None
        expected = slots.FACTORY if version is None else slots.image(version)
        assert self.device.runs()[: len(expected)] == expected


class TestSwupdate(InstallerConformance):
    """With SWUpdate itself, which takes a second for each update."""

    kill_stride = every(15)
    lays_down = False

    @pytest.fixture(autouse=True)
    def _authority(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        swupdate.require_swupdate()
        self.authority = swupdate.make_authority(tmp_path_factory.getbasetemp() / "updates")

    def make_installer(self, folder: Path) -> Installer:
        return swupdate.installer(folder, self.authority)

    def make_order(self, folder: Path, version: str) -> Order:
        return swupdate.order(
            folder, swupdate.make_update(self.authority, self.home, version), version
        )

    def prepare_device(self, folder: Path) -> None:
        slots.make_device(folder, swupdate.BOARD)

    def reboot(self, folder: Path, given: tuple[str, ...]) -> None:
        BOARDS[swupdate.BOARD](folder).boot(*given)

    def fall_back(self, folder: Path, given: tuple[str, ...]) -> None:
        BOARDS[swupdate.BOARD](folder).boot(*given)
        BOARDS[swupdate.BOARD](folder).boot()

    def assert_runs(self, folder: Path, version: str | None) -> None:
        expected = slots.FACTORY if version is None else slots.image(version)
        assert slots.booted(folder, swupdate.BOARD)[: len(expected)] == expected


class TestMenderModuleWithSlots(InstallerConformance):
    """The module writes the slot that is not booted, which a restart tries once."""

    kill_stride = every(4)
    lays_down = False
    returns_after_commit = False

    @pytest.fixture(autouse=True)
    def _boots(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boot_id = tmp_path / "boot-id"
        self.boot_id.write_text("0")
        monkeypatch.setattr(ledger, "BOOT_ID", self.boot_id)

    def prepare_device(self, folder: Path) -> None:
        (folder / "slots").mkdir()
        for name, content in {"a": "", "b": "", "default": "a", "booted": "a"}.items():
            (folder / "slots" / name).write_text(content)
        device(folder, {"slots": SLOTS.format(slots=folder / "slots")})

    def reboot(self, folder: Path, given: tuple[str, ...]) -> None:
        slots = folder / "slots"
        chosen = slots / "once" if (slots / "once").exists() else slots / "default"
        (slots / "booted").write_text(chosen.read_text().strip())
        (slots / "once").unlink(missing_ok=True)
        self.boot_id.write_text(str(int(self.boot_id.read_text()) + 1))

    def fall_back(self, folder: Path, given: tuple[str, ...]) -> None:
        for _ in range(2):
            self.reboot(folder, given)

    def make_installer(self, folder: Path) -> Installer:
        options = {"modules_dir": f"{folder}/modules", "scripts_dir": f"{folder}/scripts"}
        return MenderModuleInstaller(self.component, folder / "install", options)

    def make_order(self, folder: Path, version: str) -> Order:
        return mender_order(folder, version, {"image": version.encode()}, kind="slots")

    def assert_runs(self, folder: Path, version: str | None) -> None:
        slots = folder / "slots"
        assert (slots / (slots / "booted").read_text().strip()).read_text() == (version or "")


def test_every_installer_that_can_be_chosen_is_held_to_the_contract() -> None:
    named = {point.value.partition(":")[2] for point in entry_points(group=ENTRY_POINTS)}
    held = {
        kind.removeprefix("Test") + "Installer"
        for kind, value in (globals() | vars(test_compose)).items()
        if isinstance(value, type) and issubclass(value, InstallerConformance)
    }
    assert named <= held
