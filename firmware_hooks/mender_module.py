"""The `mender-module` installer: Mender's update modules and state scripts, run as they are.

Owns which call of our contract leads to which of Mender's states, and what a crash between them
means. docs/explanation/mender.md tells both, and where the two protocols differ.

    <install_dir>/<component>/state.json            what runs, and how far an install is
    <install_dir>/<component>/releases/<digest>/    what is remembered of a release; its scripts
    <install_dir>/<component>/payloads/0000/tree/   the module's, from `Download` to `Cleanup`
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from msgspec.structs import replace

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.durable import explained, verify
from firmware_hooks.mender import forward
from firmware_hooks.mender.back import finish, give_up, reboot_back, roll_back
from firmware_hooks.mender.ledger import OVER, UNTOUCHED, Install, Ledger, Phase, Reboot, this_boot
from firmware_hooks.mender.module import end_leftovers
from firmware_hooks.mender.payload import BadPayload, payload_of
from firmware_hooks.mender.scripts import ScriptLimits
from firmware_hooks.mender.workplace import Places, Workplace
from firmware_hooks.options import known, seconds
from sync.stages import Reason

MODULES_DIR: Final = "/usr/share/mender/modules/v3"
SCRIPTS_DIR: Final = "/etc/mender/scripts"
TIMEOUT_S: Final = 4 * 3600.0
SCRIPT_TIMEOUT_S: Final = 3600.0
SCRIPT_RETRY_S: Final = 60.0
SCRIPT_RETRY_MAX_S: Final = 1800.0
"""What counts if a device says nothing: as Mender has it."""

COMMITS_MAX: Final = 3
"""Calls of `ArtifactCommit`: the release has proven itself, so there is no other way to go."""

_BUSY: Final = frozenset(
    {
        Phase.DOWNLOADING,
        Phase.INSTALLING,
        Phase.REBOOTING,
        Phase.COMMITTING,
        Phase.COMMITTED,
        Phase.ROLLING_BACK,
        Phase.REBOOTING_BACK,
        Phase.FAILING,
    }
)
"""Found at the start of a call, these mean that a program of ours may have outlived a crash."""

P = ParamSpec("P")
T = TypeVar("T")


def _explains(
    act: "Callable[Concatenate[MenderModuleInstaller, P], T]",
) -> "Callable[Concatenate[MenderModuleInstaller, P], T]":
    """Let errors of the disk leave as the contract says."""

    @functools.wraps(act)
    def explains(self: "MenderModuleInstaller", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return act(self, *args, **kwargs)
        except OSError as error:
            raise explained(error) from None

    return explains


class MenderModuleInstaller:
    """Installs releases of one component through update modules."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Work in `install_dir/component`; docs/howto/bring-mender-modules.md names the options.

        Raises:
            InstallerError: An option is unknown, or not what it must be.
        """
        self.on_progress: Callable[[str], None] = _nobody
        """Gets each state and script that is begun, and what the module prints."""
        self._workplace = Workplace(install_dir.absolute() / component, _places(options), self._say)

    @_explains
    def stage(self, order: Order) -> None:
        """Let the module download: it lays the payload down, and installs nothing yet."""
        digest = order.digest.hex()
        ledger = self._settled()
        install = ledger.install
        if install is None:
            if ledger.running == digest and not ledger.trouble:
                return
        elif install.digest != digest or install.phase is Phase.DOWNLOADING:
            give_up(self._workplace, install)
            install = self._workplace.ledger().install
            if install is not None:
                raise InstallerError(
                    Reason.BUSY, "the device has to restart before anything else is installed"
                )
        elif install.phase is not Phase.DOWNLOADED:
            return
        try:
            payload = payload_of(order.manifest)
        except BadPayload as error:
            raise InstallerError(Reason.MANIFEST_INVALID, str(error)[:200]) from None
        self._workplace.module(payload.kind).require()
        for artifact in order.manifest.artifacts:
            verify(order.artifacts[artifact.name], artifact)
        if install is None:
            install = forward.download(self._workplace, order, payload)
        forward.end_download(self._workplace, order, payload, install)

    @_explains
    def activate(self, digest: bytes) -> None:
        """Let the module install, and restart what it says it restarts."""
        ledger = self._settled()
        install = ledger.install
        if install is None and ledger.running == digest.hex():
            return
        if (
            install is None
            or install.digest != digest.hex()
            or install.phase in UNTOUCHED - {Phase.STAGED}
        ):
            raise InstallerError(Reason.INSTALLER_FAILED, "the release is not staged")
        if install.phase is Phase.INSTALLING:
            install = forward.undo_half(self._workplace, install)
        if install.phase is Phase.STAGED:
            install = forward.install(self._workplace, install)
        if install.phase is Phase.INSTALLED and install.reboot is not Reboot.NO:
            forward.reboot(self._workplace, install)

    def awaits_reboot(self) -> tuple[str, ...] | None:
        """Tell whether the device has to be restarted: the module answered `Automatic`.

        After a restart on the way back the module is asked first whether it led there; if not, it
        takes another one.
        """
        install = self._seen().install
        if install is not None and _has_restarted_back(install):
            install = self._settled().install
        if install is None or install.reboot is not Reboot.AUTOMATIC:
            return None
        is_waiting = install.phase in (Phase.REBOOTING, Phase.REBOOTING_BACK)
        return () if is_waiting and install.boot == this_boot() else None

    @_explains
    def check_trial(self, digest: bytes) -> None:
        """Let the module verify the restart, and the scripts that may refuse a commit speak."""
        ledger = self._settled()
        install = ledger.install
        if self.running() != digest:
            raise InstallerError(Reason.FELL_BACK, "another release runs, as far as is known")
        if install is None or install.digest != digest.hex():
            if ledger.trouble:
                raise InstallerError(Reason.INCONSISTENT, ledger.trouble)
            return
        if install.phase is Phase.REBOOTED:
            install = forward.verify_reboot(self._workplace, install)
        if install.phase in (Phase.INSTALLED, Phase.VERIFIED):
            try:
                self._workplace.scripts(install.digest).run("ArtifactCommit", "Enter")
            except InstallerError as error:
                self._workplace.errors(install, "ArtifactCommit")
                raise InstallerError(error.reason, error.detail, is_final=True) from None
            self._workplace.note(replace(install, phase=Phase.PROVEN))

    @_explains
    def commit(self, digest: bytes) -> None:
        """Let the module commit and clean up.

        Raises:
            InstallerError: It refused each time it was asked. The release stays all the same, and
                a person has to look; called again, there is nothing left to do.
        """
        install = self._settled().install
        if install is None or install.digest != digest.hex():
            return
        install = self._workplace.note(replace(install, phase=Phase.COMMITTING, is_running=True))
        module = self._workplace.module(install.kind)
        fault: InstallerError | None = None
        for _ in range(COMMITS_MAX):
            fault = self._workplace.fault_of(lambda: module.call("ArtifactCommit"))
            if fault is None:
                break
        else:
            self._workplace.errors(install, "ArtifactCommit")
            install = self._workplace.trouble(install, fault)
        os.sync()
        install = self._workplace.note(replace(install, phase=Phase.COMMITTED))
        finish(self._workplace, install)
        if fault is not None:
            raise InstallerError(Reason.INCONSISTENT, fault.detail)

    @_explains
    def roll_back(self, digest: bytes) -> bytes | None:
        """Let the module go back to what ran before."""
        ledger = self._settled()
        install = ledger.install
        if install is None or install.digest != digest.hex():
            if digest.hex() == ledger.stuck or (install is None and ledger.running == digest.hex()):
                raise InstallerError(
                    Reason.ROLLBACK_FAILED, "the update module has no way back from this release"
                )
            return self.running()
        if install.phase not in UNTOUCHED:
            roll_back(self._workplace, install)
        return _digest(install.before)

    def running(self) -> bytes | None:
        """Return what runs as far as is known: modules cannot be asked."""
        ledger = self._seen()
        install = ledger.install
        if install is None:
            return _digest(ledger.running)
        if install.phase in (Phase.INSTALLING, Phase.ROLLING_BACK):
            return None  # something between the two
        if _has_restarted_back(install):
            return None  # `ArtifactVerifyRollbackReboot` has still to say
        if _is_stale(install):
            return None  # `check_trial` finds out
        is_this = install.is_running
        if install.phase is Phase.REBOOTING:
            is_this = install.boot != this_boot()
        return _digest(install.digest if is_this else install.before)

    def folder(self, digest: bytes) -> Path:
        """Return where the release's scripts lie, and what has to be remembered of it."""
        return self._workplace.releases / digest.hex()

    @_explains
    def clean_up(self) -> None:
        """Let the module clean up what was staged and never installed."""
        install = self._settled().install
        if install is not None and install.phase in UNTOUCHED:
            give_up(self._workplace, install)
        self._workplace.forget_others()

    def _settled(self) -> Ledger:
        """Return what is written down, after what a crash or a restart has left was ended."""
        install = self._workplace.ledger().install
        if install is None:
            return self._workplace.ledger()
        if install.phase in _BUSY:
            scripts = self._workplace.scripts_dir(install.digest)
            end_leftovers(self._workplace.tree, scripts)
        if install.phase is Phase.REBOOTING and (
            install.reboot is Reboot.YES or install.boot != this_boot()
        ):
            # Mender takes a crash in this state for the restart; `ArtifactVerifyReboot` decides.
            self._workplace.note(replace(install, phase=Phase.REBOOTED, is_running=True))
        elif _is_stale(install):
            self._workplace.note(replace(install, phase=Phase.REBOOTED, is_running=True))
        elif _has_restarted_back(install):
            self._workplace.fault_of(lambda: reboot_back(self._workplace, install))
        elif install.phase in OVER:
            finish(self._workplace, install)
        return self._workplace.ledger()

    def _seen(self) -> Ledger:
        try:
            return self._workplace.ledger()
        except (InstallerError, OSError):
            return Ledger()

    def _say(self, line: str) -> None:
        self.on_progress(line)


def _has_restarted_back(install: Install) -> bool:
    return install.phase is Phase.REBOOTING_BACK and install.boot != this_boot()


def _nobody(_: str) -> None:
    """Tell nobody."""


def _is_stale(install: Install) -> bool:
    """Tell whether the device has started again since the restart was verified.

    A bootloader that tries a release once has gone back then; to commit would be to keep what ran
    before.
    """
    was_verified = install.phase in (Phase.VERIFIED, Phase.PROVEN, Phase.COMMITTING)
    return was_verified and install.reboot is not Reboot.NO and install.boot != this_boot()


def _places(options: Options) -> Places:
    known(
        "mender-module",
        options,
        (
            "modules_dir",
            "scripts_dir",
            "device_type",
            "timeout_s",
            "script_timeout_s",
            "script_retry_s",
            "script_retry_max_s",
        ),
    )
    return Places(
        modules_dir=Path(str(options.get("modules_dir", MODULES_DIR))),
        scripts_dir=Path(str(options.get("scripts_dir", SCRIPTS_DIR))),
        device_type=str(options.get("device_type", "")),
        timeout_s=seconds("mender-module", options, "timeout_s", TIMEOUT_S),
        scripts=ScriptLimits(
            timeout_s=seconds("mender-module", options, "script_timeout_s", SCRIPT_TIMEOUT_S),
            retry_s=seconds("mender-module", options, "script_retry_s", SCRIPT_RETRY_S),
            retry_max_s=seconds("mender-module", options, "script_retry_max_s", SCRIPT_RETRY_MAX_S),
        ),
    )


def _digest(text: str) -> bytes | None:
    return bytes.fromhex(text) or None
