"""Where the controller keeps its state, and how its scripts reach the one that runs."""

import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

VERSION = (Path(__file__).parent / "VERSION").read_text().strip()

SOCKET = "greenhouse.sock"

ANSWER_MAX_S = 2.0
"""Longest wait for the status of the controller that runs."""

PATH_BYTES_MAX = 100
"""Longest path that a Unix socket can be bound to, less a margin."""


def state_dir() -> Path:
    """Return the folder that outlives releases."""
    return Path(os.environ["FIELDFARE_STATE_DIR"])


def sensor_dir() -> Path:
    """Return the folder with one file for each sensor."""
    return Path(os.environ.get("GREENHOUSE_SENSORS") or state_dir() / "sensors")


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at `path`, in place of one that a dead controller left."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(_short(path, folder))
    finally:
        os.close(folder)
    listener.listen(8)
    return listener


def connect(path: Path) -> socket.socket | None:
    """Return a connection to the controller that runs, None if there is none."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_MAX_S)
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            connection.connect(_short(path, folder))
        finally:
            os.close(folder)
    except OSError:
        connection.close()
        return None
    return connection


def running_pid() -> int | None:
    """Return the process that listens, by the word of the kernel; None if there is none.

    A file with a process id in it can be stale and name somebody else's process; this cannot.
    """
    connection = connect(state_dir() / SOCKET)
    if connection is None:
        return None
    with connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def ask() -> dict[str, Any] | None:
    """Return the status of the controller that runs, None if there is none or it says nothing."""
    connection = connect(state_dir() / SOCKET)
    if connection is None:
        return None
    with connection:
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
            status: dict[str, Any] = json.loads(answer)
        except (OSError, ValueError):
            return None
    return status


def _short(path: Path, folder: int) -> str:
    """Return a name for `path` that fits into a socket's address, however deep it lies."""
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        return str(path)
    return f"/proc/self/fd/{folder}/{path.name}"
