"""`python -m tests.crash.reboot_child STATE_DIR INSTALL_DIR KILL_AT COMES_UP`: one start.

The firmware chooses what is booted, then the agent works, with an installer whose releases run only
after a reboot. A reboot is the end of this process, by SIGKILL, as a power cut is. Prints how many
steps there were if it comes to its end.
"""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent import releases
from agent.clock import SystemClock
from agent.store import Store
from sync.stamps import BOOT_BYTES, Stamp
from tests.crash import agent_child, slots
from tests.crash.agent_child import Steps, settings_for


class Entry:
    """The entry point of the installer."""

    def load(self) -> type[slots.TwoSlots]:
        return slots.TwoSlots


class Clock(SystemClock):
    """The clock of the start with this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def stamp(self) -> Stamp:
        return replace(super().stamp(), boot=self._number.to_bytes(BOOT_BYTES))


def counted(state_dir: Path) -> int:
    """Count a start of the device; return its number."""
    counter = state_dir.parent / "starts"
    number = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(number))
    return number


def prepare(state_dir: Path, install_dir: Path, *, comes_up: bool) -> None:
    """Boot, and let the agent find an installer, a clock and a reboot of this device."""
    number = counted(state_dir)
    slots.start(install_dir / "lamp", comes_up=comes_up)
    setattr(agent_child, "SystemClock", lambda: Clock(number))  # noqa: B010 - of another module
    setattr(releases, "entry_points", lambda **_: [Entry()])  # noqa: B010 - of another module

    def settings(*given: Any) -> Any:
        kill = ("sh", "-c", 'kill -9 "$PPID"')
        return settings_for(*given).model_copy(
            update={"reboot_command": kill, "reboot_wait_s": 20.0}
        )

    setattr(agent_child, "settings_for", settings)  # noqa: B010 - of another module


def main() -> None:
    state_dir, install_dir, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    prepare(state_dir, install_dir, comes_up=sys.argv[4] == "yes")
    steps = Steps(kill_at)
    for owner, names in (
        (Store, ("write_journal", "log", "keep")),
        (slots.TwoSlots, ("stage", "activate", "commit", "roll_back")),
    ):
        for name in names:
            setattr(owner, name, steps.around(getattr(owner, name)))
    asyncio.run(agent_child.work(state_dir, install_dir))
    sys.stdout.write(f"{steps.count}\n")


if __name__ == "__main__":
    main()
