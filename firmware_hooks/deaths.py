"""Calls that are killed before a chosen step: a real child process, a real SIGKILL.

Owns what counts as a step: what changes the disk or starts a program. The steps are Python's audit
events, so nothing of what is called has to be known. A program that was started outlives the death,
as it does on a device whose service manager leaves it alone. For tests alone.
"""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Final

from firmware_hooks.contract import InstallerError

STEPS: Final = frozenset(
    {
        "os.chmod",
        "os.chown",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.link",
        "os.mkdir",
        "os.posix_spawn",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.setxattr",
        "os.symlink",
        "os.truncate",
        "os.utime",
        "subprocess.Popen",
    }
)
"""Audit events before which a call may be killed, beside files that are opened for writing."""

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def killed(call: Callable[[], None], at: int) -> bool:
    """Run `call` in a child that dies at step `at`; False if it ended before.

    Raises:
        AssertionError: It ended in another way than well.
    """
    said = in_child(call, kill_at=at)
    if said and said.get("signal") != signal.SIGKILL:
        raise AssertionError(said)
    return bool(said)


def in_child(call: Callable[[], None], *, kill_at: int = 0) -> dict[str, object]:
    """Return what became of `call` in a process of its own, which never comes back."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        # Another test may have left a thread; the child holds none of its locks for long.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        said: dict[str, object] = {}
        try:
            if kill_at:
                _die_at(kill_at)
            call()
        except InstallerError as error:
            said = {"raised": "InstallerError", "reason": error.reason, "detail": error.detail}
        except BaseException as error:  # noqa: BLE001 - the child must not return into pytest
            said = {"raised": type(error).__name__, "detail": str(error)}
        finally:
            os.write(write_end, json.dumps(said).encode())
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    result: dict[str, object] = json.loads(told or b'{"raised": "nothing was said"}')
    return result


def _die_at(step: int) -> None:
    """Let this process be killed before the chosen step from now on."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & _WRITES:
                return
        elif event not in STEPS:
            return
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
