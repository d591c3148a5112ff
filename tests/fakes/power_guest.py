"""First process of a user-mode Linux: mounts a recorded disk, runs a program on it, and stops.

Run by `tests.fakes.write_log`; it has the machine's own files, but its own kernel and disk.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

MODULES = Path("/usr/lib/uml/modules")
NEEDED = ("dm-mod", "dm-log-writes", "nls_cp437", "nls_iso8859-1", "fat", "vfat")
FINIT_MODULE = 313  # x86-64
RB_POWER_OFF = 0x4321FEDC
SECTOR_BYTES = 512

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: Path, kind: str, options: str = "") -> None:
    given = [os.fsencode(each) for each in (source, target, kind)]
    check(libc.mount(*given, 0, options.encode()), f"mounting {source}")


def load() -> None:
    folder = MODULES / os.uname().release
    for name in NEEDED:
        (path,) = folder.rglob(f"{name}.ko")
        with path.open("rb") as module:
            check(libc.syscall(FINIT_MODULE, module.fileno(), b"", 0), f"loading {name}")


def mark(name: str) -> None:
    subprocess.run(["/usr/sbin/dmsetup", "message", "disk", "0", "mark", name], check=True)


def main(config: dict[str, str]) -> None:
    mount("proc", Path("/proc"), "proc")
    mount("sysfs", Path("/sys"), "sysfs")
    mount("tmpfs", Path("/run"), "tmpfs")
    load()
    sectors = int(Path("/sys/block/ubda/size").read_text())
    table = f"0 {sectors} log-writes /dev/ubda /dev/ubdb"
    subprocess.run(
        ["/usr/sbin/dmsetup", "create", "disk", "--noudevsync", "--noudevrules", "--table", table],
        check=True,
    )
    device = "/dev/dm-0"
    while not Path(device).exists():  # devtmpfs makes it when the kernel gets to it
        time.sleep(0.01)
    point = Path(config["point"])
    mount(device, point, config["kind"], config["options"])
    os.sync()
    mark("mounted")
    process = subprocess.Popen(
        json.loads(config["argv"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=config["folder"],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        mark(line.strip())
        process.stdin.write("\n")  # it goes on when its mark is in the log
        process.stdin.flush()
    sys.stdout.write(f"ENDED {process.wait()}\n")


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text()))
    except BaseException as error:  # noqa: BLE001 - the kernel panics if its first process ends
        sys.stdout.write(f"FAILED {error!r}\n")
    sys.stdout.flush()
    # No unmount and no sync: whatever was not written is lost, as when the power goes.
    libc.reboot(RB_POWER_OFF)
