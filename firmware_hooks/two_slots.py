"""Two slots, one of which runs while the other is written, whoever writes it.

Owns `<install_dir>/<component>`:

    slots.json              which release each slot holds, and which is on trial since which boot
    releases/<digest>/      a folder for each release, where commands of its manifest run

and the order of what is done. Which slot boots is the bootloader's affair (`firmware_hooks.boot`),
and how one is written that of the installers that inherit from here: what is remembered says what
lies in a slot, never what runs.

A slot is forgotten before its first byte is overwritten and remembered when it is whole, so a slot
that is remembered is whole. It is never written while it runs or is the one that boots when nothing
else is asked for.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec

from firmware_hooks.boot.contract import Boot, other
from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.durable import PARTIAL, explained, make_folder, remove, write_durably
from firmware_hooks.options import known_parameters
from sync.stages import Reason


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in a slot."""

    release: str
    version: str
    length_bytes: int
    sha256: str
    sample: str
    """What a look at a little of it gives; each installer has its own."""


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


class TwoSlots:
    """All that installers with two slots have in common."""

    parameters: ClassVar[frozenset[str]] = frozenset()
    """What a release may say to this installer."""

    def __init__(self, component: str, install_dir: Path, boot: Boot, proc: Path) -> None:
        """Work for `component`; `boot` decides what boots, `proc` tells one boot from another."""
        self._home = install_dir / component
        self._file = self._home / "slots.json"
        self._boot = boot
        self._proc = proc
        self.on_progress: Callable[[str], None] = _say_nothing

    # What an installer says.

    def _refuse_if_used(self, slot: str) -> None:
        """Make sure that a slot can be written; before anything of it is forgotten.

        Raises:
            InstallerError: Something needs it.
        """

    def _fill(self, slot: str, order: Order) -> Held:
        """Write the release to a slot that nothing needs, and make sure that it is there.

        Raises:
            InstallerError: It is not there; what the slot holds now is nothing.
            OSError: The same.
        """
        raise NotImplementedError

    def _holds(self, slot: str, held: Held) -> bool:
        """Tell whether a slot that does not run holds this, having looked at all of it."""
        raise NotImplementedError

    def _is_intact(self, slot: str, held: Held) -> bool:
        """Tell whether a slot that may run holds this, as far as a glance shows."""
        raise NotImplementedError

    # What the contract asks for.

    def stage(self, order: Order) -> None:
        """Write the release to the slot that does not run."""
        if len(order.manifest.artifacts) != 1:
            raise InstallerError(
                Reason.MANIFEST_INVALID,
                f"the installer {order.manifest.installer} takes exactly one artifact",
            )
        known_parameters(order.manifest.installer, order.manifest, self.parameters)
        state = self._read()
        is_new = not self.folder(order.digest).is_dir()
        try:
            make_folder(self.folder(order.digest))
            if self._is_here(state, order.digest):
                return
            target = self._free()
            self._refuse_if_used(target)
            state = self._without(target, state)
            self._boot.try_once(self._boot.primary())
            held = self._fill(target, order)
            self._write(State(slots={**state.slots, target: held}))
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
            if not self._holds(slot, state.slots[slot]):
                self._without(slot, state)  # so that the next try writes it anew
                raise _changed(slot)
            # Without a trial it is the primary because it was committed.
            if self._boot.primary() != slot or state.trial is not None:
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
            if not self._is_intact(slot, state.slots[slot]):
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
        is_trial = state.trial is not None and state.trial.release == digest.hex()
        if current == primary == slot and back not in state.slots and not is_trial:
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
            if current not in state.slots or not self._is_intact(current, state.slots[current]):
                return None
        except (InstallerError, OSError):
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
            return self._is_intact(slot, state.slots[slot])
        return self._holds(slot, state.slots[slot])

    def _check_way_back(self, back: str, state: State) -> None:
        try:
            if back in state.slots and not self._is_intact(back, state.slots[back]):
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
        f"slot {slot} holds something else than was written: somebody wrote to it",
        is_final=True,
    )


def _say_nothing(line: str) -> None:
    """Take what nobody listens to."""
