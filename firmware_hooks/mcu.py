"""The `mcu` installer: the image of a microcontroller, written by a flasher that the device names.

Owns which image is on the chip. There is one place for it, so a power cut in the middle leaves
neither; the repeated call writes again. The way back is writing the image before, and for the first
release what was read from the chip before it was ever written.

What a flasher claims is not believed: after each write the chip is verified, or read back.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.durable import CHUNK_BYTES, copy_durably, explained, make_folder, remove
from firmware_hooks.hook import Ended
from firmware_hooks.options import known, seconds
from firmware_hooks.shelf import Kept, Move, Shelf
from firmware_hooks.tool import failed, run_tool
from sync.stages import Reason

TIMEOUT_S: Final = 600.0
TRIES: Final = 3
"""How often an image is written until the chip holds it."""
IMAGE: Final = "{image}"
COMMANDS: Final = ("write", "verify", "read", "reset", "identify")
_PERCENT: Final = re.compile(r"(?<![\d.])(\d{1,3})(?:\.\d+)?\s*%")


class McuInstaller:
    """Writes images of one microcontroller."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Keep releases in `install_dir/component`.

        Args:
            component: What is installed.
            install_dir: Where releases are kept.
            options: Commands as a shell would read them, `{image}` standing for a file: `write`,
                `verify` and `read`, `reset`, `identify`; `timeout_s`: how long each may take.

        Raises:
            InstallerError: An option is wrong, or missing.
        """
        known("mcu", options, ("write", "verify", "read", "reset", "identify", "timeout_s"))
        self._commands = {name: shlex.split(str(options.get(name, ""))) for name in COMMANDS}
        if not self._commands["write"] or not (self._commands["verify"] or self._commands["read"]):
            raise InstallerError(
                Reason.INSTALLER_FAILED,
                "the mcu installer needs the option `write`, and `verify` or `read`",
            )
        self._timeout_s = seconds("mcu", options, "timeout_s", TIMEOUT_S)
        self._shelf = Shelf("mcu", install_dir / component)
        self._original = self._shelf.home / "original"
        self.on_progress: Callable[[str], None] = lambda _: None
        self._percent = -1

    def stage(self, order: Order) -> None:
        """Keep the image, and see that there is a way back from it."""
        self._shelf.stage(order, self._check)

    def activate(self, digest: bytes) -> None:
        """Write the image, unless the chip holds it, and reset the microcontroller."""
        self._shelf.activate(digest, remember=self._remember, put=self._put, is_there=True)

    def check_trial(self, digest: bytes) -> None:
        """Ask the microcontroller what it runs, if there is a command for that.

        The chip is not read: on most boards that would stop what runs.
        """
        if self._shelf.current() != digest:
            raise InstallerError(Reason.INSTALLER_FAILED, "another release is in place")
        if not self._commands["identify"]:
            return
        manifest = self._shelf.kept(digest).manifest
        wanted = str(manifest.parameters.get("identity", manifest.version))
        said = self._do("identify").stdout.decode(errors="replace")
        if wanted not in said.split():
            raise InstallerError(
                Reason.INSTALLER_FAILED,
                f"the microcontroller says {said.strip()!r}, without the word {wanted!r}"[:200],
            )

    def commit(self, digest: bytes) -> None:
        """Nothing is left to do."""

    def roll_back(self, digest: bytes) -> bytes | None:
        """Write the image before, or what was on the chip before any."""
        return self._shelf.roll_back(digest, remember=self._remember, put=self._put)

    def running(self) -> bytes | None:
        """Return the release whose image was last written and verified."""
        return self._shelf.current()

    def folder(self, digest: bytes) -> Path:
        """Return where the release is kept; its image is in `artifacts` below it."""
        return self._shelf.folder(digest)

    def clean_up(self) -> None:
        """Remove releases that neither run nor ran before."""
        self._shelf.clean_up()
        try:
            for path in [*self._shelf.home.glob("read*"), *self._shelf.home.glob("original.*")]:
                remove(path)
        except OSError as error:
            raise explained(error) from None

    # The way back.

    def _check(self, release: Kept) -> None:
        """Refuse a release that does not fit, or that there is no way back from."""
        parameters = release.manifest.parameters
        unknown = set(parameters) - {"identity", "without_way_back"}
        if unknown or len(release.manifest.artifacts) != 1:
            raise InstallerError(
                Reason.MANIFEST_INVALID,
                f"parameter {min(unknown)!r} is not known to the mcu installer"
                if unknown
                else "the mcu installer takes exactly one artifact",
            )
        if not isinstance(parameters.get("without_way_back", False), bool):
            raise InstallerError(
                Reason.MANIFEST_INVALID, "parameter 'without_way_back' is true or false"
            )
        if (
            self._shelf.current() is None
            and not self._commands["read"]
            and parameters.get("without_way_back") is not True
        ):
            raise InstallerError(
                Reason.REQUIREMENT_UNMET,
                "no way back: what is on the chip cannot be read; give the device the option "
                "`read`, or release with `without_way_back`",
            )

    def _remember(self, move: Move) -> None:
        """Read what is on the chip before it is written for the first time."""
        if move.leave is not None or move.touched or not self._commands["read"]:
            return
        try:
            make_folder(self._shelf.home)
            scratch = self._read()
            with scratch.open("rb") as file:
                copy_durably(file, self._original)
            remove(scratch)
        except OSError as error:
            raise explained(error) from None

    # Acting.

    def _put(self, move: Move) -> None:
        reason = Reason.ROLLBACK_FAILED if move.is_back else Reason.INSTALLER_FAILED
        if move.reach is not None:
            image = move.reach.artifact(move.reach.manifest.artifacts[0].name)
        elif self._original.exists():
            image = self._original
        else:
            raise InstallerError(reason, "what was on the chip before has not been kept")
        try:
            self._write(image)
            if self._commands["reset"]:
                self._do("reset")
        except InstallerError as error:
            if error.reason == Reason.INSTALLER_FAILED:
                raise InstallerError(reason, error.detail) from None
            raise
        except OSError as error:
            raise explained(error, reason) from None

    def _write(self, image: Path) -> None:
        """Write an image until the chip holds it.

        Raises:
            InstallerError: It does not, after `TRIES`.
        """
        if self._holds(image):
            return
        for number in range(1, TRIES + 1):
            try:
                self._do("write", image)
            except InstallerError as error:
                if number == TRIES:
                    raise
                self.on_progress(f"try {number} of {TRIES}: {error.detail}")
                continue
            if self._holds(image):
                return
            self.on_progress(f"try {number} of {TRIES}: the chip holds something else")
        raise InstallerError(
            Reason.INSTALLER_FAILED,
            f"the chip holds something else than was written, {TRIES} times",
        )

    def _holds(self, image: Path) -> bool:
        """Tell whether the chip holds an image."""
        if self._commands["verify"]:
            return self._call("verify", image).code == 0
        scratch = self._read()
        try:
            return _begins_with(scratch, image)
        finally:
            remove(scratch)

    def _read(self) -> Path:
        """Read the chip into a file."""
        scratch = self._shelf.home / "read"
        remove(scratch)
        self._do("read", scratch)
        if not scratch.is_file():
            raise InstallerError(Reason.INSTALLER_FAILED, "`read` made no file")
        return scratch

    def _do(self, name: str, image: Path | None = None) -> Ended:
        ended = self._call(name, image)
        if ended.code != 0:
            raise failed(name, ended)
        return ended

    def _call(self, name: str, image: Path | None = None) -> Ended:
        self._percent = -1
        return run_tool(
            [word.replace(IMAGE, str(image or "")) for word in self._commands[name]],
            folder=Path("/"),
            timeout_s=self._timeout_s,
            on_line=self._tell if name == "write" else None,
        )

    def _tell(self, line: str) -> None:
        """Tell each line of a flasher, of its percentages only those that differ."""
        found = _PERCENT.search(line)
        if found is not None:
            percent = int(found[1])
            if percent == self._percent:
                return
            self._percent = percent
        self.on_progress(line)


def _begins_with(path: Path, image: Path) -> bool:
    """Tell whether a file begins with all of an image; a chip may be larger."""
    with path.open("rb") as found, image.open("rb") as wanted:
        while chunk := wanted.read(CHUNK_BYTES):
            if found.read(len(chunk)) != chunk:
                return False
    return True
