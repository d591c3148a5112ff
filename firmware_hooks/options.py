"""What a device says to an installer, read once and refused where it is wrong.

Owns the words for a wrong option: the device's owner reads them.
"""

from collections.abc import Collection

from firmware_hooks.contract import InstallerError, Options
from sync.stages import Reason


def known(installer: str, options: Options, names: Collection[str], prefix: str = "") -> Options:
    """Return the options if the installer has each of them.

    Args:
        installer: Its name.
        options: What the device says.
        names: Its options.
        prefix: Options that begin with this are its own too; none if empty.

    Raises:
        InstallerError: There is another one.
    """
    for name in sorted(options):
        if name not in names and not (prefix and name.startswith(prefix)):
            raise InstallerError(
                Reason.INSTALLER_FAILED,
                f"the {installer} installer has no option {name!r}: take it out of the device's "
                "settings",
            )
    return options


def seconds(installer: str, options: Options, name: str, default_s: float) -> float:
    """Return an option that is a time in seconds.

    Raises:
        InstallerError: It is no number above 0.
    """
    value = options.get(name, default_s)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InstallerError(
            Reason.INSTALLER_FAILED,
            f"option {name!r} of the {installer} installer must be a number of seconds above 0",
        )
    return float(value)
