"""The `ab-slots` installer: an image written to the slot that does not run, and booted on trial.

Owns what the device's settings call `slot_a` and `slot_b`. The order of things is in
`firmware_hooks.two_slots`, the writing in `firmware_hooks.slot`, what boots in
`firmware_hooks.boot`.
"""

from pathlib import Path
from typing import Final

from firmware_hooks.boot.chosen import boot_from
from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.image import Image
from firmware_hooks.options import refuse_unknown, text, truth
from firmware_hooks.slot import Slot, Written
from firmware_hooks.two_slots import Held, TwoSlots
from sync.stages import Reason

OPTIONS: Final = frozenset({"boot", "proc", "slot_a", "slot_b", "writable"})


class AbSlotsInstaller(TwoSlots):
    """Installs images of one component into two slots in turn."""

    parameters = frozenset({"image_sha256"})

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Work for `component` with the slots and the bootloader that `options` name.

        Raises:
            InstallerError: An option is wrong, or missing.
        """
        boot, of_boot = boot_from(options)
        refuse_unknown(options, OPTIONS | of_boot)
        super().__init__(component, install_dir, boot, Path(text(options, "proc", "/proc")))
        paths = (text(options, "slot_a"), text(options, "slot_b"))
        if paths[0] == paths[1]:
            raise InstallerError(
                Reason.INSTALLER_FAILED, f"slot_a and slot_b are both {paths[0]}: name two"
            )
        self._slots = {name: Slot(Path(path)) for name, path in zip(boot.slots, paths, strict=True)}
        self._is_writable = truth(options, "writable", default=False)

    def _refuse_if_used(self, slot: str) -> None:
        self._slots[slot].refuse_if_used()

    def _fill(self, slot: str, order: Order) -> Held:
        artifact = order.manifest.artifacts[0]
        image = Image(order.artifacts[artifact.name], artifact)
        written = self._slots[slot].write(image.chunks(), self.on_progress)
        if written.sha256 != order.manifest.parameters.get("image_sha256", written.sha256):
            raise InstallerError(
                Reason.DIGEST_MISMATCH, "the image is not the one that `image_sha256` names"
            )
        return Held(
            release=order.digest.hex(),
            version=order.manifest.version,
            length_bytes=written.length_bytes,
            sha256=written.sha256,
            sample=written.sample,
        )

    def _holds(self, slot: str, held: Held) -> bool:
        return self._slots[slot].holds(_written(held))

    def _is_intact(self, slot: str, held: Held) -> bool:
        # A filesystem that is mounted for writing changes its slot all the time.
        return self._is_writable or self._slots[slot].seems_to_hold(_written(held))


def _written(held: Held) -> Written:
    return Written(held.length_bytes, held.sha256, held.sample)
