"""What is written down about a component that update modules install: what runs, and how far.

Owns `state.json`. A module cannot be asked what runs or what it has done, so this file is all that
is known after a crash. It is replaced whole, and durable before what it announces is begun.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from firmware_hooks.contract import InstallerError
from firmware_hooks.durable import write_durably
from sync.stages import Reason

LEDGER_BYTES_MAX: Final = 64 * 1024
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Phase(StrEnum):
    """How far an install is. Values are stored on devices; never reuse one."""

    DOWNLOADING = "downloading"
    """`Download` was begun."""
    DOWNLOADED = "downloaded"
    """`Download` has ended well, the scripts after it perhaps not."""
    STAGED = "staged"
    """Nothing of what runs was touched until here."""
    INSTALLING = "installing"
    """`ArtifactInstall`, or a script around it, was begun."""
    INSTALLED = "installed"
    REBOOTING = "rebooting"
    """`ArtifactReboot` was begun, or the device is to be restarted."""
    REBOOTED = "rebooted"
    VERIFIED = "verified"
    """`ArtifactVerifyReboot` has found the new release."""
    PROVEN = "proven"
    """Whatever may still refuse it has not."""
    COMMITTING = "committing"
    """`ArtifactCommit` was begun."""
    COMMITTED = "committed"
    """Only the scripts after it and `Cleanup` are left."""
    ROLLING_BACK = "rolling-back"
    """`ArtifactRollback` was begun."""
    REBOOTING_BACK = "rebooting-back"
    """The device, or what the module restarts, is to go back to the old release."""
    FAILING = "failing"
    """Only `ArtifactFailure` and `Cleanup` are left."""


UNTOUCHED: Final = frozenset({Phase.DOWNLOADING, Phase.DOWNLOADED, Phase.STAGED})
OVER: Final = frozenset({Phase.COMMITTED, Phase.FAILING})


class Reboot(StrEnum):
    """What a module answers to `NeedsArtifactReboot`."""

    NO = "No"
    YES = "Yes"
    """The module does it, in `ArtifactReboot`."""
    AUTOMATIC = "Automatic"
    """Whoever runs the module restarts the device."""


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """One install under way."""

    digest: str
    before: str
    """What ran before; empty for nothing that is known."""
    phase: Phase
    kind: str
    """Type of the payload: the module's name."""
    can_go_back: bool = False
    """What the module answered to `SupportsRollback`."""
    reboot: Reboot = Reboot.NO
    boot: str = ""
    """Boot in which a restart of the device began to be waited for."""
    is_running: bool = False
    """The new release was in place, completely, when this was written."""
    reboots_back: int = 0
    """How often it was tried to restart into the old release."""
    waits_at: str = ""
    """The state script that asked to be called again later."""
    trouble: str = ""
    """What failed that Mender goes on after: the first of it, in one line."""


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a component."""

    running: str = ""
    """Digest of the release that was last in place, empty for none that is known."""
    trouble: str = ""
    """What went wrong although an install went on; until another one comes to a good end."""
    stuck: str = ""
    """Digest of the release that was last found to have no way back."""
    install: Install | None = None


def read_ledger(file: Path) -> Ledger:
    """Return what is written down; an empty one if nothing is.

    Raises:
        InstallerError: What is there cannot be read.
        OSError: The disk fails.
    """
    try:
        with file.open("rb") as content:
            return msgspec.json.decode(content.read(LEDGER_BYTES_MAX), type=Ledger)
    except FileNotFoundError:
        return Ledger()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InstallerError(
            Reason.INSTALLER_FAILED, f"{file} cannot be understood: {error}"[:200]
        ) from None


def write_ledger(file: Path, ledger: Ledger) -> None:
    """Write it down, durably.

    Raises:
        OSError: The disk is full or fails; what was there still is.
    """
    write_durably(file, msgspec.json.encode(ledger))


def this_boot() -> str:
    """Return what is different after each restart of the device."""
    return BOOT_ID.read_text().strip()
