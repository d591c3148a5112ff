"""Running one program that others wrote: bounded in time and output, in a process group of its own.

Owns the process, its group and its pipes. Never uses a shell, and decides nothing: what an exit
code means is up to the installer.

It is synchronous, because installers are: the agent calls them in a thread.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

GRACE_S: Final = 2.0
"""Between asking to end and ending; also how long what a program left behind may still print."""

CANCEL_POLL_S: Final = 0.1
"""How often a `threading.Event` is looked at: nothing can be waited for together with a pipe."""

CHUNK_BYTES: Final = 64 * 1024

LINE_BYTES_MAX: Final = 1000
"""What is told of a line while the program runs; the rest of the line is dropped."""

NOT_PASSED_ON: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""A hook must not speak to the service manager in the agent's name."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int | None
    """Exit code, negative for a signal; None if it was ended from here, or could not start."""
    stdout: bytes
    """The beginning of what it printed, as far as was asked for."""
    stderr: bytes
    """The end of what it printed as errors; why it could not start, if it could not."""
    is_late: bool
    """It was still running when its time was over, and was ended."""

    @property
    def last_line(self) -> str:
        """The last line of the errors, else of the output: mostly the reason, at most 200 long."""
        for printed in (self.stderr, self.stdout):
            lines = printed.decode(errors="replace").strip().splitlines()
            if lines:
                return lines[-1].strip()[:200]
        return ""


def run_hook(  # noqa: PLR0913 - every bound is named by the caller
    argv: Sequence[str | Path],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    stdin: bytes | None = None,
    on_line: Callable[[str], None] | None = None,
    stdout_bytes_max: int = 64 * 1024,
    stderr_bytes_max: int = 16 * 1024,
    cancel: threading.Event | None = None,
) -> Ended:
    """Run a program in `folder` until it ends, or its time is over, or `cancel` is set.

    What is over time is asked to end (SIGTERM), and after `GRACE_S` ended (SIGKILL), with its whole
    process group. The same becomes of processes that it leaves behind while they hold its output;
    one that has closed both may live on, as a daemon does. Output beyond its bound is read and
    dropped, so that nobody blocks on it. A process that left the group and one that the kernel
    cannot end are not waited for.

    Args:
        argv: The program and its arguments; no shell reads them.
        folder: Where it runs.
        environment: Added to the agent's own.
        timeout_s: How long it may run.
        stdin: What it can read; nothing if None.
        on_line: Called with each line of its output, without its end; a carriage return ends one
            too. If it raises, the program is ended and the error goes on to the caller.
        stdout_bytes_max: What is kept of the beginning of its output.
        stderr_bytes_max: What is kept of the end of its errors.
        cancel: If it gets set, the program is ended as if it were late; `is_late` is not set then.

    Returns:
        How it ended. A program that cannot be started is no exception: `code` is None.
    """
    own = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=folder,
            env={**own, **environment},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = f"{argv[0]} cannot be started: {error}".encode(errors="replace")
        return Ended(None, b"", why[:stderr_bytes_max], is_late=False)
    with _Run(process, stdin, on_line, stdout_bytes_max, stderr_bytes_max) as run:
        ended_in_time = run.go_on(timeout_s, cancel)
        is_cancelled = cancel is not None and cancel.is_set()
        if ended_in_time:
            run.see_off()
        else:
            run.end()
        return Ended(
            run.code() if ended_in_time else None,
            bytes(run.stdout),
            bytes(run.stderr),
            is_late=not ended_in_time and not is_cancelled,
        )


class _Run:
    """One running program.

    It is not collected before everything is over: as long as it is a zombie, no other process group
    can get its number.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdin: bytes | None,
        on_line: Callable[[str], None] | None,
        stdout_bytes_max: int,
        stderr_bytes_max: int,
    ) -> None:
        self._process = process
        self._left = memoryview(stdin or b"")
        self._lines = _Lines(on_line) if on_line is not None else None
        self._stdout_bytes_max = stdout_bytes_max
        self._stderr_bytes_max = stderr_bytes_max
        self._watched = selectors.DefaultSelector()
        self._pidfd = os.pidfd_open(process.pid)
        self._has_ended = False
        self._open_count = 0
        """Pipes that somebody can still print to."""
        self.stdout = bytearray()
        self.stderr = bytearray()

    def __enter__(self) -> Self:
        self._watched.register(self._pidfd, selectors.EVENT_READ, self._end_seen)
        for pipe, act in (
            (self._process.stdout, self._read_stdout),
            (self._process.stderr, self._read_stderr),
        ):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._watched.register(pipe, selectors.EVENT_READ, act)
                self._open_count += 1
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
            self._watched.register(self._process.stdin, selectors.EVENT_WRITE, self._write)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._signal(signal.SIGKILL)
        self._watched.close()
        os.close(self._pidfd)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        # At once, except where the kernel cannot end it; then nobody waits for it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)

    def go_on(self, timeout_s: float, cancel: threading.Event | None) -> bool:
        """Serve its pipes until it ends; False if it did not end in time, or was cancelled."""
        end_s = time.monotonic() + timeout_s
        while not self._has_ended:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or (cancel is not None and cancel.is_set()):
                return False
            self._serve(left_s if cancel is None else min(left_s, CANCEL_POLL_S))
        return True

    def see_off(self) -> None:
        """Read what is still to come after it ended, and end those who hold its pipes too long."""
        self._drain()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._open_count:
                self._signal(number)
                self._drain()
        self._tell_rest()

    def end(self) -> None:
        """End it, with its whole group."""
        self._signal(signal.SIGTERM)
        self._drain()
        self._signal(signal.SIGKILL)
        self._drain()
        self._tell_rest()

    def code(self) -> int:
        """Return its exit code, once it has ended."""
        return self._process.wait()

    def _drain(self) -> None:
        end_s = time.monotonic() + GRACE_S
        while self._open_count or not self._has_ended:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return
            self._serve(left_s)

    def _tell_rest(self) -> None:
        if self._lines is not None:
            self._lines.end()

    def _serve(self, left_s: float) -> None:
        for key, _ in self._watched.select(left_s):
            key.data()

    def _end_seen(self) -> None:
        self._has_ended = True
        self._watched.unregister(self._pidfd)

    def _write(self) -> None:
        pipe = self._process.stdin
        if pipe is None:
            return
        try:
            self._left = self._left[os.write(pipe.fileno(), self._left[:CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except OSError:  # it does not want more
            self._left = self._left[:0]
        if not self._left:
            self._watched.unregister(pipe)
            pipe.close()

    def _read_stdout(self) -> None:
        chunk = self._read(self._process.stdout)
        self.stdout += chunk[: max(0, self._stdout_bytes_max - len(self.stdout))]
        if self._lines is not None:
            self._lines.take(chunk)

    def _read_stderr(self) -> None:
        self.stderr += self._read(self._process.stderr)
        del self.stderr[: max(0, len(self.stderr) - self._stderr_bytes_max)]

    def _read(self, pipe: IO[bytes] | None) -> bytes:
        if pipe is None:
            return b""
        try:
            chunk = os.read(pipe.fileno(), CHUNK_BYTES)
        except BlockingIOError:
            return b""
        if not chunk:
            self._watched.unregister(pipe)
            self._open_count -= 1
        return chunk

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class _Lines:
    """Cuts output into lines, each told in part if it is too long."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._line = bytearray()

    def take(self, chunk: bytes) -> None:
        *whole, rest = chunk.replace(b"\r", b"\n").split(b"\n")
        for part in whole:
            self._add(part)
            self.end()
        self._add(rest)

    def end(self) -> None:
        """Tell the line that has come so far, if anything is in it."""
        line, self._line = bytes(self._line), bytearray()
        if line:
            self._tell(line.decode(errors="replace"))

    def _add(self, part: bytes) -> None:
        self._line += part[: LINE_BYTES_MAX - len(self._line)]
