"""Log lines on their way into systemd's journal, with their fields.

Owns the socket; the form of a line is `sync.journald`'s. Where there is no journal, lines go to
standard error as before.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping

from sync.journald import SOCKET, STREAM, entry, is_stream_of


def writes_to_journal() -> bool:
    """Tell whether standard error of this process is the journal."""
    try:
        there = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, or no file at all
        return False
    return is_stream_of(os.environ.get(STREAM, ""), there.st_dev, there.st_ino)


class JournalHandler(logging.Handler):
    """Sends each line to the journal, and to standard error what the journal does not take."""

    def __init__(
        self,
        program: str,
        fields_of: Callable[[logging.LogRecord], Mapping[str, object]],
        path: str = SOCKET,
    ) -> None:
        """Send as `program` to the journal at `path`; `fields_of` says what is known of a line."""
        super().__init__()
        self._program = program
        self._fields_of = fields_of
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        text = self.format(record)
        told = entry(
            text,
            level=record.levelno,
            program=self._program,
            logger=record.name,
            fields=self._fields_of(record),
        )
        try:
            self._socket.sendto(told, self._path)
        except OSError:
            sys.stderr.write(f"{text}\n")  # the journal takes it from there as well

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()
