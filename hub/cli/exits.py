"""How the operators' commands end: one exit code for each kind of failure, and one line.

Owns the codes that are not of `hub.errors.ExitCode`, whose values are left free here.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `fieldfare`. Scripts rely on the values; never reuse one."""

    OK = 0
    INTERNAL = 1
    """A fault of the program itself."""
    USAGE = 2
    """The command line is wrong."""
    NO_HUB = 10
    """No hub answers at the address."""
    REFUSED = 11
    """The hub refuses the request, and says why."""
    HUB_FAULT = 12
    """The hub answers with a fault of its own, or something else than a hub answers."""
    BAD_RELEASE = 13
    """The release's description or tree is wrong."""
    FILE = 14
    """A file or folder that was named cannot be read or written."""
    STILL_OPEN = 15
    """The wait is over, and the deployment or the kill order is not."""
    NOT_ALL_RUN = 16
    """The deployment is over, and not every targeted device runs the release."""
    KEYS = 17
    """The folder of keys cannot sign what was asked."""
    CREDENTIAL = 19
    """There is a token, and it cannot be used as it is."""
    DEMO_CANNOT_START = 20
    """The demo could not be set up."""
    DEMO_DIFFERS = 21
    """What the demo's hub reports is not what the demo did to the devices."""
    NOT_INSTALLED = 22
    """The libraries of the hub and its commands are not installed."""
    FLAGS = 23
    """The audit of flags found something wrong."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C."""


class CommandFailed(Exception):
    """A command cannot do what was asked; the message is the one line that a person reads."""

    def __init__(self, message: str, code: IntEnum) -> None:
        super().__init__(message)
        self.code = code
