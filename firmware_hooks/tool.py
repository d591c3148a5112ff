"""A program that an installer needs: run to its end, or an error that says why not.

Owns what it means to an install that a program cannot start or does not end. What an exit code
means is the caller's to say.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from firmware_hooks.contract import InstallerError
from firmware_hooks.hook import Ended, run_hook
from sync.stages import Reason


def run_tool(
    argv: Sequence[str | Path],
    *,
    folder: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    on_line: Callable[[str], None] | None = None,
    stdout_bytes_max: int = 64 * 1024,
) -> Ended:
    """Run a program as `run_hook` does; its exit code is never None.

    Raises:
        InstallerError: It cannot be started, or did not end in time and was ended.
    """
    ended = run_hook(
        argv,
        folder=folder,
        environment=environment or {},
        timeout_s=timeout_s,
        stdin=stdin,
        on_line=on_line,
        stdout_bytes_max=stdout_bytes_max,
    )
    name = " ".join([Path(argv[0]).name, *(str(word) for word in argv[1:2])])
    if ended.is_late:
        raise InstallerError(
            Reason.HOOK_TIMED_OUT, f"{name}: still running after {timeout_s:g} s; it was ended"
        )
    if ended.code is None:
        raise InstallerError(Reason.REQUIREMENT_UNMET, ended.last_line)
    return ended


def failed(name: str, ended: Ended, reason: Reason = Reason.INSTALLER_FAILED) -> InstallerError:
    """Return the error of a program that ended with a code that means failure."""
    said = f": {ended.last_line}" if ended.last_line else ""
    code = ended.code
    how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
    return InstallerError(reason, f"{name} {how}{said}"[:200])
