"""The ends of an install: rolling back, and the cleaning up that always comes.

Owns the order of Mender's states from `ArtifactRollback` on, and `Cleanup` after every end.
"""

import os
from typing import Final, NoReturn

from msgspec.structs import replace

from firmware_hooks.contract import InstallerError
from firmware_hooks.durable import remove
from firmware_hooks.mender.ledger import OVER, UNTOUCHED, Install, Phase, Reboot, this_boot
from firmware_hooks.mender.workplace import Workplace
from sync.stages import Reason

REBOOTS_BACK_MAX: Final = 3
"""Tries to restart into the old release."""


def roll_back(workplace: Workplace, install: Install) -> None:
    """Let the module go back to what ran before. What may still be awaited is a restart.

    Raises:
        InstallerError: It cannot go back, or failed to. The install is over.
        OSError: The disk is full or fails.
    """
    if install.phase is not Phase.REBOOTING_BACK:
        install = workplace.note(replace(install, phase=Phase.ROLLING_BACK))
        module = workplace.module(install.kind)
        if not _can_go_back(workplace, install):
            _stay(workplace, install, f"the update module {install.kind} cannot go back")
        install = workplace.ignoring(install, "ArtifactRollback", "Enter")
        fault = workplace.fault_of(lambda: module.call("ArtifactRollback"))
        os.sync()
        if fault is not None:
            _stay(workplace, install, fault.detail)
        install = workplace.ignoring(install, "ArtifactRollback", "Leave")
        if install.reboot is Reboot.NO:
            install = workplace.note(replace(install, phase=Phase.FAILING, is_running=False))
        else:
            install = _begin_reboot(workplace, install)
    reboot_back(workplace, install)


def reboot_back(workplace: Workplace, install: Install) -> None:
    """Go on to the end from where a restart into the old release was begun.

    Raises:
        InstallerError: As `roll_back`.
        OSError: The disk is full or fails.
    """
    module = workplace.module(install.kind)
    while install.phase is Phase.REBOOTING_BACK:
        if install.boot == this_boot():
            if install.reboot is Reboot.AUTOMATIC:
                return  # whoever asks `awaits_reboot` does it
            workplace.fault_of(lambda: module.call("ArtifactRollbackReboot"))
        fault = workplace.fault_of(lambda: module.call("ArtifactVerifyRollbackReboot"))
        if fault is None:
            install = workplace.ignoring(install, "ArtifactRollbackReboot", "Leave")
            install = workplace.note(replace(install, phase=Phase.FAILING, is_running=False))
        elif install.reboots_back >= REBOOTS_BACK_MAX:
            _stay(workplace, install, fault.detail)
        else:
            install = _begin_reboot(workplace, install)
    finish(workplace, install)


def finish(workplace: Workplace, install: Install) -> None:
    """Do what is left after the last decision.

    Raises:
        OSError: The disk is full or fails; called again, this goes on.
    """
    module = workplace.module(install.kind)
    is_good = install.phase is Phase.COMMITTED
    if is_good:
        install = workplace.ignoring(install, "ArtifactCommit", "Leave")
    else:
        install = workplace.ignoring(install, "ArtifactFailure", "Enter")
        fault = workplace.fault_of(lambda: module.call("ArtifactFailure"))
        install = workplace.trouble(install, fault)
        install = workplace.ignoring(install, "ArtifactFailure", "Leave")
    _clear(workplace, install)
    ledger = workplace.ledger()
    workplace.write(
        replace(
            ledger,
            running=install.digest if is_good else install.before,
            trouble=install.trouble or ("" if is_good else ledger.trouble),
            install=None,
        )
    )


def give_up(workplace: Workplace, install: Install) -> None:
    """End an install that nobody waits for any more, as far as it can be ended now.

    Raises:
        OSError: The disk is full or fails.
    """
    if install.phase in OVER:
        finish(workplace, install)
    elif install.phase not in UNTOUCHED:
        workplace.fault_of(lambda: roll_back(workplace, install))
    else:
        _clear(workplace, install)
        workplace.write(replace(workplace.ledger(), install=None))
        if install.digest != install.before:
            remove(workplace.releases / install.digest)


def _can_go_back(workplace: Workplace, install: Install) -> bool:
    """Ask again, as Mender does; a module that fails to answer is believed what it said first."""
    try:
        return workplace.module(install.kind).ask("SupportsRollback") == "Yes"
    except InstallerError:
        return install.can_go_back


def _begin_reboot(workplace: Workplace, install: Install) -> Install:
    install = workplace.ignoring(install, "ArtifactRollbackReboot", "Enter")
    return workplace.note(
        replace(
            install,
            phase=Phase.REBOOTING_BACK,
            boot=this_boot(),
            reboots_back=install.reboots_back + 1,
        )
    )


def _stay(workplace: Workplace, install: Install, why: str) -> NoReturn:
    """End an install that cannot be taken back."""
    runs = install.digest if install.is_running else ""
    install = replace(install, phase=Phase.FAILING, before=runs, trouble=install.trouble or why)
    workplace.write(replace(workplace.ledger(), install=install, stuck=install.digest))
    finish(workplace, install)
    raise InstallerError(Reason.ROLLBACK_FAILED, why[:200])


def _clear(workplace: Workplace, install: Install) -> None:
    if workplace.tree.is_dir():
        workplace.fault_of(lambda: workplace.module(install.kind).call("Cleanup"))
    try:
        remove(workplace.home / "payloads")
    except OSError as error:  # something is mounted there; the next download will say so
        workplace.tell(f"{workplace.home / 'payloads'} is left: {error}")
