"""One agent to a state folder, by a lock of the kernel that ends with the process."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.store import StoreError, make_folder

LOCK_FILE: Final = "agent.lock"


@contextlib.contextmanager
def lock_state(state_dir: Path) -> Iterator[None]:
    """Keep every other agent out of `state_dir`, however its socket is named.

    Two that write one database would hand out the same counters twice.

    Raises:
        StoreError: The folder cannot be used, or another agent has it.
    """
    make_folder(state_dir)
    path = state_dir / LOCK_FILE
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                f"another agent runs on {state_dir}: stop it, or give this one another state_dir"
            ) from None
        yield
    finally:
        os.close(lock)
