"""The `program` installer: any executable on the device puts releases in place.

Owns what such a program is told and what its exit codes mean: see "Hook programs" in
docs/reference/installer-contract.md. Releases and which of them runs are kept by `shelf`; what a
program keeps beside is its own.
"""

import re
import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order, RetryLater
from firmware_hooks.durable import explained, make_folder
from firmware_hooks.hook import Ended
from firmware_hooks.options import known, seconds
from firmware_hooks.shelf import Kept, Move, Shelf
from firmware_hooks.tool import failed, run_tool
from sync.stages import Reason

TIMEOUT_S: Final = 600.0
LATER_S: Final = 60.0
"""How long to wait before a program that asked to be called later is called again."""


class Phase(StrEnum):
    """What a program is called with. Programs in the field know these names; never reuse one."""

    STAGE = "stage"
    ACTIVATE = "activate"
    CHECK_TRIAL = "check-trial"
    COMMIT = "commit"
    ROLL_BACK = "roll-back"
    CLEAN_UP = "clean-up"


LATER_CODES: Final = (3, 21)
"""Exit codes that ask to be called later: those of thin-edge.io and of Mender."""


class ProgramInstaller:
    """Lets a program that the device names install releases of one component."""

    def __init__(
        self,
        component: str,
        install_dir: Path,
        options: Options = NO_OPTIONS,
    ) -> None:
        """Keep releases in `install_dir/component`.

        Args:
            component: What is installed.
            install_dir: Where releases are kept.
            options: `command`: the program with its first arguments, as a shell would read them;
                `command_NAME`: another one, for releases that ask for NAME;
                `timeout_s`: how long each call may take.

        Raises:
            InstallerError: An option is wrong.
        """
        known("program", options, ("command", "timeout_s"), prefix="command_")
        self._component = component
        self._commands = {
            name.removeprefix("command").removeprefix("_"): shlex.split(str(value))
            for name, value in options.items()
            if name == "command" or name.startswith("command_")
        }
        self._timeout_s = seconds("program", options, "timeout_s", TIMEOUT_S)
        self._shelf = Shelf("program", install_dir / component)
        self.on_progress: Callable[[str], None] = lambda _: None

    def stage(self, order: Order) -> None:
        """Keep the release, and let the program prepare what it needs."""
        is_staged = self.folder(order.digest).is_dir()

        def check(release: Kept) -> None:
            if not is_staged:
                self._run(Phase.STAGE, release, None)

        self._shelf.stage(order, check)

    def activate(self, digest: bytes) -> None:
        """Let the program switch to the release."""
        self._shelf.activate(digest, remember=_nothing, put=self._put, is_there=True)

    def check_trial(self, digest: bytes) -> None:
        """Ask the program whether this release is what runs."""
        if self._shelf.current() != digest:
            raise InstallerError(Reason.INSTALLER_FAILED, "another release is in place")
        self._run(Phase.CHECK_TRIAL, self._shelf.kept(digest), None)

    def commit(self, digest: bytes) -> None:
        """Tell the program that the release was accepted; whatever it says, it is."""
        try:
            self._run(Phase.COMMIT, self._shelf.kept(digest), None)
        except InstallerError as error:
            self.on_progress(f"commit: {error.detail}")

    def roll_back(self, digest: bytes) -> bytes | None:
        """Let the program go back to what ran before."""
        return self._shelf.roll_back(digest, remember=_nothing, put=self._put)

    def running(self) -> bytes | None:
        """Return the release that the program last switched to."""
        return self._shelf.current()

    def folder(self, digest: bytes) -> Path:
        """Return where the release is kept; its files are in `artifacts` below it."""
        return self._shelf.folder(digest)

    def clean_up(self) -> None:
        """Remove releases that neither run nor ran before, and let the program do the same."""
        self._shelf.clean_up()
        current = self._shelf.current()
        if current is not None:
            self._run(Phase.CLEAN_UP, self._shelf.kept(current), None)

    def _put(self, move: Move) -> None:
        if move.is_back:
            if move.leave is not None:
                self._run(Phase.ROLL_BACK, move.leave, move.reach)
        elif move.reach is not None:
            self._run(Phase.ACTIVATE, move.reach, move.leave)

    def _run(self, phase: Phase, release: Kept, other: Kept | None) -> None:
        """Call the program of a release.

        Raises:
            InstallerError: It failed, took too long, cannot be started, or asked to be called later
                where that can be granted.
        """
        command = self._command(release)
        work_dir = self._shelf.home / "work"
        try:
            make_folder(work_dir)
        except OSError as error:
            raise explained(error) from None
        ended = run_tool(
            [*command, phase.value],
            folder=release.folder,
            environment=variables(phase, self._component, release, other, work_dir),
            timeout_s=self._timeout_s,
            on_line=self.on_progress,
        )
        self._judge(phase, f"{Path(command[0]).name} {phase}", ended)

    def _judge(self, phase: Phase, name: str, ended: Ended) -> None:
        if ended.code == 0:
            return
        if ended.code in LATER_CODES and phase in (Phase.STAGE, Phase.ACTIVATE):
            raise RetryLater(f"{name}: {ended.last_line or 'later'}"[:200], LATER_S)
        is_back = phase is Phase.ROLL_BACK
        raise failed(name, ended, Reason.ROLLBACK_FAILED if is_back else Reason.INSTALLER_FAILED)

    def _command(self, release: Kept) -> list[str]:
        name = str(release.manifest.parameters.get("program", ""))
        command = self._commands.get(name)
        if not command:
            option = f"command_{name}" if name else "command"
            raise InstallerError(
                Reason.REQUIREMENT_UNMET,
                f"this device names no program for it: its option `{option[:80]}` is missing",
            )
        return command


def variables(
    phase: Phase, component: str, release: Kept, other: Kept | None, work_dir: Path
) -> dict[str, str]:
    """Return what a program finds in its environment.

    Args:
        phase: What it is called for.
        component: What is installed.
        release: The one that this is about.
        other: What ran before, for `activate`; what is to run again, for `roll-back`.
        work_dir: Where it may keep what it likes.
    """
    found = {
        "FIELDFARE_PHASE": phase.value,
        "FIELDFARE_COMPONENT": component,
        "FIELDFARE_WORK_DIR": str(work_dir),
        "FIELDFARE_VERSION": release.manifest.version,
        "FIELDFARE_DIGEST": release.digest.hex(),
        "FIELDFARE_RELEASE_DIR": str(release.folder),
        "FIELDFARE_ARTIFACTS_DIR": str(release.folder / "artifacts"),
        "FIELDFARE_OTHER_VERSION": other.manifest.version if other else "",
        "FIELDFARE_OTHER_DIGEST": other.digest.hex() if other else "",
        "FIELDFARE_OTHER_ARTIFACTS_DIR": str(other.folder / "artifacts") if other else "",
    }
    for name, value in release.manifest.parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        plain = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
        found[f"FIELDFARE_PARAMETER_{plain}"] = text.replace("\0", "")
    return found


def _nothing(_: Move) -> None:
    """Nothing has to be remembered: the program knows the way back."""
