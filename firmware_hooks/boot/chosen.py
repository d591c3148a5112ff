"""The boot backend that the device's settings name.

Owns their names. Imports only the one that is used.
"""

from typing import Final

from firmware_hooks.boot.contract import Boot
from firmware_hooks.contract import Options
from firmware_hooks.options import text, wrong

BACKENDS: Final = ("custom", "grub", "tryboot", "uboot")


def boot_from(options: Options) -> tuple[Boot, frozenset[str]]:
    """Return the backend of the setting `boot`, and the names of the settings it reads.

    Raises:
        InstallerError: There is no such backend, or a setting of it is missing or wrong.
    """
    # ruff: noqa: PLC0415 - one of four is needed
    name = text(options, "boot")
    if name == "tryboot":
        from firmware_hooks.boot.tryboot import Tryboot

        return Tryboot(options), Tryboot.OPTIONS
    if name == "uboot":
        from firmware_hooks.boot.uboot import UBoot

        return UBoot(options), UBoot.OPTIONS
    if name == "grub":
        from firmware_hooks.boot.grub import Grub

        return Grub(options), Grub.OPTIONS
    if name == "custom":
        from firmware_hooks.boot.custom import Custom

        return Custom(options), Custom.OPTIONS
    raise wrong("boot", f"must be one of {', '.join(BACKENDS)}, not {name!r}")
