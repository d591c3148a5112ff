"""What tests on emulated devices share: the image that they start from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "sfdisk": "fdisk",
    "mkfs.ext4": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "grub-mkimage": "grub-common",
    "grub-fstest": "grub-common",
    "socat": "socat",
}
"""What emulation takes, and the Debian package that has it; grub-pc-bin has no program."""

SEARCHED = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder with the emulated device's system; the first time that takes minutes."""
    missing = {
        package for name, package in PROGRAMS.items() if not shutil.which(name, path=SEARCHED)
    }
    if not Path("/usr/lib/grub/i386-pc/boot.img").exists():
        missing.add("grub-pc-bin")
    if missing:
        pytest.skip(f"to emulate a device, install {' '.join(sorted(missing))}")
    if os.geteuid() != 0:
        pytest.skip("to make the image of an emulated device takes root")
    made = tmp_path_factory.mktemp("system")
    script = Path(__file__).with_name("images") / "system.sh"
    ended = subprocess.run(
        [script, made],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return made
