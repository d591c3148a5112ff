"""Runs `firmware_hooks.unpack` and says how it ended.

Owns that process: its command, its time and what its exit codes mean to the agent.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.tree import tree_named
from firmware_hooks.unpack import Exit
from sync.stages import Reason

COMMAND: Final = (sys.executable, "-P", "-m", "firmware_hooks.unpack")

DEADLINE_S: Final = 2 * 3600.0
"""Far more than a slow card needs for the largest release; a process that hangs ends."""

_REASONS: Final[dict[int, Reason]] = {
    Exit.BAD_PACK: Reason.DIGEST_MISMATCH,
    Exit.BASE_DIFFERS: Reason.INSTALLER_FAILED,
    Exit.DISK: Reason.NO_SPACE,
}


def apply_pack(
    order: Order, pack: Path, *, base: Path, base_list: Path, into: Path, list_to: Path
) -> str:
    """Make the tree of `order` in the empty folder `into`; return what was done, for a person.

    Raises:
        InstallerError: It was not made; something of it may be left in `into`.
    """
    named = tree_named(order.manifest.parameters)
    if named is None:
        raise InstallerError(Reason.MANIFEST_INVALID, "the manifest names no list of its tree")
    try:
        ended = subprocess.run(
            [
                *COMMAND,
                *map(os.fspath, (pack, base, base_list, into, list_to)),
                named[0].hex(),
                str(order.unpacked_bytes_max),
                str(order.room_bytes),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InstallerError(
            Reason.INSTALLER_FAILED, f"the pack was not applied within {DEADLINE_S:g} s"
        ) from None
    if ended.returncode != Exit.DONE:
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        raise InstallerError(
            _REASONS.get(ended.returncode, Reason.INSTALLER_FAILED),
            (said[-1] if said else f"applying the pack ended with {ended.returncode}")[:200],
        )
    done = json.loads(ended.stdout)
    return f"{done['linked_count']} files kept, {done['made_count']} made"
