"""What a boot backend is: four calls, and what each promises across a power cut.

Owns the contract between an installer that writes slots and whatever makes the firmware boot one.
A backend keeps nothing of its own: what it answers is what the bootloader's own state says.

What every backend keeps, whatever instruction the power fails at:

* there is always a slot that boots;
* `try_once` leads into the slot once; the boot after that is the primary's again, unless `commit`
  came between;
* once `commit` has returned, the slot is the one that boots, also if the power fails at once.
"""

from typing import Protocol

from firmware_hooks.contract import InstallerError
from sync.stages import Reason


class BootError(InstallerError):
    """The bootloader's state cannot be read or written; it is as it was, or as it was to become."""

    def __init__(self, detail: str) -> None:
        """Say what was wrong, where, and what to do."""
        super().__init__(Reason.INSTALLER_FAILED, detail[:200])


class Boot(Protocol):
    """One bootloader that has two slots to choose from."""

    @property
    def slots(self) -> tuple[str, str]:
        """Their names, as the bootloader knows them."""
        ...

    @property
    def reboot(self) -> tuple[str, ...]:
        """What the reboot must be given that leads into a slot on trial; () for a plain one."""
        ...

    def current(self) -> str:
        """Return the slot that the running system was booted from.

        Raises:
            BootError: Nothing that runs here says so.
        """
        ...

    def primary(self) -> str:
        """Return the slot that boots when nothing else was asked for.

        Raises:
            BootError: The bootloader's state cannot be read, or was never set up.
        """
        ...

    def try_once(self, slot: str) -> None:
        """Let the next boot lead into `slot`, and the one after it into the primary again.

        Asking for the primary takes back what was asked for before. May be repeated.

        Raises:
            BootError: It was not written; what boots is what booted before.
        """
        ...

    def commit(self, slot: str) -> None:
        """Make `slot` the primary, durably. May be repeated.

        Raises:
            BootError: It is not certain to be durable; the earlier primary or `slot` boots.
        """
        ...


def known(slots: tuple[str, str], slot: str) -> str:
    """Return `slot` if it is one of `slots`.

    Raises:
        BootError: It is not.
    """
    if slot not in slots:
        raise BootError(f"there is no slot {slot!r} here; there are {slots[0]} and {slots[1]}")
    return slot


def other(slots: tuple[str, str], slot: str) -> str:
    """Return the other one of the two."""
    return slots[1] if slot == slots[0] else slots[0]
