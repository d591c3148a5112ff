"""The agent's work in a process that kills itself at a chosen step.

`python -m tests.crash.agent_child STATE_DIR INSTALL_DIR KILL_AT`: carries out what the stored
documents wish for and ends when nothing is left to do. Steps are the moments before and after every
durable write and every act of the installer; at step KILL_AT (0 for never) the process gets a real
SIGKILL. Prints how many steps there were.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from agent.clock import SystemClock
from agent.desired import wishes
from agent.documents import Documents
from agent.install import DONE
from agent.installer import InstallEngine
from agent.settings import Settings
from agent.store import Store, open_store
from agent.work import Work
from firmware_hooks.directory import DirectoryInstaller
from sync.stages import is_final

DEVICE = "crash-1"


class Steps:
    """Counts the steps and dies at the chosen one."""

    def __init__(self, kill_at: int) -> None:
        self.count = 0
        self._kill_at = kill_at

    def pass_one(self) -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        if asyncio.iscoroutinefunction(act):

            @wraps(act)
            async def waited(*args: Any, **kwargs: Any) -> Any:
                self.pass_one()
                result = await act(*args, **kwargs)
                self.pass_one()
                return result

            return waited

        @wraps(act)
        def done(*args: Any, **kwargs: Any) -> Any:
            self.pass_one()
            result = act(*args, **kwargs)
            self.pass_one()
            return result

        return done


def watch(steps: Steps) -> None:
    """Make every durable write and every act of the installer a step."""
    for owner, names in (
        (Store, ("write_journal", "log", "keep", "set_numbers")),
        (DirectoryInstaller, ("stage", "activate", "commit", "roll_back", "clean_up")),
        (DirectoryInstaller, ("_point",)),
    ):
        for name in names:
            setattr(owner, name, steps.around(getattr(owner, name)))


def settings_for(state_dir: Path, install_dir: Path) -> Settings:
    """Return the settings of the device in these tests."""
    return Settings.model_validate(
        {
            "device": DEVICE,
            "state_dir": state_dir,
            "install_dir": install_dir,
            "hub_url": os.environ["FIELDFARE_AGENT_HUB_URL"],
            "install_attempts_max": os.environ.get("FIELDFARE_AGENT_INSTALL_ATTEMPTS_MAX", "3"),
            "fetch_deaths_max": 4,
            "allow_unsigned": True,
        }
    )


async def work(state_dir: Path, install_dir: Path) -> None:
    """Work until every wish has come to its end."""
    settings = settings_for(state_dir, install_dir)
    clock = SystemClock()
    async with await open_store(state_dir) as store:
        documents = Documents(settings, store, clock)
        await documents.start()
        engine = InstallEngine(settings, store, documents, clock)
        written = asyncio.Event()
        shell = Work(settings, documents, engine, on_written=written.set)
        running = asyncio.create_task(shell.run())

        def is_done() -> bool:
            journals = [engine.journal("lamp")]
            ended = all(
                any(is_final(stage) for stage in documents.stages(wish.deployment))
                for wish in wishes(documents.wanted(), {"class": "generic"})
            )
            return ended and all(each is None or each.at in DONE for each in journals)

        while not is_done():
            waiting = asyncio.create_task(written.wait())
            await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            written.clear()
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})


def main() -> None:
    state_dir, install_dir, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    steps = Steps(kill_at)
    watch(steps)
    asyncio.run(work(state_dir, install_dir))
    sys.stdout.write(f"{steps.count}\n")


if __name__ == "__main__":
    main()
