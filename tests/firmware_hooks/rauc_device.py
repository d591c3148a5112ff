"""A device that runs Debian's RAUC: its service on a bus of its own, slots in files, a real CA.

The bootloader is the simulated one that answers RAUC's custom bootloader backend.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.rauc import Rauc, RaucInstaller
from sync.manifest import Artifact, Health, Manifest
from tests.fakes.firmware import CustomBoard
from tests.fakes.write_log import PATH, run
from tests.firmware_hooks.slots import FACTORY, SLOT_BYTES, image

START_S = 20.0

BUS = """<busconfig><type>system</type><listen>unix:path={folder}/bus</listen>
<auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/>
</policy></busconfig>"""

SYSTEM = """[system]
compatible=lamp
bootloader=custom
mountprefix={folder}/mnt
statusfile={folder}/status
activate-installed={activates}
[keyring]
path={authority}/ca.pem
[handlers]
bootloader-custom-backend={folder}/bootloader
[slot.rootfs.0]
device={folder}/slot_a
type=raw
bootname=A
[slot.rootfs.1]
device={folder}/slot_b
type=raw
bootname=B
"""

MANIFEST = """[update]
compatible={compatible}
version={version}
[bundle]
format=plain
[image.rootfs]
filename=root.img
"""


def require_rauc() -> None:
    for program, package in (
        ("rauc", "rauc and rauc-service"),
        ("dbus-daemon", "dbus-daemon"),
        ("mksquashfs", "squashfs-tools"),
        ("openssl", "openssl"),
    ):
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"{program} is not installed (Debian package {package})")
    if os.geteuid() != 0:
        pytest.skip("RAUC mounts bundles, which only root can")
    if "squashfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no squashfs, in which RAUC's bundles come")


def make_authority(folder: Path) -> Path:
    """Make a CA that signs bundles; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ca.pem").exists():
        run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"),
            *("-subj", "/CN=test", "-keyout", folder / "ca.key", "-out", folder / "ca.pem"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
        )
    return folder


def make_bundle(authority: Path, version: str, compatible: str = "lamp") -> bytes:
    """Return a bundle of RAUC's own making."""
    bundle = authority / f"{compatible}-{version}.raucb"
    if not bundle.exists():
        tree = authority / f"tree-{version}"
        tree.mkdir(exist_ok=True)
        (tree / "root.img").write_bytes(image(version))
        (tree / "manifest.raucm").write_text(
            MANIFEST.format(version=version, compatible=compatible)
        )
        key, cert = authority / "ca.key", authority / "ca.pem"
        run(
            *("rauc", "bundle", f"--cert={cert}", f"--key={key}", f"--keyring={cert}"),
            *(tree, bundle),
        )
    return bundle.read_bytes()


def order(folder: Path, content: bytes, version: str = "2") -> Order:
    path = folder / f"bundle-{version}"
    path.write_bytes(content)
    artifact = Artifact(
        name="system.raucb", sha256=hashlib.sha256(content).hexdigest(), length_bytes=len(content)
    )
    manifest = Manifest(
        component="lamp",
        version=version,
        installer="rauc",
        artifacts=(artifact,),
        health=Health(command=("true",)),
    )
    return Order(manifest, manifest.digest(), {artifact.name: path}, 10_000_000)


class RaucDevice:
    """One device; `stop` ends what runs for it."""

    def __init__(self, folder: Path, authority: Path, *, activates: bool = False) -> None:
        self.folder = folder
        for name in ("slot_a", "slot_b"):
            (folder / name).write_bytes(FACTORY.ljust(SLOT_BYTES, b"\xaa"))
        self.board = CustomBoard(folder)
        (folder / "bus.conf").write_text(BUS.format(folder=folder))
        (folder / "system.conf").write_text(
            SYSTEM.format(folder=folder, authority=authority, activates=str(activates).lower())
        )
        self._bus = subprocess.Popen(
            ["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--print-address"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._bus.stdout is not None
        assert self._bus.stdout.readline()
        self._service = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        current = (self.folder / "current").read_text().strip()
        with (self.folder / "rauc.log").open("ab") as log:
            service = subprocess.Popen(
                [
                    "rauc",
                    f"--conf={self.folder}/system.conf",
                    "service",
                    f"--override-boot-slot={current}",
                ],
                env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address},
                stdout=log,
                stderr=log,
            )
        rauc = Rauc(self.address)
        end = time.monotonic() + START_S
        while True:
            try:
                assert rauc.current() == current
            except InstallerError:
                assert time.monotonic() < end, (self.folder / "rauc.log").read_text()
                time.sleep(0.02)
            else:
                return service

    @property
    def address(self) -> str:
        return f"unix:path={self.folder}/bus"

    def installer(self) -> RaucInstaller:
        options = {"bus": self.address, "proc": str(self.folder / "proc")}
        return RaucInstaller("lamp", self.folder / "install", options)

    def boot(self) -> str:
        """Restart; RAUC's service learns what was booted."""
        self._end(self._service)
        slot = self.board.boot()
        self._service = self._start()
        return slot

    def kill_service(self) -> None:
        """End RAUC's service in whatever it does; its next start is the next boot."""
        self._service.kill()
        self._service.wait(START_S)
        self._unmount()

    def runs(self) -> bytes:
        """Return what lies in the slot that was booted."""
        current = (self.folder / "current").read_text().strip()
        return (self.folder / {"A": "slot_a", "B": "slot_b"}[current]).read_bytes()

    def stop(self) -> None:
        self._end(self._service)
        self._end(self._bus)
        if self._bus.stdout is not None:
            self._bus.stdout.close()
        self._unmount()

    def _unmount(self) -> None:
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.folder}/"):
                run("umount", line.split()[1])

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)
