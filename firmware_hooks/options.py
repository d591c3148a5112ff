"""What a device says to an installer, read once and refused where it is wrong.

Owns the words for a wrong option: the device's owner reads them.
"""

from collections.abc import Collection

from firmware_hooks.contract import InstallerError, Options
from sync.manifest import Manifest
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


def text(options: Options, name: str, default: str | None = None) -> str:
    """Return a setting that is text; numbers are taken for their digits.

    Raises:
        InstallerError: It is missing and there is no default, or it is empty or no text.
    """
    value = options.get(name, default)
    if value is None:
        raise wrong(name, "is missing in the device's settings of this installer")
    if isinstance(value, bool | float) or not str(value).strip():
        raise wrong(name, f"must be text, not {value!r}")
    return str(value)


def truth(options: Options, name: str, *, default: bool) -> bool:
    """Return a setting that is true or false.

    Raises:
        InstallerError: It is something else.
    """
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise wrong(name, f"must be true or false, not {value!r}")
    return value


def number(options: Options, name: str, default: float) -> float:
    """Return a setting that is a number above zero.

    Raises:
        InstallerError: It is something else.
    """
    value = options.get(name, default)
    if isinstance(value, bool | str) or value <= 0:
        raise wrong(name, f"must be a number above zero, not {value!r}")
    return float(value)


def refuse_unknown(options: Options, known: Collection[str]) -> None:
    """Make sure that no setting is misspelt.

    Raises:
        InstallerError: One is there that nobody reads.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise wrong(unknown[0], f"is unknown; there are {', '.join(sorted(known))}")


def wrong(name: str, why: str) -> InstallerError:
    """Return the error that says what is wrong with the setting `name`."""
    return InstallerError(Reason.INSTALLER_FAILED, f"the installer's setting `{name}` {why}"[:200])


def known_parameters(installer: str, manifest: Manifest, names: Collection[str]) -> None:
    """Make sure that a release asks for nothing that is not known: a misspelt check is none.

    Raises:
        InstallerError: It does; `MANIFEST_INVALID`.
    """
    unknown = sorted(set(manifest.parameters) - set(names))
    if unknown:
        has = f"it has {', '.join(sorted(names))}" if names else "it has none"
        raise InstallerError(
            Reason.MANIFEST_INVALID,
            f"parameter {unknown[0]!r} is not known to the {installer} installer; {has}"[:200],
        )
