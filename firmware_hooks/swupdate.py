"""The `swupdate` installer: an update file handed to SWUpdate, which writes the other slot.

Owns the call of `swupdate` and what its end means. SWUpdate verifies the file's signature and
writes what `sw-description` says for the selection that belongs to the slot; the order of things is
in `firmware_hooks.two_slots`, what boots in `firmware_hooks.boot`. SWUpdate is kept out of the
bootloader's state (`-M -m`).

SWUpdate 2022.12 ends with success without having synced what it wrote (measured with strace), so
the slot is synced here, read back past the cache, and remembered as it is read.

It outlives an agent that dies, and goes on writing. A lock that it inherits keeps a second one from
writing beside it.
"""

import contextlib
from pathlib import Path
from typing import Final

from firmware_hooks.boot.chosen import boot_from
from firmware_hooks.boot.contract import other
from firmware_hooks.boot.tool import found
from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order, RetryLater
from firmware_hooks.durable import make_folder, remove, verify, write_durably
from firmware_hooks.hook import run_hook
from firmware_hooks.options import number, refuse_unknown, text, truth
from firmware_hooks.slot import Slot, Written
from firmware_hooks.two_slots import Held, TwoSlots
from sync.stages import Reason

OPTIONS: Final = frozenset(
    {
        "boot",
        "certificate",
        "config",
        "hardware",
        "install_s",
        "proc",
        "select_a",
        "select_b",
        "slot_a",
        "slot_b",
        "writable",
    }
)

LOCKED: Final = 75
"""What `flock` is told to end with when the lock is not to be had."""
LOCK_S: Final = 30
"""How long a SWUpdate that an earlier agent left behind is waited for."""

EMPTY_CONFIG: Final = b"globals : { };\n"


class SwupdateInstaller(TwoSlots):
    """Installs update files of one component through SWUpdate."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Work for `component` with the slots, selections and bootloader that `options` name.

        Raises:
            InstallerError: An option is wrong, or missing.
        """
        boot, of_boot = boot_from(options)
        refuse_unknown(options, OPTIONS | of_boot)
        super().__init__(component, install_dir, boot, Path(text(options, "proc", "/proc")))
        a, b = boot.slots
        self._slots = {
            a: Slot(Path(text(options, "slot_a"))),
            b: Slot(Path(text(options, "slot_b"))),
        }
        self._selects = {
            a: text(options, "select_a", "stable,a"),
            b: text(options, "select_b", "stable,b"),
        }
        self._certificate = text(options, "certificate")
        self._hardware = text(options, "hardware") if "hardware" in options else None
        self._config = Path(text(options, "config")) if "config" in options else None
        self._install_s = number(options, "install_s", 3600.0)
        self._is_writable = truth(options, "writable", default=False)

    def _refuse_if_used(self, slot: str) -> None:
        self._slots[slot].refuse_if_used()

    def _fill(self, slot: str, order: Order) -> Held:
        artifact = order.manifest.artifacts[0]
        file = order.artifacts[artifact.name]
        verify(file, artifact)
        running = other(self._boot.slots, slot)
        held = self._read().slots.get(running)
        self._run(slot, file.resolve())
        if held is not None and not self._is_intact(running, held):
            raise InstallerError(
                Reason.INSTALLER_FAILED,
                f"with the selection {self._selects[slot]} SWUpdate wrote to slot {running}, which"
                " runs: its sw-description must write to the other one",
            )
        written = self._slots[slot].settled()
        return Held(
            release=order.digest.hex(),
            version=order.manifest.version,
            length_bytes=written.length_bytes,
            sha256=written.sha256,
            sample=written.sample,
        )

    def _holds(self, slot: str, held: Held) -> bool:
        return self._slots[slot].holds(Written(held.length_bytes, held.sha256, held.sample))

    def _is_intact(self, slot: str, held: Held) -> bool:
        written = Written(held.length_bytes, held.sha256, held.sample)
        return self._is_writable or self._slots[slot].seems_to_hold(written)

    def _run(self, slot: str, file: Path) -> None:
        make_folder(self._home)
        config = self._config
        if config is None:  # without any it does not start
            config = self._home / "swupdate.cfg"
            write_durably(config, EMPTY_CONFIG)
        lock = self._home / "swupdate.lock"
        unpacked = self._home / "swupdate.partial"
        command: list[str | Path] = [
            *(found("flock", "util-linux"), "--timeout", str(LOCK_S)),
            *("--conflict-exit-code", str(LOCKED), lock),
            *(found("swupdate", "swupdate"), "-f", config, "-k", self._certificate),
            *("-e", self._selects[slot], "-M", "-m", "-v", "-i", file),
        ]
        if self._hardware is not None:
            command += ["-H", self._hardware]
        errors: list[str] = []

        def hear(line: str) -> None:
            level, _, said = line.partition(":")
            what = said.partition(":")[2].strip() or said.strip()
            if level.strip() in ("[ERROR]", "ERROR"):
                errors.append(what)
            elif level.strip() == "[INFO ]" and "running" in said:
                self.on_progress(what)

        remove(unpacked)
        unpacked.mkdir()
        try:
            ended = run_hook(
                command,
                folder=self._home,
                # It puts its sockets there too, whose names must be short: so not the whole path.
                environment={"TMPDIR": unpacked.name, "SOCKET_DIR": unpacked.name},
                timeout_s=self._install_s,
                on_line=hear,
            )
        finally:
            with contextlib.suppress(OSError):
                remove(unpacked)
        if ended.is_late:
            raise InstallerError(
                Reason.HOOK_TIMED_OUT, f"SWUpdate was not done within {self._install_s:g} s"
            )
        if ended.code == LOCKED:
            raise RetryLater("an earlier SWUpdate is still writing", LOCK_S)
        if ended.code != 0:
            errors += [
                line.partition(":")[2].strip()
                for line in ended.stderr.decode(errors="replace").splitlines()
                if "ERROR" in line.partition(":")[0]
            ]
            why = errors[0] if errors else ended.last_line
            raise InstallerError(Reason.INSTALLER_FAILED, f"SWUpdate: {why}"[:200])
