"""The `ab-slots` installer: an image written to the slot that does not run, and booted on trial.

Owns `<install_dir>/<component>`:

    slots.json              which release each slot holds, and which is on trial since which boot
    releases/<digest>/      a folder for each release, where commands of its manifest run

and what the device's settings call `slot_a` and `slot_b`. Which of them boots is the bootloader's
affair (`firmware_hooks.boot`): what is written here says what lies in a slot, never what runs.

A slot is forgotten before its first byte is overwritten and remembered when its last one has been
read back, so a slot that is remembered is whole. It is never written while it runs, is mounted, or
is the one that boots when nothing else is asked for.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from firmware_hooks.boot.chosen import boot_from
from firmware_hooks.boot.contract import BootError, other
from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.durable import PARTIAL, explained, make_folder, remove, write_durably
from firmware_hooks.image import Image
from firmware_hooks.options import refuse_unknown, text, truth
from firmware_hooks.slot import Slot, Written
from sync.stages import Reason

OPTIONS: Final = frozenset({"boot", "proc", "slot_a", "slot_b", "writable"})


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in a slot."""

    release: str
    version: str
    length_bytes: int
    sha256: str
    sample: str

    @property
    def written(self) -> Written:
        """What the slot is compared with."""
        return Written(self.length_bytes, self.sha256, self.sample)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A slot that the next boot was asked to lead into."""

    release: str
    slot: str
    boot: str
    """Id of the boot in which it was asked for."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be remembered, by the bootloader's names of the slots."""

    format: int = 1
    slots: dict[str, Held] = {}
    trial: Trial | None = None


class AbSlotsInstaller:
    """Installs images of one component into two slots in turn."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Work for `component` with the slots and the bootloader that `options` name.

        Raises:
            InstallerError: An option is wrong, or missing.
        """
        self._home = install_dir / component
        self._file = self._home / "slots.json"
        self._boot, of_boot = boot_from(options)
        refuse_unknown(options, OPTIONS | of_boot)
        self._proc = Path(text(options, "proc", "/proc"))
        paths = (text(options, "slot_a"), text(options, "slot_b"))
        if paths[0] == paths[1]:
            raise InstallerError(
                Reason.INSTALLER_FAILED, f"slot_a and slot_b are both {paths[0]}: name two"
            )
        self._slots = {
            name: Slot(Path(path)) for name, path in zip(self._boot.slots, paths, strict=True)
        }
        self._is_writable = truth(options, "writable", default=False)
        self.on_progress: Callable[[str], None] = _say_nothing

    # What the contract asks for.

    def stage(self, order: Order) -> None:
        """Write the image to the slot that does not run."""
        if len(order.manifest.artifacts) != 1:
            raise InstallerError(
                Reason.MANIFEST_INVALID, "the ab-slots installer takes exactly one artifact"
            )
        state = self._read()
        is_new = not self.folder(order.digest).is_dir()
        try:
            make_folder(self.folder(order.digest))
            if self._is_here(state, order.digest):
                return
            target = self._free()
            self._slots[target].refuse_if_used()
            state = self._without(target, state)
            self._boot.try_once(self._boot.primary())
            artifact = order.manifest.artifacts[0]
            image = Image(order.artifacts[artifact.name], artifact)
            written = self._slots[target].write(image.chunks(), self.on_progress)
            _compare(written, order)
            now = Held(
                release=order.digest.hex(),
                version=order.manifest.version,
                length_bytes=written.length_bytes,
                sha256=written.sha256,
                sample=written.sample,
            )
            self._write(State(slots={**state.slots, target: now}))
        except (OSError, InstallerError) as error:
            if is_new:
                with contextlib.suppress(OSError):
                    remove(self.folder(order.digest))
            if isinstance(error, OSError):
                raise explained(error) from None
            raise

    def activate(self, digest: bytes) -> None:
        """Ask the bootloader to boot the slot once."""
        state = self._read()
        slot = self._holder(state, digest)
        if slot is None:
            raise InstallerError(Reason.INSTALLER_FAILED, "the release is not staged")
        if self._boot.current() == slot:
            return
        try:
            if not self._slots[slot].holds(state.slots[slot].written):
                self._without(slot, state)  # so that the next try writes it anew
                raise _changed(slot)
            if self._boot.primary() != slot:
                trial = Trial(release=digest.hex(), slot=slot, boot=self._boot_id())
                self._write(State(slots=state.slots, trial=trial))
                self._boot.try_once(slot)
        except OSError as error:
            raise explained(error) from None

    def awaits_reboot(self) -> tuple[str, ...] | None:
        """Tell whether another slot is to be booted than the one that was."""
        trial = self._read().trial
        current = self._boot.current()
        if trial is None:
            return () if self._boot.primary() != current else None
        is_asked_for = trial.slot != current and trial.boot == self._boot_id()
        return self._boot.reboot if is_asked_for else None

    def check_trial(self, digest: bytes) -> None:
        """Make sure that the release's slot was booted, and still holds it."""
        state = self._read()
        slot, current = self._holder(state, digest), self._boot.current()
        if slot == current:
            if not self._is_intact(slot, state):
                raise _changed(slot)
            return
        trial = state.trial
        if trial is not None and trial.release == digest.hex() and trial.boot != self._boot_id():
            raise InstallerError(
                Reason.FELL_BACK,
                f"slot {trial.slot} was to be booted and {current} was: the bootloader went back,"
                " or the power failed first",
            )
        raise InstallerError(
            Reason.INSTALLER_FAILED,
            f"slot {current} runs, which does not hold the release",
        )

    def commit(self, digest: bytes) -> None:
        """Make the slot the one that boots."""
        state = self._read()
        slot = self._holder(state, digest)
        if slot is None:
            raise InstallerError(Reason.INSTALLER_FAILED, "no slot holds the release")
        self._boot.commit(slot)
        if state.trial is not None:
            self._write(State(slots=state.slots))

    def roll_back(self, digest: bytes) -> bytes | None:
        """Let the other slot boot from now on; the reboot is up to the agent."""
        state = self._read()
        slot = self._holder(state, digest)
        if slot is None:
            return self.running()
        current, primary = self._boot.current(), self._boot.primary()
        back = other(self._boot.slots, slot)
        if current == primary == slot and back not in state.slots:
            return digest  # it was committed, and nothing earlier is known
        if current == slot:
            self._check_way_back(back, state)
        if primary == slot:
            self._boot.commit(back)
        else:
            self._boot.try_once(primary)
        if state.trial is not None:
            self._write(State(slots=state.slots))
        return _release(state.slots.get(back))

    def running(self) -> bytes | None:
        """Return what the booted slot holds; None if that is not known, or no longer true."""
        state = self._read()
        try:
            current = self._boot.current()
            if current not in state.slots or not self._is_intact(current, state):
                return None
        except (BootError, OSError):
            return None
        return _release(state.slots[current])

    def folder(self, digest: bytes) -> Path:
        """Return a folder of the release; its tree is the booted slot."""
        return self._home / "releases" / digest.hex()

    def clean_up(self) -> None:
        """Remove folders of releases that no slot holds."""
        keep = {held.release for held in self._read().slots.values()}
        try:
            remove(self._file.with_name(self._file.name + PARTIAL))
            for folder in sorted((self._home / "releases").iterdir()):
                if folder.name not in keep:
                    remove(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise explained(error) from None

    # Parts.

    def _free(self) -> str:
        """Return the slot that may be written."""
        current, primary = self._boot.current(), self._boot.primary()
        if current != primary:
            raise InstallerError(
                Reason.BUSY,
                f"slot {current} runs and {primary} is the one that boots: restart the device"
                " first, so that one of them is free",
            )
        return other(self._boot.slots, current)

    def _holder(self, state: State, digest: bytes) -> str | None:
        for slot in self._boot.slots:
            if slot in state.slots and state.slots[slot].release == digest.hex():
                return slot
        return None

    def _is_here(self, state: State, digest: bytes) -> bool:
        """Tell whether a slot holds the release already, having read all of it unless it runs."""
        slot = self._holder(state, digest)
        if slot is None:
            return False
        if slot == self._boot.current():
            return self._is_intact(slot, state)
        return self._slots[slot].holds(state.slots[slot].written)

    def _is_intact(self, slot: str, state: State) -> bool:
        """Tell whether nobody wrote to a slot since it was written here.

        A filesystem that is mounted for writing changes its slot all the time.
        """
        return self._is_writable or self._slots[slot].seems_to_hold(state.slots[slot].written)

    def _check_way_back(self, back: str, state: State) -> None:
        try:
            if back in state.slots and not self._is_intact(back, state):
                raise InstallerError(
                    Reason.ROLLBACK_FAILED,
                    f"slot {back} holds something else than was written: somebody wrote to it",
                )
        except OSError as error:
            raise explained(error, Reason.ROLLBACK_FAILED) from None

    def _boot_id(self) -> str:
        return (self._proc / "sys/kernel/random/boot_id").read_text().strip()

    def _without(self, slot: str, state: State) -> State:
        """Forget what a slot holds, durably, and what was on trial."""
        left = State(slots={name: held for name, held in state.slots.items() if name != slot})
        if left != state:
            self._write(left)
        return left

    def _read(self) -> State:
        try:
            state = msgspec.json.decode(self._file.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise explained(error) from None
        except (msgspec.DecodeError, msgspec.ValidationError):
            return State()  # what the slots hold is not known any more; the next install tells
        return state

    def _write(self, state: State) -> None:
        write_durably(self._file, msgspec.json.encode(state))


def _release(held: Held | None) -> bytes | None:
    return bytes.fromhex(held.release) if held is not None else None


def _changed(slot: str) -> InstallerError:
    return InstallerError(
        Reason.INSTALLER_FAILED,
        f"slot {slot} holds something else than was written: somebody wrote to it. If its"
        " filesystem is mounted for writing, set `writable`",
    )


def _compare(written: Written, order: Order) -> None:
    """Compare with what the manifest says about the image inside the artifact, if it does."""
    expected = order.manifest.parameters.get("image_sha256", written.sha256)
    if written.sha256 != expected:
        raise InstallerError(
            Reason.DIGEST_MISMATCH, "the image is not the one that `image_sha256` names"
        )


def _say_nothing(line: str) -> None:
    """Take what nobody listens to."""
