"""Asking a running agent over its local socket: the application's side.

Owns connecting, and a line there and back. What can be asked is in docs/reference/local-socket.md.
"""

import contextlib
import json
import os
import socket
from io import BufferedRWPair
from pathlib import Path
from typing import Any, Final

ANSWER_S: Final = 30.0
LINE_BYTES_MAX: Final = 4 * 1024 * 1024


class NoAgent(Exception):
    """No agent answers; says where, and what to do."""


class NoAnswer(Exception):
    """The agent was reached and gave no answer; says why."""


def connect(path: Path) -> socket.socket:
    """Return a connection to the agent that serves `path`.

    Raises:
        NoAgent: There is none.
    """
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(ANSWER_S)
    try:
        channel.connect(os.fspath(path))
    except OSError as error:
        channel.close()
        raise NoAgent(
            f"no agent answers on {path} ({error.strerror or error}): start it with "
            "`fieldfare-agent run`, or name its settings with --settings"
        ) from None
    return channel


def ask(lines: BufferedRWPair, request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one request on a connection.

    Raises:
        NoAnswer: None came.
    """
    try:
        lines.write(json.dumps(request, allow_nan=False).encode() + b"\n")
        lines.flush()
        line = lines.readline(LINE_BYTES_MAX)
    except OSError as error:
        raise NoAnswer(str(error) or f"nothing came within {ANSWER_S:g} s") from None
    return answer_in(line)


def answer_in(line: bytes) -> dict[str, Any]:
    """Return the answer in a line.

    Raises:
        NoAnswer: The line is none.
    """
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise NoAnswer("the connection ended") from None
    return answer


def exchange(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Connect, ask once, and hang up.

    Raises:
        NoAgent: No agent answers.
        NoAnswer: It gave none.
    """
    with connect(path) as channel, channel.makefile("rwb") as lines:
        return ask(lines, request)


def wake(path: Path) -> None:
    """Tell a running agent, if there is one, that it may find what it waits for."""
    with contextlib.suppress(NoAgent, NoAnswer):
        exchange(path, {"op": "wake"})
