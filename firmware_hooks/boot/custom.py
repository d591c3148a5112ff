"""A bootloader behind a program, called as RAUC calls its custom bootloader backend.

Owns the calls, as the section "Custom" of RAUC's integration manual has them:

    get-primary          prints the slot that boots next
    set-primary SLOT     makes it that; a bad one is tried once, and then the other boots again
    get-state SLOT       prints good or bad
    set-state SLOT good|bad
    get-current          prints the slot that was booted

A try is a slot that is marked bad and made primary, in this order, as RAUC does when it has written
one; committing marks it good. So the primary, as everybody else here means it, is what
`get-primary` names if it is good, and the other slot if it is not. What the program writes has to
be durable when it ends.
"""

from pathlib import Path
from typing import Final

from firmware_hooks.boot.contract import BootError, known, other
from firmware_hooks.boot.tool import ask
from firmware_hooks.contract import Options
from firmware_hooks.options import number, text


class Custom:
    """Whatever the program speaks to."""

    OPTIONS: Final = frozenset(
        {"boot_program", "boot_program_s", "boot_reboot", "boot_a", "boot_b", "proc"}
    )

    def __init__(self, options: Options) -> None:
        """Read `boot_program`, `boot_program_s`, `boot_reboot`, `boot_a` and `boot_b`."""
        self._program = Path(text(options, "boot_program"))
        self._deadline_s = number(options, "boot_program_s", 60.0)
        self.slots = (text(options, "boot_a", "A"), text(options, "boot_b", "B"))
        self.reboot: tuple[str, ...] = (
            (text(options, "boot_reboot"),) if "boot_reboot" in options else ()
        )

    def current(self) -> str:
        """Return what `get-current` says."""
        return known(self.slots, self._ask("get-current"))

    def primary(self) -> str:
        """Return what `get-primary` says, or the other one while that is not marked good."""
        named = known(self.slots, self._ask("get-primary"))
        return named if self._is_good(named) else other(self.slots, named)

    def try_once(self, slot: str) -> None:
        """Mark it bad and make it primary; make the good one primary again to take that back."""
        if known(self.slots, slot) != self.primary():
            self._ask("set-state", slot, "bad")
        self._ask("set-primary", slot)

    def commit(self, slot: str) -> None:
        """Make it primary, if it is not, and mark it good."""
        if self._ask("get-primary") != known(self.slots, slot):
            self._ask("set-primary", slot)
        self._ask("set-state", slot, "good")

    def _is_good(self, slot: str) -> bool:
        said = self._ask("get-state", slot)
        if said not in ("good", "bad"):
            raise BootError(f"{self._program} get-state {slot} says {said!r}, not good or bad")
        return said == "good"

    def _ask(self, *arguments: str) -> str:
        return ask([self._program, *arguments], self._deadline_s)
