"""Devices of each kind of installer that can run anywhere, and the releases that they are given.

Owns what a start of such a device does before the agent begins: firmware chooses what is booted,
and the agent finds an installer, a clock and a reboot of this device. A reboot is the end of the
process, as a power cut is; what it was given is left for the firmware.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.settings import Settings
from firmware_hooks.contract import Order
from firmware_hooks.mender import ledger
from sync.manifest import Health, Manifest
from tests.crash import agent_child, reboot_child, slots
from tests.crash.test_agent_install import BAD, FIRST, GOOD
from tests.fakes.firmware import BOARDS
from tests.firmware_hooks import slots as ab_slots
from tests.firmware_hooks.mender import SLOTS, device, mender_order

KINDS = ("directory", "slots", "ab-slots", "mender-module")
"""`slots` is the installer in `tests.crash.slots`; the others are the real ones."""

BOARD = "tryboot"
SLOT_BYTES = 64 * 1024
IMAGE_BYTES = 9_001
GIVEN = "given"
"""The file in which a reboot leaves what it was given."""


@dataclass(frozen=True)
class Made:
    """A release, and its artifacts by digest."""

    manifest: Manifest
    artifacts: Mapping[str, bytes]


def releases_of(kind: str, folder: Path) -> dict[str, Made]:
    """Return the releases `first`, `good` and `bad`; `folder` is for files on the way."""
    if kind in ("directory", "slots"):
        given = {"first": FIRST, "good": GOOD, "bad": BAD}
        return {
            name: Made(manifest, {manifest.artifacts[0].sha256: tree})
            for name, (manifest, tree) in given.items()
        }
    return {
        "first": _made(_order(kind, folder, "1"), is_healthy=True),
        "good": _made(_order(kind, folder, "2"), is_healthy=True),
        "bad": _made(_order(kind, folder, "3"), is_healthy=False),
    }


def _order(kind: str, folder: Path, version: str) -> Order:
    if kind == "ab-slots":
        return ab_slots.order(folder, ab_slots.image(version, IMAGE_BYTES), version)
    return mender_order(folder, version, {"image": version.encode()}, kind="slots")


def _made(order: Order, *, is_healthy: bool) -> Made:
    word = "true" if is_healthy else "false"
    health = Health(command=(word,), deadline_s=0.3, pause_s=0.1)
    manifest = order.manifest.model_copy(update={"health": health})
    return Made(
        manifest,
        {each.sha256: order.artifacts[each.name].read_bytes() for each in manifest.artifacts},
    )


def runs(kind: str, folder: Path, made: Made) -> bool:
    """Tell whether a release is what really runs, by the device and not by its installer."""
    digest, version = made.manifest.digest(), made.manifest.version
    home = folder / "install" / "lamp"
    if kind == "directory":
        return (home / "current").readlink().name == digest.hex()
    if kind == "slots":
        return slots.read(home)["booted"] == digest.hex()
    if kind == "ab-slots":
        image = ab_slots.image(version, IMAGE_BYTES)
        return ab_slots.booted(folder / "device", BOARD)[:IMAGE_BYTES] == image
    of_module = folder / "device" / "slots"
    booted = (of_module / (of_module / "booted").read_text().strip()).read_text()
    return f"{booted}.0" == version


def copied(source: Path, target: Path) -> None:
    """Copy what belongs to a device beside the folders of its agent."""
    for name in ("starts", "device", GIVEN):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy(source / name, target / name)


def start(kind: str, state_dir: Path, install_dir: Path) -> None:
    """Do what comes before the agent in one start of the device."""
    if kind == "directory":
        return
    if kind == "slots":
        reboot_child.prepare(state_dir, install_dir, comes_up=True)
        return
    home = state_dir.parent
    folder, note = home / "device", home / GIVEN
    given = tuple(note.read_text().splitlines()) if note.exists() else ()
    note.unlink(missing_ok=True)
    number = reboot_child.counted(state_dir)
    folder.mkdir(exist_ok=True)
    options = (_tryboot if kind == "ab-slots" else _mender)(folder, given, number)
    settings_for: Callable[..., Settings] = agent_child.settings_for

    def settings(*args: Any) -> Settings:
        script = f'printf "%s\\n" "$@" > {note}; kill -9 "$PPID"'
        return settings_for(*args).model_copy(
            update={
                "installers": {kind: options},
                "reboot_command": ("sh", "-c", script, "reboot"),
                "reboot_wait_s": 20.0,
            }
        )

    setattr(agent_child, "settings_for", settings)  # noqa: B010 - of another module
    setattr(agent_child, "SystemClock", lambda: reboot_child.Clock(number))  # noqa: B010 - as above


def _tryboot(folder: Path, given: tuple[str, ...], _: int) -> Mapping[str, Any]:
    if not (folder / "slot_a").exists():
        ab_slots.make_device(folder, BOARD, slot_bytes=SLOT_BYTES)
    else:
        BOARDS[BOARD](folder).boot(*given)
    return ab_slots.options(folder, BOARD)


def _mender(folder: Path, _: tuple[str, ...], number: int) -> Mapping[str, Any]:
    home = folder / "slots"
    if not home.exists():
        home.mkdir()
        for name, content in {"a": "", "b": "", "default": "a", "booted": "a"}.items():
            (home / name).write_text(content)
    once = home / "once"
    chosen = once if once.exists() else home / "default"
    (home / "booted").write_text(chosen.read_text().strip())
    once.unlink(missing_ok=True)
    device(folder, {"slots": SLOTS.format(slots=home)})
    boot_id = folder / "boot-id"
    boot_id.write_text(str(number))
    setattr(ledger, "BOOT_ID", boot_id)  # noqa: B010 - of another module
    return {"modules_dir": f"{folder}/modules", "scripts_dir": f"{folder}/scripts"}
