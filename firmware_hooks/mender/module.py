"""Calling one update module: `MODULE STATE TREE`, in its tree, bounded in time and output.

Owns what its answers and exit codes mean. In which order it is called is not its business.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from firmware_hooks.contract import InstallerError
from firmware_hooks.hook import Ended, run_hook
from sync.stages import Reason

ANSWER_BYTES_MAX: Final = 4096
STDERR_BYTES_MAX: Final = 10 * 1024
"""What Mender keeps of it."""
DETAIL_CHARACTERS_MAX: Final = 200

logger = logging.getLogger(__name__)


class BrokenOff(InstallerError):
    """The call was ended from here."""


class Module:
    """An executable that knows how to install one type of payload."""

    def __init__(
        self, program: Path, tree: Path, *, timeout_s: float, tell: Callable[[str], None]
    ) -> None:
        """Call `program` in `tree`, each call for at most `timeout_s`; `tell` gets its lines."""
        self._program = program
        self._tree = tree
        self._timeout_s = timeout_s
        self._tell = tell

    def require(self) -> None:
        """Make sure that the device has this module.

        Raises:
            InstallerError: It has not.
        """
        if not (self._program.is_file() and os.access(self._program, os.X_OK)):
            raise InstallerError(
                Reason.UNKNOWN_INSTALLER,
                f"this device has no update module {self._program}"[:DETAIL_CHARACTERS_MAX],
            )

    def call(self, state: str, cancel: threading.Event | None = None) -> None:
        """Let it do what `state` names, until `cancel` is set.

        Raises:
            InstallerError: It failed, took too long, or could not be started.
        """
        self._tell(state)
        ended = self._run(state, self._tell, cancel)
        if cancel is not None and cancel.is_set() and ended.code is None and not ended.is_late:
            raise BrokenOff(Reason.INSTALLER_FAILED, f"{state} was broken off")
        require_well(state, ended)

    def ask(self, query: str) -> str:
        """Return its answer, one line; empty if it does not know the question.

        Raises:
            InstallerError: As `call`, or it said more than one line.
        """
        ended = self._run(query, None)
        require_well(query, ended)
        answer, _, rest = ended.stdout.decode(errors="replace").partition("\n")
        if rest or len(ended.stdout) >= ANSWER_BYTES_MAX:
            raise InstallerError(
                Reason.INSTALLER_FAILED, f"{query}: it must answer with one line, and said more"
            )
        return answer.strip()

    def _run(
        self,
        word: str,
        on_line: Callable[[str], None] | None,
        cancel: threading.Event | None = None,
    ) -> Ended:
        return run_hook(
            [self._program, word, self._tree],
            folder=self._tree,
            environment={},
            timeout_s=self._timeout_s,
            on_line=on_line,
            stdout_bytes_max=ANSWER_BYTES_MAX,
            stderr_bytes_max=STDERR_BYTES_MAX,
            cancel=cancel,
        )


def require_well(what: str, ended: Ended) -> None:
    """Make sure that a program ended well.

    Raises:
        InstallerError: It did not.
    """
    if ended.code != 0 and ended.stderr:
        logger.warning("%s: %s", what, ended.stderr.decode(errors="replace"))
    if ended.is_late:
        raise InstallerError(
            Reason.HOOK_TIMED_OUT,
            f"{what} took too long: {ended.last_line}"[:DETAIL_CHARACTERS_MAX],
        )
    if ended.code != 0:
        ending = "" if ended.code is None else f" ended with {ended.code}"
        raise InstallerError(
            Reason.INSTALLER_FAILED, f"{what}{ending}: {ended.last_line}"[:DETAIL_CHARACTERS_MAX]
        )


def end_leftovers(*folders: Path) -> None:
    """End whatever still works below `folders`: calls that outlived a crash of the agent.

    Modules and scripts run there, so their working directory tells them. Their process groups die
    with them.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            where = (process / "cwd").readlink()
            pid = int(process.name)
            is_ours = any(where.is_relative_to(folder) for folder in folders)
            if is_ours and os.getpgid(pid) != os.getpgrp():
                os.killpg(os.getpgid(pid), signal.SIGKILL)
