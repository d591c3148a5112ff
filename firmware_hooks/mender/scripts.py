"""State scripts: what runs before and after a state of an install, and after it failed.

Owns their names, order, exit codes and the waiting that one may ask for. Whether an error of one
counts is decided where it is called.

A script is called `State_When_NN_anything`, with `Enter`, `Leave` or `Error`, and gets no
arguments. It ends with 0 to go on and 21 to be called again later; anything else is an error.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firmware_hooks.contract import InstallerError, RetryLater
from firmware_hooks.hook import Ended, run_hook
from firmware_hooks.mender.module import STDERR_BYTES_MAX, require_well
from firmware_hooks.mender.payload import SCRIPT_PATTERN
from sync.stages import Reason

RETRY_LATER: Final = 21
VERSION_FILE: Final = "version"
VERSIONS: Final = frozenset({"2", "3"})
"""What the file `version` beside scripts of the root file system may say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptLimits:
    """How long scripts may take, and keep the device waiting."""

    timeout_s: float
    retry_s: float
    """Between two calls of one that asks to be called later."""
    retry_max_s: float
    """How long one may go on asking."""


class Scripts:
    """The scripts of one release, and those of the device."""

    def __init__(
        self,
        artifact_dir: Path,
        rootfs_dir: Path,
        limits: ScriptLimits,
        tell: Callable[[str], None],
    ) -> None:
        """Look for a release's own in `artifact_dir`, for the device's in `rootfs_dir`."""
        self._artifact_dir = artifact_dir
        self._rootfs_dir = rootfs_dir
        self._limits = limits
        self._tell = tell

    def run(self, state: str, when: str, *, after: str = "", waits_here: bool = True) -> None:
        """Run the scripts of a state.

        Args:
            state: `Download`, whose scripts are the device's; any other's are the release's.
            when: `Enter`, `Leave` or `Error`.
            after: Begin with this script; those before it have run.
            waits_here: Call one that asks to be called later again, until its time is over.

        Raises:
            RetryLater: One asked to be called later, and `waits_here` is not set.
            InstallerError: One failed; those after it did not run.
        """
        for script in self._found(state, when):
            if script.name < after:
                continue
            self._tell(script.name)
            end_s = time.monotonic() + self._limits.retry_max_s
            while (ended := self._call(script)).code == RETRY_LATER:
                if not waits_here:
                    raise Waits(script.name, self._limits.retry_s)
                if time.monotonic() + self._limits.retry_s > end_s:
                    raise InstallerError(
                        Reason.BUSY, f"{script.name} asked too long to be called later"
                    )
                time.sleep(self._limits.retry_s)
            require_well(script.name, ended)

    def _call(self, script: Path) -> Ended:
        return run_hook(
            [script],
            folder=script.parent,
            environment={},
            timeout_s=self._limits.timeout_s,
            stdout_bytes_max=0,
            stderr_bytes_max=STDERR_BYTES_MAX,
        )

    def _found(self, state: str, when: str) -> list[Path]:
        folder = self._rootfs_dir if state == "Download" else self._artifact_dir
        try:
            names = sorted(each.name for each in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = [
            folder / name
            for name in names
            if (match := SCRIPT_PATTERN.fullmatch(name))
            and (match["state"], match["when"]) == (state, when)
        ]
        if found and folder == self._rootfs_dir:
            _check_version(folder)
        return found


class Waits(RetryLater):
    """A script asked to be called later; it is named: those before it need not run again."""

    def __init__(self, script: str, wait_s: float) -> None:
        """Carry the script's name."""
        super().__init__(f"the state script {script} asks to be called later", wait_s)
        self.script = script


def _check_version(folder: Path) -> None:
    try:
        version = (folder / VERSION_FILE).read_text().strip()
    except (OSError, UnicodeDecodeError):
        version = ""
    if version not in VERSIONS:
        raise InstallerError(
            Reason.INSTALLER_FAILED,
            f"{folder / VERSION_FILE} says {version[:20]!r}; state scripts are run in version 2 "
            f"or 3",
        )
