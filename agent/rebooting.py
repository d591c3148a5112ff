"""Starting the device anew, where a release runs only after that.

Owns the command that does it, and waiting for the end. Whether a reboot is needed, the installer
says; what follows is `agent.install`'s business.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from agent.command import run_command
from agent.log import say
from firmware_hooks.contract import InstallerError
from sync.stages import Reason

logger = logging.getLogger(__name__)

ORDER_S = 60.0
"""Longest that the command itself may take."""


async def reboot(
    command: Sequence[str], given: Sequence[str], *, python: str, wait_s: float
) -> None:
    """Have the device start anew; does not return unless it did not.

    Args:
        command: From the settings.
        given: What the installer wants it to be given, behind that.
        python: Stands for `{python}` in the command.
        wait_s: How long the end of this start may take to come.

    Raises:
        InstallerError: The command failed, or the device still runs after `wait_s`.
    """
    words = (*command, *given)
    say(logger, "reboot", command=" ".join(words))
    ended = await run_command(
        words, folder=Path("/"), environment={}, python=python, deadline_s=ORDER_S, stays=True
    )
    if ended.code != 0:
        raise InstallerError(
            Reason.INSTALLER_FAILED,
            f"the device could not be started anew: {words[0]} ended with {ended.code}: "
            f"{ended.output}"[:200],
        )
    await asyncio.sleep(wait_s)
    raise InstallerError(
        Reason.INSTALLER_FAILED, f"the device still runs {wait_s:g} s after it was to start anew"
    )
