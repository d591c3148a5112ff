"""Opening files that somebody else may have put there.

Owns what counts as a plain file: no link, pipe or device.
"""

import os
import stat
from pathlib import Path


def open_plain(path: Path) -> int | None:
    """Open a plain file for reading; None if it is not there, or is anything else."""
    try:
        # Without O_NONBLOCK a pipe would hold us for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor
