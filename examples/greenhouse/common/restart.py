"""Stop the controller that runs, start the one in this folder, and wait until it answers.

Exit code 0 when it does; 1 with one line that says why not.
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from place import VERSION, ask, running_pid, state_dir

STOP_MAX_S = 5.0
"""Time between SIGTERM and SIGKILL."""

START_MAX_S = 15.0
POLL_S = 0.05


def stop(pid: int) -> None:
    """End the process and wait until it is gone."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGTERM)
            if not _gone(process, STOP_MAX_S):
                signal.pidfd_send_signal(process, signal.SIGKILL)
                _gone(process, STOP_MAX_S)
    finally:
        os.close(process)


def start(log: Path) -> subprocess.Popen[bytes]:
    """Start the controller of this folder, on its own: it outlives whoever started it."""
    program = Path(__file__).parent / "greenhouse.py"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-B", str(program)],
            cwd=state_dir(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def main() -> int:
    """Restart; return the exit code."""
    state = state_dir()
    state.mkdir(parents=True, exist_ok=True)
    with (state / "restart.lock").open("w") as lock:
        # Whoever asked for the last restart may have died in the middle of it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = running_pid()
        if before is not None:
            stop(before)
        log = state / "greenhouse.log"
        child = start(log)
        deadline = time.monotonic() + START_MAX_S
        while time.monotonic() < deadline:
            status = ask()
            if status is not None and status["version"] == VERSION:
                print(f"greenhouse {VERSION} answers")
                return 0
            if child.poll() is not None:
                break
            time.sleep(POLL_S)
        words = log.read_text(errors="replace").splitlines()
        print(f"greenhouse {VERSION} did not start: {words[-1] if words else 'it said nothing'}")
        return 1


def _gone(process: int, wait_s: float) -> bool:
    return bool(select.select([process], [], [], wait_s)[0])


if __name__ == "__main__":
    sys.exit(main())
