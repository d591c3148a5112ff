"""Where a component's update modules work: its folders, its ledger, its modules and scripts.

Owns `<install_dir>/<component>`, whose parts docs/explanation/mender.md names.
"""

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.durable import PARTIAL, fsync, fsync_tree, make_folder, remove
from firmware_hooks.mender.ledger import Install, Ledger, read_ledger, write_ledger
from firmware_hooks.mender.module import Module
from firmware_hooks.mender.payload import Payload
from firmware_hooks.mender.scripts import ScriptLimits, Scripts

NO_NAME: Final = "unknown"
"""Name of the artifact that runs, while none was installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the device has for update modules, and how long they may take."""

    modules_dir: Path
    scripts_dir: Path
    """State scripts of the device."""
    device_type: str
    timeout_s: float
    """For one call of a module."""
    scripts: ScriptLimits


class Workplace:
    """One component's part of the disk, and the programs that work there."""

    def __init__(self, home: Path, places: Places, tell: Callable[[str], None]) -> None:
        """Work in `home`. Touches nothing yet."""
        self.home = home
        self.places = places
        self.releases = home / "releases"
        self.tree = home / "payloads" / "0000" / "tree"
        self.tell = tell
        self._state = home / "state.json"

    # What is written down.

    def ledger(self) -> Ledger:
        """Return what is written down.

        Raises:
            InstallerError: It cannot be understood.
            OSError: The disk fails.
        """
        return read_ledger(self._state)

    def write(self, ledger: Ledger) -> None:
        """Write it down, durably.

        Raises:
            OSError: The disk is full or fails.
        """
        write_ledger(self._state, ledger)

    def note(self, install: Install) -> Install:
        """Write down how far an install is, and return it.

        Raises:
            OSError: The disk is full or fails.
        """
        self.write(replace(self.ledger(), install=install))
        return install

    # What is remembered of releases.

    def keep(self, order: Order, payload: Payload) -> None:
        """Keep what later calls need to know of a release: they get its digest only.

        Raises:
            OSError: The disk is full or fails.
        """
        final = self.releases / order.digest.hex()
        if final.is_dir():
            return
        partial = final.with_name(final.name + PARTIAL)
        make_folder(self.releases)
        remove(partial)
        (partial / "scripts").mkdir(parents=True)
        about = {"artifact_name": payload.artifact_name, "payload_type": payload.kind}
        (partial / "release.json").write_text(json.dumps(about))
        for name, artifact in payload.scripts.items():
            script = partial / "scripts" / name
            script.write_bytes(order.artifacts[artifact].read_bytes())
            script.chmod(stat.S_IRWXU)
        fsync_tree(partial)
        partial.rename(final)
        fsync(self.releases)

    def artifact_name_of(self, digest: str) -> str:
        """Return what Mender calls a release that was kept."""
        try:
            about = json.loads((self.releases / digest / "release.json").read_text())
            return str(about["artifact_name"])
        except (OSError, ValueError, KeyError, TypeError):
            return NO_NAME

    def forget_others(self) -> None:
        """Remove what is remembered of releases that neither run nor are being installed.

        Raises:
            OSError: The disk fails.
        """
        ledger = self.ledger()
        keep = {ledger.running}
        if ledger.install is not None:
            keep |= {ledger.install.digest, ledger.install.before}
        if self.releases.is_dir():
            for release in sorted(self.releases.iterdir()):
                if release.name not in keep:
                    remove(release)
        remove(self._state.with_name(self._state.name + PARTIAL))

    # Who works here.

    def module(self, kind: str) -> Module:
        """Return the module for a type of payload."""
        return Module(
            self.places.modules_dir / kind,
            self.tree,
            timeout_s=self.places.timeout_s,
            tell=self.tell,
        )

    def scripts(self, digest: str) -> Scripts:
        """Return the scripts of a release, and the device's."""
        return Scripts(
            self.scripts_dir(digest), self.places.scripts_dir, self.places.scripts, self.tell
        )

    def scripts_dir(self, digest: str) -> Path:
        """Return where the scripts of a release lie."""
        return self.releases / digest / "scripts"

    def ignoring(self, install: Install, state: str, when: str) -> Install:
        """Run scripts whose errors Mender goes on after, and return the install as it is then."""
        fault = self.fault_of(lambda: self.scripts(install.digest).run(state, when))
        return self.trouble(install, fault)

    def trouble(self, install: Install, fault: InstallerError | None) -> Install:
        """Write down what failed although the install goes on."""
        if fault is None or install.trouble:
            return install
        return self.note(replace(install, trouble=fault.detail))

    def errors(self, install: Install, state: str) -> None:
        """Run the scripts for what went wrong in a state. That one fails changes nothing more."""
        self.fault_of(lambda: self.scripts(install.digest).run(state, "Error"))

    def fault_of(self, act: Callable[[], Any]) -> InstallerError | None:
        """Return how `act` failed, None if it did not."""
        try:
            act()
        except InstallerError as error:
            self.tell(error.detail)
            return error
        return None
