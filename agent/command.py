"""Running one command of a release: bounded in time and output, in a process group of its own.

Owns processes, their groups and the pipe that they print to. Decides nothing.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

OUTPUT_BYTES_MAX: Final = 16 * 1024
"""What is kept of a command's output; the rest is read and dropped, so it can never block."""

LINE_CHARACTERS_MAX: Final = 200

GRACE_S: Final = 2.0
"""Between SIGTERM and SIGKILL."""

NOT_PASSED_ON: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""A release must not speak to the service manager in the agent's name."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int | None
    """Exit code, negative for a signal; None if it did not end in time or could not start."""
    output: str
    """Last line of what it printed, or why it could not start."""
    is_late: bool = False
    """It was still running at its deadline, and was ended."""


async def run_command(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    python: str,
    deadline_s: float,
    stays: bool = False,
) -> Ended:
    """Run `command` (no shell) in `folder` until it ends or its deadline is over.

    Args:
        command: `{python}` in it stands for the interpreter `python`.
        folder: Where it runs.
        environment: Added to the agent's own.
        python: Path of an interpreter.
        deadline_s: Then it is asked to end, and shortly after that ended, with its whole group.
        stays: What it started may live on after it ended well, as a restart command wants.
            It must not print to the output that it inherited: nobody reads that any more.
    """
    words = [word.replace("{python}", python) for word in command]
    own = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    with _Output() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                cwd=folder,
                env={**own, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.write_end,
                stderr=output.write_end,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return Ended(None, f"{words[0]} cannot be started: {error}"[:LINE_CHARACTERS_MAX])
        try:
            async with asyncio.timeout(deadline_s):
                code = await process.wait()
        except TimeoutError:
            await _end(process)
            still = f"still running after {deadline_s:g} s"
            return Ended(None, output.last_line() or still, is_late=True)
        except BaseException:  # whoever stops waiting, the command must not go on alone
            _signal(process.pid, signal.SIGKILL)
            raise
        if not stays or code != 0:
            _signal(process.pid, signal.SIGKILL)
        return Ended(code, output.last_line())


class _Output:
    """The read end of a pipe, of which only the last bytes are kept.

    asyncio's own pipe would stay open, and unread, as long as any process that the command left
    behind holds the other end.
    """

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_end, True)
        self._kept = bytearray()

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._read_end, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        os.close(self.write_end)

    def last_line(self) -> str:
        """Return the last line that was printed so far."""
        self._read()
        lines = bytes(self._kept).decode(errors="replace").strip().splitlines()
        return lines[-1][:LINE_CHARACTERS_MAX] if lines else ""

    def _read(self) -> None:
        for chunk in _chunks(self._read_end):
            self._kept += chunk
            del self._kept[:-OUTPUT_BYTES_MAX]


def _chunks(descriptor: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        for _ in range(16):  # a command that never stops printing must not stop the event loop
            chunk = os.read(descriptor, OUTPUT_BYTES_MAX)
            if not chunk:
                return
            yield chunk


async def _end(process: asyncio.subprocess.Process) -> None:
    _signal(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
