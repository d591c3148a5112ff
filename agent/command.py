"""Running one command of a release: bounded in time and output, ended with its children when late.

Owns processes and their process groups. Decides nothing.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OUTPUT_BYTES_MAX: Final = 16 * 1024
"""What is kept of a command's output; the rest is read and dropped, so it can never block."""

GRACE_S: Final = 2.0
"""Between SIGTERM and SIGKILL."""


_OWN_ENVIRONMENT: Final = {
    name: value
    for name, value in os.environ.items()
    if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")
}
"""A release must not speak to the service manager in the agent's name."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int | None
    """Exit code, negative for a signal; None if it did not end in time or could not start."""
    output: str
    """Last line of what it printed, or why it could not start."""


async def run_command(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    python: str,
    deadline_s: float,
) -> Ended:
    """Run `command` (no shell) in `folder`; `{python}` stands for the interpreter `python`."""
    words = [word.replace("{python}", python) for word in command]
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=folder,
            env={**_OWN_ENVIRONMENT, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Ended(None, f"{words[0]} cannot be started: {error}"[:200])
    output = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            # A child that lives on in the background may keep the pipe open, so the command is over
            # when its first process is, not when the pipe closes.
            reading = asyncio.ensure_future(_read(process, output))
            try:
                code = await process.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reading, 0.2)
            finally:
                reading.cancel()
    except TimeoutError:
        await _end(process)
        return Ended(None, _last_line(output) or f"still running after {deadline_s:g} s")
    except BaseException:
        _signal(process, signal.SIGKILL)
        raise
    return Ended(code, _last_line(output))


async def _read(process: asyncio.subprocess.Process, output: bytearray) -> None:
    if process.stdout is None:
        return
    while chunk := await process.stdout.read(4096):
        output += chunk
        del output[:-OUTPUT_BYTES_MAX]


async def _end(process: asyncio.subprocess.Process) -> None:
    _signal(process, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), GRACE_S)
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_line(output: bytes | bytearray) -> str:
    lines = bytes(output).decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""
