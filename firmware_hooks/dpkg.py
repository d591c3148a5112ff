"""dpkg on this device: what is installed, installing from files, and waiting for who else does.

Owns how dpkg and its companions are called. Never uses the network, and knows nothing of releases.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from firmware_hooks.contract import InstallerError
from firmware_hooks.hook import Ended
from firmware_hooks.tool import failed, run_tool
from sync.stages import Reason

QUERY_TIMEOUT_S: Final = 60.0
LOCK_POLL_S: Final = 0.2
STATUS_BYTES_MAX: Final = 8 * 1024 * 1024
NOT_FOUND: Final = 1
"""Exit code of dpkg-query when it does not know one of the packages."""
FULL: Final = ("No space left on device", "Disk quota exceeded")
SOUND: Final = frozenset({"installed", "config-files", "not-installed"})
"""States of a package that dpkg has nothing left to do for."""

ENVIRONMENT: Final = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DPKG_FRONTEND_LOCKED": "1",  # we hold that lock ourselves while dpkg runs
    "LC_ALL": "C",
}


class Locked(Exception):
    """Another program holds dpkg's lock, and went on holding it."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package file, or an installed package."""

    name: str
    version: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Installed:
    """What dpkg knows of a package."""

    version: str
    state: str
    """`installed` is the only good one."""

    @property
    def is_sound(self) -> bool:
        """Whether it is completely there."""
        return self.state == "installed"


class Dpkg:
    """dpkg with its database below one root."""

    def __init__(
        self,
        root: Path,
        options: Sequence[str],
        *,
        timeout_s: float,
        tell: Callable[[str], None],
    ) -> None:
        """Work below `root`, with further `options` for each act; tell its lines to `tell`."""
        self._root = root
        self._database = root / "var/lib/dpkg"
        self._options = list(options)
        self._timeout_s = timeout_s
        self._tell = tell

    # Looking.

    def read(self, path: Path) -> Package:
        """Return what a package file holds.

        Raises:
            InstallerError: It is none.
        """
        form = "${Package}\\t${Version}\\t${Architecture}\\n"
        ended = self._query("dpkg-deb", "--show", f"--showformat={form}", str(path))
        fields = ended.stdout.decode(errors="replace").strip().split("\t")
        if ended.code != 0 or len(fields) != 3:  # noqa: PLR2004 - as asked for just above
            raise InstallerError(
                Reason.MANIFEST_INVALID,
                f"{path.name} is no Debian package: {ended.last_line}"[:200],
            )
        return Package(*fields)

    def architectures(self) -> set[str]:
        """Return those of which packages may be installed here."""
        said = self._query("dpkg", "--print-architecture")
        more = self._query("dpkg", f"--root={self._root}", "--print-foreign-architectures")
        return {"all", *said.stdout.decode().split(), *more.stdout.decode().split()}

    def installed(self, names: Collection[str] = ()) -> dict[str, Installed]:
        """Return the packages that are here completely or partly; all of them without `names`."""
        form = "${Package}\\t${Version}\\t${db:Status-Status}\\n"
        ended = self._query(
            "dpkg-query",
            f"--admindir={self._database}",
            "--show",
            f"--showformat={form}",
            *sorted(names),
        )
        if ended.code not in (0, NOT_FOUND):
            raise failed("dpkg-query", ended)
        found = {}
        for line in ended.stdout.decode(errors="replace").splitlines():
            name, _, rest = line.partition("\t")
            version, _, state = rest.partition("\t")
            if state not in ("not-installed", "config-files"):
                found[name] = Installed(version, state)
        return found

    def broken(self) -> list[str]:
        """Return the packages that an interrupted dpkg left half installed."""
        found = self.installed()
        return sorted(name for name, package in found.items() if package.state not in SOUND)

    # Acting. Whoever calls these holds the lock.

    @contextlib.contextmanager
    def locked(self, wait_s: float) -> Iterator[None]:
        """Keep other programs from installing meanwhile.

        Raises:
            Locked: Another one went on for `wait_s`.
        """
        end_s = time.monotonic() + wait_s
        with contextlib.ExitStack() as held:
            frontend = held.enter_context((self._database / "lock-frontend").open("a"))
            while not self._take(frontend.fileno()):
                if time.monotonic() >= end_s:
                    raise Locked
                time.sleep(LOCK_POLL_S)
            yield

    def install(self, files: Sequence[Path]) -> None:
        """Install package files.

        Raises:
            InstallerError: dpkg failed, or did not end in time.
        """
        self._act("--install", *map(str, files))

    def remove(self, names: Sequence[str]) -> None:
        """Remove packages, also half installed ones, and leave their configuration.

        Raises:
            InstallerError: dpkg failed, or did not end in time.
        """
        self._act("--remove", *names, force=("remove-reinstreq",))

    def configure(self, names: Sequence[str]) -> None:
        """Do what is left to do for packages that are unpacked.

        Raises:
            InstallerError: dpkg failed, or did not end in time.
        """
        self._act("--configure", *names)

    def repack(self, name: str, folder: Path) -> Path | None:
        """Make a package file of what is installed; None if dpkg-repack is not here, or fails."""
        try:
            ended = run_tool(
                ["dpkg-repack", f"--root={self._root}", name],
                folder=folder,
                environment={"LC_ALL": "C"},
                timeout_s=self._timeout_s,
            )
        except InstallerError as error:
            self._tell(error.detail)
            return None
        made = sorted(folder.glob("*.deb"))
        if ended.code != 0 or len(made) != 1:
            self._tell(f"dpkg-repack {name}: {ended.last_line}")
            return None
        return made[0]

    # Parts.

    def _take(self, frontend: int) -> bool:
        """Take the lock of frontends, if nobody holds that or dpkg's own.

        dpkg takes its own itself; one that outlived an agent holds it alone.
        """
        try:
            fcntl.lockf(frontend, fcntl.LOCK_EX | fcntl.LOCK_NB)
            descriptor = os.open(self._database / "lock", os.O_RDWR | os.O_CREAT, 0o640)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(descriptor)
        except BlockingIOError:
            return False
        return True

    def _act(self, *words: str, force: Sequence[str] = ()) -> None:
        # Nobody is there to be asked about a configuration file that was edited: it stays.
        forced = [f"--force-{what}" for what in ("confdef", "confold", *force)]
        ended = run_tool(
            ["dpkg", f"--root={self._root}", *forced, *self._options, *words],
            folder=Path("/"),
            environment=ENVIRONMENT,
            timeout_s=self._timeout_s,
            on_line=self._tell,
        )
        if ended.code != 0:
            why = _why(ended.stderr.decode(errors="replace").splitlines())
            if any(full in why for full in FULL):
                raise InstallerError(Reason.NO_SPACE, why[:200])
            raise failed(f"dpkg {words[0]}", replace(ended, stderr=why.encode()))

    def _query(self, *words: str) -> Ended:
        return run_tool(
            words,
            folder=Path("/"),
            environment={"LC_ALL": "C"},
            timeout_s=QUERY_TIMEOUT_S,
            stdout_bytes_max=STATUS_BYTES_MAX,
        )


def _why(lines: Sequence[str]) -> str:
    """Return what dpkg says about its first error, and what was said just before.

    Its last lines only name the packages concerned; the line before the error is mostly what a
    maintainer script had to say.
    """
    for number, line in enumerate(lines):
        if line.startswith("dpkg: error"):
            why = " ".join(each.strip() for each in lines[number + 1 : number + 2]) or line
            before = lines[number - 1].strip() if number else ""
            return f"{why} ({before[:80]})" if before else why
    return lines[-1].strip() if lines else ""
