"""A real podman with everything of it in one folder, and images for it.

podman refuses to run containers where cgroup v1 and v2 are both mounted, as some machines have it,
so it runs in a mount name space without the second.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from firmware_hooks.contract import Options

APART = "umount /sys/fs/cgroup/unified 2>/dev/null; echo ready; exec cat"
NETS = "/etc/cni/net.d /var/lib/cni /etc/containers/networks"
ALONE = f"""ip link set lo up
for each in {NETS}; do [ ! -d $each ] || mount -t tmpfs tmpfs $each; done
{APART}"""
"""The same with networks of its own, which nobody else sees."""
RUN_OPTIONS = "--network=none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
LOOP = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


class Podman:
    """podman below a folder."""

    def __init__(self, space: int, folder: Path, spaces: Sequence[str]) -> None:
        places = [f"--{n}={folder}/{n}" for n in ("root", "runroot", "tmpdir")]
        self.words = [
            *("nsenter", "--target", str(space), *spaces, "podman", *places),
            *("--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"),
        ]

    def options(self, **more: str | float) -> Options:
        return {
            "podman": shlex.join(self.words),
            "run_options": RUN_OPTIONS,
            "stop_s": 1,
            **more,
        }

    def __call__(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            [*self.words, *words], capture_output=True, text=True, check=False, cwd="/"
        )
        if check and done.returncode != 0:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def image(self, version: str, archive: Path, command: str = LOOP) -> Path:
        """Make an archive of an image with busybox and a file that says its version."""
        busybox = shutil.which("busybox")
        assert busybox is not None
        with tempfile.TemporaryDirectory() as name:
            tree = Path(name)
            (tree / "bin").mkdir()
            shutil.copy(busybox, tree / "bin/busybox")
            for applet in ("sh", "sleep", "cat"):
                (tree / "bin" / applet).symlink_to("busybox")
            (tree / "version").write_text(version)
            packed = archive.with_suffix(".tree")
            subprocess.run(["tar", "-C", name, "-cf", str(packed), "."], check=True)
        start = f'CMD ["/bin/sh", "-c", "{command}"]'
        self("import", "--change", start, str(packed), f"localhost/made:{version}")
        archive.unlink(missing_ok=True)
        self("save", "--format=oci-archive", "-o", str(archive), f"localhost/made:{version}")
        self("rmi", f"localhost/made:{version}")
        return archive

    def shows(self) -> str | None:
        """Return the version that the container of the component shows, None if none runs."""
        with contextlib.suppress(RuntimeError):
            return self("exec", "fieldfare-lamp", "cat", "/version")
        return None

    def clear(self) -> None:
        """Remove every container and every image."""
        self("rm", "--all", "--force", "--time=0", check=False)
        self("rmi", "--all", "--force", check=False)


@contextlib.contextmanager
def podman(*, alone: bool = False) -> Iterator[Podman]:
    """Give a podman, or skip the test where it cannot run containers.

    `alone`: with networks of its own.
    """
    spaces = ["--mount", "--net"] if alone else ["--mount"]
    if os.geteuid() != 0:
        pytest.skip("containers are tried as root alone")
    for program in ("podman", "busybox", "unshare", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    # podman wants a short name for it, shorter than those that pytest gives.
    with tempfile.TemporaryDirectory(prefix="podman") as name, _name_space(spaces) as space:
        made = Podman(space, Path(name), spaces)
        if reason := _why_not(made, Path(name)):
            pytest.skip(reason)
        try:
            yield made
        finally:
            made.clear()


@contextlib.contextmanager
def _name_space(spaces: Sequence[str]) -> Iterator[int]:
    words = ["unshare", *spaces, "sh", "-c", ALONE if "--net" in spaces else APART]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            yield holder.pid
        finally:
            assert holder.stdin is not None
            holder.stdin.close()


def _why_not(made: Podman, folder: Path) -> str:
    try:
        archive = made.image("0", folder / "try.tar")
        made("load", "--input", str(archive))
        made("run", "--rm", *RUN_OPTIONS.split(), "localhost/made:0", "cat", "/version")
    except RuntimeError as error:
        return f"podman runs no container here: {error}"
    finally:
        made.clear()
    return ""
