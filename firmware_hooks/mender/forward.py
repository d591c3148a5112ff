"""The way forward: the states of Mender from `Download` to `ArtifactReboot`.

Owns their order, what is written down before each, and which failures end the install. Every step
here leads to one that a crash can be taken up at, see `firmware_hooks.mender.ledger.Phase`.
"""

import os

from msgspec.structs import replace

from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.durable import remove
from firmware_hooks.mender.back import give_up
from firmware_hooks.mender.ledger import Install, Phase, Reboot, this_boot
from firmware_hooks.mender.module import BrokenOff, Module
from firmware_hooks.mender.payload import HEADERS, Payload
from firmware_hooks.mender.scripts import Waits
from firmware_hooks.mender.streams import Streams
from firmware_hooks.mender.tree import make_tree, put_files
from firmware_hooks.mender.workplace import Workplace
from sync.stages import Reason


def download(workplace: Workplace, order: Order, payload: Payload) -> Install:
    """Let the module take the payload; nothing of it is left if it cannot.

    Raises:
        RetryLater: A script asked for it; nothing was begun.
        InstallerError: The module or a script failed.
        OSError: The disk is full or fails.
    """
    digest = order.digest.hex()
    workplace.scripts(digest).run("Download", "Enter", waits_here=False)
    running = workplace.ledger().running
    install = workplace.note(
        Install(digest=digest, before=running, phase=Phase.DOWNLOADING, kind=payload.kind)
    )
    try:
        remove(workplace.home / "payloads")
        make_tree(
            workplace.tree,
            payload,
            {
                name: order.artifacts[name].read_bytes()
                for name in HEADERS
                if name in order.artifacts
            },
            current_artifact_name=workplace.artifact_name_of(running),
            current_device_type=_device_type(workplace, order),
        )
        _hand_over(workplace, order, payload)
    except (InstallerError, OSError):
        _drop(workplace, install)
        raise
    return workplace.note(replace(install, phase=Phase.DOWNLOADED))


def end_download(workplace: Workplace, order: Order, payload: Payload, install: Install) -> None:
    """Do what comes after a download, up to where an install can wait for ever.

    Raises:
        RetryLater: A script asked for it; called again, this goes on there.
        InstallerError: The module or a script failed; nothing is left.
        OSError: The disk is full or fails.
    """
    try:
        scripts = workplace.scripts(install.digest)
        scripts.run("Download", "Leave", after=install.waits_at, waits_here=False)
        can_go_back = workplace.module(install.kind).ask("SupportsRollback") == "Yes"
        workplace.keep(order, payload)
        os.sync()  # what the module has laid down, wherever that is
    except Waits as waits:
        workplace.note(replace(install, waits_at=waits.script))
        raise
    except (InstallerError, OSError):
        _drop(workplace, install)
        raise
    workplace.note(replace(install, phase=Phase.STAGED, can_go_back=can_go_back, waits_at=""))


def install(workplace: Workplace, install: Install) -> Install:
    """Let the module install.

    Raises:
        RetryLater: A script asked for it, and nothing was begun.
        InstallerError: The module or a script failed; it has to be rolled back.
        OSError: The disk is full or fails.
    """
    waits_at = install.waits_at
    install = workplace.note(replace(install, phase=Phase.INSTALLING, waits_at=""))
    module = workplace.module(install.kind)
    scripts = workplace.scripts(install.digest)
    try:
        scripts.run("ArtifactInstall", "Enter", after=waits_at, waits_here=False)
        module.call("ArtifactInstall")
        os.sync()  # few modules do it themselves
        scripts.run("ArtifactInstall", "Leave")
        reboot = _answer(module.ask("NeedsArtifactReboot"))
    except Waits as waits:
        workplace.note(replace(install, phase=Phase.STAGED, waits_at=waits.script))
        raise
    except InstallerError:
        workplace.errors(install, "ArtifactInstall")
        raise
    return workplace.note(
        replace(install, phase=Phase.INSTALLED, reboot=reboot, is_running=reboot is Reboot.NO)
    )


def undo_half(workplace: Workplace, install: Install) -> Install:
    """Go back to before an `ArtifactInstall` that a crash or a power cut has ended.

    No module promises that it can install over half an install. One that supports rolling back
    promises that it can do so from anywhere, and then install.

    Raises:
        InstallerError: This one cannot, or failed.
    """
    if not install.can_go_back:
        raise InstallerError(
            Reason.INTERRUPTED,
            f"cut off in the middle of ArtifactInstall, and {install.kind} cannot go back"[:200],
        )
    workplace.module(install.kind).call("ArtifactRollback")
    os.sync()
    return workplace.note(replace(install, phase=Phase.STAGED))


def reboot(workplace: Workplace, install: Install) -> None:
    """Let the module restart what it has to, or write down that the device is to be restarted.

    Raises:
        InstallerError: The module or a script failed; it has to be rolled back.
        OSError: The disk is full or fails.
    """
    try:
        workplace.scripts(install.digest).run("ArtifactReboot", "Enter")
        install = workplace.note(replace(install, phase=Phase.REBOOTING, boot=this_boot()))
        if install.reboot is Reboot.YES:
            workplace.module(install.kind).call("ArtifactReboot")
            workplace.note(replace(install, phase=Phase.REBOOTED, is_running=True))
    except InstallerError:
        workplace.errors(install, "ArtifactReboot")
        raise


def verify_reboot(workplace: Workplace, install: Install) -> Install:
    """Let the module look whether the restart has led to the new release.

    Raises:
        InstallerError: It has not, or a script failed; it has to be rolled back.
        OSError: The disk is full or fails.
    """
    try:
        workplace.module(install.kind).call("ArtifactVerifyReboot")
        workplace.scripts(install.digest).run("ArtifactReboot", "Leave")
    except InstallerError as error:
        workplace.errors(install, "ArtifactReboot")
        workplace.note(replace(install, is_running=False))
        raise InstallerError(Reason.FELL_BACK, error.detail) from None
    return workplace.note(replace(install, phase=Phase.VERIFIED, is_running=True, boot=this_boot()))


def _hand_over(workplace: Workplace, order: Order, payload: Payload) -> None:
    """Give the module the payload: as streams if it takes them, else as files."""
    module: Module = workplace.module(payload.kind)
    with_sizes = module.ask("ProvidePayloadFileSizes") == "Yes"
    files = {name: order.artifacts[artifact] for name, artifact in payload.files.items()}
    with Streams(workplace.tree, files, with_sizes=with_sizes) as streams:
        state = "DownloadWithFileSizes" if with_sizes else "Download"
        fault = workplace.fault_of(lambda: module.call(state, streams.broken))
    streams.check()
    if fault is not None and not isinstance(fault, BrokenOff):
        raise fault
    if streams.is_begun and not streams.is_done:
        raise InstallerError(
            Reason.INSTALLER_FAILED, f"{state}: the module has not read all of the payload"
        )
    if not streams.is_begun:
        sums = {each.name: each.sha256 for each in order.manifest.artifacts}
        put_files(
            workplace.tree,
            {name: (files[name], sums[artifact]) for name, artifact in payload.files.items()},
            order,
        )


def _device_type(workplace: Workplace, order: Order) -> str:
    # The agent has checked that this device is one of these.
    fits = order.manifest.compatible
    return workplace.places.device_type or (fits[0] if len(fits) == 1 else "")


def _drop(workplace: Workplace, install: Install) -> None:
    workplace.errors(install, "Download")
    give_up(workplace, install)


def _answer(text: str) -> Reboot:
    try:
        return Reboot(text or "No")
    except ValueError:
        raise InstallerError(
            Reason.INSTALLER_FAILED, f"NeedsArtifactReboot: {text[:40]!r} is no answer"
        ) from None
