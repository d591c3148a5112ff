"""One log line as systemd's journal takes it: fields, so that people can ask for them.

Owns the form, systemd's native journal protocol (systemd.io, "Native Journal Protocol"), and the
names of our fields. Sends nothing.
"""

import re
from collections.abc import Mapping
from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"

STREAM: Final = "JOURNAL_STREAM"
"""Variable that systemd sets to `device:inode` of standard error where that is the journal."""

ENTRY_BYTES_MAX: Final = 64 * 1024
"""Longest line that is sent; a socket's buffer holds at least three of them."""

PREFIX: Final = "FIELDFARE_"

_PRIORITY: Final = ((50, 2), (40, 3), (30, 4), (20, 6))
"""Levels of the standard library's `logging` from critical to info, and what syslog calls them."""

_DEBUG: Final = 7
_NOT_OF_A_NAME: Final = re.compile(r"[^A-Z0-9_]")
_NAME_CHARACTERS_MAX: Final = 64


def priority(level: int) -> int:
    """Return syslog's priority of a level of `logging`."""
    return next((found for least, found in _PRIORITY if level >= least), _DEBUG)


def field_name(name: str) -> str:
    """Return the name of a field: capital letters, digits and underscores, with our prefix."""
    plain = _NOT_OF_A_NAME.sub("_", name.upper())
    return f"{PREFIX}{plain}"[:_NAME_CHARACTERS_MAX]


def entry(
    message: str, *, level: int, program: str, logger: str, fields: Mapping[str, object]
) -> bytes:
    """Return the datagram of one line.

    Args:
        message: What people read.
        level: As `logging` has it.
        program: Name of the program.
        logger: Module that says it.
        fields: What is to be known about it; names become `FIELDFARE_NAME`.
    """
    told = {
        "PRIORITY": str(priority(level)),
        "SYSLOG_IDENTIFIER": program,
        "LOGGER": logger,
        "MESSAGE": message,
        **{field_name(name): str(value) for name, value in fields.items()},
    }
    made = b""
    for name, value in told.items():
        held = value.encode(errors="replace")
        plain = b"\n" not in held
        line = (
            name.encode() + b"=" + held + b"\n"
            if plain
            # A value of several lines goes with its length before it, 64 bits, little end first.
            else name.encode() + b"\n" + len(held).to_bytes(8, "little") + held + b"\n"
        )
        if len(made) + len(line) <= ENTRY_BYTES_MAX:
            made += line
    return made


def is_stream_of(found: str, device: int, inode: int) -> bool:
    """Tell whether `JOURNAL_STREAM` says that this file is the journal's."""
    return found == f"{device}:{inode}"
