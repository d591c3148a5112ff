"""Where the demo happens: one folder, free ports, and processes that all end with it.

Owns starting and stopping. Never looks for processes by name: it ends what it started, and what
those started, by process id.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hub.demo.warden import MARK
from hub.shown import shown

LOOPBACK: Final = "127.0.0.1"

END_MAX_S: Final = 10.0
"""Time between SIGTERM and SIGKILL."""

POLL_S: Final = 0.02

ROOM_MIN_BYTES: Final = 64 * 1024 * 1024
"""Free disk that the demo wants before it starts: it takes a few MB, agents leave 16 MB free."""

FOLDER_BYTES_MAX: Final = 60
"""Longest path of the folder: below it there are Unix sockets, whose paths have at most 107."""

PREFIX: Final = "FIELDFARE_"

TAIL_CHARACTERS: Final = 1500

_PR_SET_CHILD_SUBREAPER: Final = 36


class CannotStart(Exception):
    """The demo cannot be set up; the message is one line. Nothing runs any more."""


class Program:
    """One program of the demo, which can be killed and started again."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        # Settings of programs that the person runs in earnest must not reach into the demo.
        own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._environment = {**own, **environment}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child is not None and self.is_running() else None

    def start(self) -> None:
        """Start it, in a session of its own: a Ctrl-C in the terminal is for the demo.

        Raises:
            CannotStart: The system does not let it.
        """
        try:
            with self.log.open("ab") as log:
                self._child = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    cwd=self.log.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise CannotStart(f"{self.name} cannot be started: {error}") from None

    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self._child is not None and self._child.poll() is None

    def kill(self) -> None:
        """End it with SIGKILL, in the middle of whatever it does."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        if self._child is not None and self.is_running():
            self._child.terminate()

    def wait(self, wait_s: float) -> None:
        """Wait until it has ended; after `wait_s` kill it."""
        if self._child is None:
            return
        try:
            self._child.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self) -> str:
        """Return the end of its log on one line."""
        try:
            text = self.log.read_text(errors="replace")[-TAIL_CHARACTERS:]
        except OSError:
            return "its log cannot be read"
        lines = [line for line in text.splitlines() if line.strip()]
        return shown(lines[-1].strip()) if lines else "it said nothing"


class Ground:
    """A folder and the programs in it. Use it with `with`; at its end nothing of it is left.

    Args:
        keep: Leave the folder with its logs where it is.

    Raises:
        CannotStart: There is no room for it.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._programs: list[Program] = []
        self._warden: subprocess.Popen[bytes] | None = None
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="fieldfare-demo-"))
        except OSError as error:
            raise CannotStart(f"the demo's folder cannot be made: {error}") from None
        if len(os.fsencode(self.folder)) > FOLDER_BYTES_MAX:
            self.folder.rmdir()
            raise CannotStart(
                f"the path {self.folder} is too long for the sockets below it: name a shorter "
                "place with TMPDIR"
            )
        free_bytes = shutil.disk_usage(self.folder).free
        if free_bytes < ROOM_MIN_BYTES:
            self.folder.rmdir()
            raise CannotStart(
                f"{self.folder.parent} has {free_bytes // 2**20} MB free, and the demo wants "
                f"{ROOM_MIN_BYTES // 2**20}: make room, or name another place with TMPDIR"
            )

    def __enter__(self) -> Self:
        """Become the parent of every process that loses its own, so that none can be forgotten.

        Should this process be killed itself, a warden ends them.

        Raises:
            CannotStart: The warden cannot be started.
        """
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self._warden = subprocess.Popen(
                [sys.executable, "-P", "-m", "hub.demo.warden", self.folder, "keep" * self._keep],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self.folder.rmdir()
            raise CannotStart(f"the demo's warden cannot be started: {error}") from None
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every process, and remove the folder."""
        self.stop()
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def program(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Program:
        """Return a program that works in a folder of its own and ends with the demo."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        marked = {**environment, MARK: str(self.folder)}
        program = Program(name, command, marked, home / f"{name}.log")
        self._programs.append(program)
        return program

    def stop(self) -> None:
        """End what was started, the latest first, and then what those left running.

        A Ctrl-C cannot break it off; it takes at most a few times `END_MAX_S`.
        """
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._stop()
        finally:
            signal.signal(signal.SIGINT, before)

    def _stop(self) -> None:
        for program in self._programs:
            program.ask_to_end()
        for program in reversed(self._programs):
            program.wait(END_MAX_S)
        _end(signal.SIGTERM, END_MAX_S)
        _end(signal.SIGKILL, END_MAX_S)
        if self._warden is not None and self._warden.stdin is not None:
            self._warden.stdin.close()
            self._warden.wait()


def free_port() -> int:
    """Return a TCP port on loopback that nobody has at this moment."""
    with socket.socket() as trial:
        trial.bind((LOOPBACK, 0))
        port: int = trial.getsockname()[1]
        return port


def descendants() -> list[int]:
    """Return the process ids of all children of this process, and of theirs."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        # The name in parentheses may itself hold spaces and parentheses (proc(5)).
        state, parent = text.rpartition(")")[2].split()[:2]
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found: list[int] = []
    layer = {os.getpid()}
    while layer := {pid for pid, parent in parents.items() if parent in layer}:
        found += layer
    return found


def _end(how: signal.Signals, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    told: set[int] = set()
    while left := descendants():
        for pid in left:
            if pid not in told:
                told.add(pid)
                try:
                    os.kill(pid, how)
                except ProcessLookupError:
                    continue
        _reap()
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_S)
    _reap()


def _reap() -> None:
    """Take note of children that have ended, among them those that lost their parent."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
