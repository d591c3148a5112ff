"""Freezes a filesystem and thaws it at once: `python -m firmware_hooks.boot.freeze FOLDER`.

Owns that moment. Freezing is the one call after which a filesystem's journal is empty and all it
held is in its place, where a bootloader reads it. It is a process of its own, in its own session
and deaf to signals, because a program that ends between the two calls leaves a filesystem on which
every write waits for ever.
"""

import fcntl
import os
import signal
import sys
from typing import Final

FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878
"""Request numbers of `linux/fs.h`."""


def main(arguments: list[str]) -> int:
    """Freeze and thaw the filesystem of a folder; 0 if both were done."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m firmware_hooks.boot.freeze FOLDER\n")
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        descriptor = os.open(arguments[0], os.O_RDONLY | os.O_DIRECTORY)
        fcntl.ioctl(descriptor, FIFREEZE, 0)
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
