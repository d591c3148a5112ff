"""Room on the disk for a file that is still coming.

Owns that reservation. Never fills a file: its length stays what has arrived.
"""

import errno
import os
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_KEEP_SIZE: Final = 1
"""FALLOC_FL_KEEP_SIZE (linux/falloc.h): blocks behind the end are the file's, its length is not
changed. Python's `posix_fallocate` would change it."""


def reserve(descriptor: int, length_bytes: int) -> bool:
    """Reserve room for `length_bytes` in all; False where the file system cannot.

    Raises:
        OSError: There is no room.
    """
    import ctypes  # noqa: PLC0415 - 0.4 MB, and most agents download nothing for weeks

    try:
        allocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return False
    if not length_bytes:
        return True
    offset = ctypes.c_int64
    if allocate(descriptor, _KEEP_SIZE, offset(0), offset(length_bytes)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _FULL:
        raise OSError(number, os.strerror(number))
    return False
