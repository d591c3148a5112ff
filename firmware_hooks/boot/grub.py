"""GRUB: two variables in its environment block, written where they lie.

Owns `boot_slot` (the primary) and `boot_next` (what boots next) in `grubenv`, which are the first
two of the block. GRUB's own configuration boots `boot_next`; where that differs from `boot_slot` it
first sets it back:

    load_env
    set boot_now=$boot_next
    if [ "$boot_next" != "$boot_slot" ]; then set boot_next=$boot_slot; save_env boot_next; fi

GRUB reads a journalled filesystem without replaying the journal. A file that was renamed into place
(as `grub-editenv` does) is the old file for GRUB until the journal is written back, seconds after
every fsync has returned. So the block is overwritten in place, and only its first 512 bytes: names
and values of constant length keep all that changes within one sector, which a disk writes whole or
not at all. Then the filesystem is frozen and thawed, which writes its journal back
(`firmware_hooks.boot.freeze`); where that is impossible, nothing is promised and the call fails.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from firmware_hooks.boot.cmdline import booted_slot
from firmware_hooks.boot.contract import BootError, known
from firmware_hooks.boot.mounts import mounted
from firmware_hooks.contract import Options
from firmware_hooks.options import text

BLOCK_BYTES: Final = 1024
SECTOR_BYTES: Final = 512
HEADER: Final = b"# GRUB Environment Block\n"
PRIMARY: Final = "boot_slot"
NEXT: Final = "boot_next"

FREEZE: Final = (sys.executable, "-P", "-m", "firmware_hooks.boot.freeze")

JOURNALLED: Final = frozenset({"ext3", "ext4"})
PLAIN: Final = frozenset({"ext2", "vfat", "msdos"})
"""Where GRUB can save its environment, and a synced file is where GRUB looks."""


class Grub:
    """GRUB with an environment block."""

    OPTIONS: Final = frozenset({"grubenv", "boot_a", "boot_b", "proc"})

    reboot: tuple[str, ...] = ()

    def __init__(self, options: Options, settle: Callable[[Path], None] | None = None) -> None:
        """Read the settings `grubenv`, `boot_a`, `boot_b` and `proc`.

        Args:
            options: The installer's settings.
            settle: Brings a synced file to where GRUB reads it; `settle` unless told otherwise.
        """
        self._path = Path(text(options, "grubenv", "/boot/grub/grubenv"))
        self._proc = Path(text(options, "proc", "/proc"))
        self._settle = settle if settle is not None else _settle
        self.slots = (text(options, "boot_a", "A"), text(options, "boot_b", "B"))
        if (
            not all(re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", slot) for slot in self.slots)
            or len({len(slot) for slot in self.slots}) > 1
        ):
            raise BootError(
                "GRUB's slots must have names of one length, of letters, digits, dots, dashes and"
                f" underscores, not {self.slots[0]!r} and {self.slots[1]!r}: a change has to stay"
                " within a sector"
            )

    def current(self) -> str:
        """Return the slot that the kernel's command line names."""
        return booted_slot(self._proc, self.slots)

    def primary(self) -> str:
        """Return `boot_slot`."""
        primary, _ = self._variables(self._read())
        return primary

    def try_once(self, slot: str) -> None:
        """Set `boot_next`."""
        self._set(self.primary(), known(self.slots, slot))

    def commit(self, slot: str) -> None:
        """Set both, in one sector."""
        self._set(known(self.slots, slot), slot)

    def _read(self) -> bytes:
        try:
            block = self._path.read_bytes()
        except OSError as error:
            raise BootError(f"{self._path}: {error.strerror}") from None
        if len(block) != BLOCK_BYTES or not block.startswith(HEADER):
            raise BootError(f"{self._path} is not an environment block of {BLOCK_BYTES} bytes")
        return block

    def _variables(self, block: bytes) -> tuple[str, str]:
        """Return the two slots, which have to stand where `_sector` puts them."""
        for primary in self.slots:
            for coming in self.slots:
                sector = _sector(block, primary, coming)
                if len(sector) == SECTOR_BYTES and block.startswith(sector):
                    return primary, coming
        first = self.slots[0]
        raise BootError(
            f"{self._path} must begin with {PRIMARY} and {NEXT}: make it once by grub-editenv with"
            f" create, then set {PRIMARY}={first} {NEXT}={first}, then what else it had"
        )

    def _set(self, primary: str, coming: str) -> None:
        block = self._read()
        self._variables(block)
        sector = _sector(block, primary, coming)
        try:
            descriptor = os.open(self._path, os.O_RDWR)
            try:
                # Written also if it is the same: what is read here may not have been synced.
                os.pwrite(descriptor, sector, 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BootError(f"{self._path} cannot be written: {error.strerror}") from None
        self._settle(self._path)


def _sector(block: bytes, primary: str, coming: str) -> bytes:
    """Return the first sector of `block` with the two variables after its leading remarks."""
    at = 0
    while block[at : at + 1] == b"#" and (end := block.find(b"\n", at)) != -1:
        at = end + 1
    head = block[:at] + f"{PRIMARY}={primary}\n{NEXT}={coming}\n".encode()
    return head + block[len(head) : SECTOR_BYTES]


def _settle(path: Path) -> None:
    """Make sure that GRUB, which replays no journal, reads what was synced.

    Raises:
        BootError: The filesystem cannot promise it.
    """
    kind = mounted(path).kind
    if kind in PLAIN:
        return
    if kind not in JOURNALLED:
        raise BootError(
            f"{path} lies on {kind}, where GRUB cannot be relied upon to take a wish for one boot"
            " back: keep it on FAT, ext2 or ext4"
        )
    folder = os.fspath(path.resolve().parent)
    # Neither a deadline nor the agent's end must end it between its two steps.
    ended = subprocess.run(
        [*FREEZE, folder],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    if ended.returncode != 0:
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        raise BootError(
            f"{folder} cannot be frozen ({said[-1] if said else ended.returncode}), so GRUB could"
            " boot from a state that is seconds old: keep grubenv on FAT or ext2"
        )
