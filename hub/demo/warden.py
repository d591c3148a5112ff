"""A small process that outlives the demo by a moment, should the demo be killed outright.

Owns the end of what a killed demo leaves behind: every process that carries the demo's mark in its
environment, which children inherit, and the demo's folder. Never looks for processes by name.

It waits on a pipe that nobody writes to. The kernel closes it when the demo ends, however it ends;
a demo that ends properly has ended the warden before.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final

MARK: Final = "FIELDFARE_DEMO_GROUND"
"""Name of the environment variable that names the demo's folder."""

END_MAX_S: Final = 20.0
POLL_S: Final = 0.02


def marked(folder: str) -> list[int]:
    """Return the process ids of all that belongs to the demo in `folder`."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            carried = environment.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended meanwhile, or is somebody else's
        if mark in carried:
            found.append(int(environment.parent.name))
    return found


def main(folder: str, *, keep: bool) -> None:
    """Wait for the end of the demo, and then end what it has left behind."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.stdin.buffer.read()
    deadline = time.monotonic() + END_MAX_S
    while (left := marked(folder)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(POLL_S)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], keep=sys.argv[2] == "keep")
