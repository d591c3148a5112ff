"""The agent's documents in a process that kills itself at a chosen step.

`python -m tests.crash.sync_child STATE_DIR KILL_AT`: obeys one JSON command a line on standard
input, and answers on standard output with a line for each frame that goes out and one when the
command is done. Steps are the moments before and after every durable write and every frame sent; at
step KILL_AT (0 for never) the process gets a real SIGKILL.
"""

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from agent import documents as shell
from agent import store as disk
from agent.clock import SystemClock
from agent.documents import Documents
from agent.settings import Settings
from agent.store import Store, open_store
from sync.author import Author, Upkeep
from sync.records import Fact, encode
from sync.stages import Stage
from tests.crash.agent_child import DEVICE, Steps

SMALL = Upkeep(writes_per_generation=8, client_ids_max=6, state_bytes_max=4096)
"""Small limits, so that a short life meets a roll and a new epoch."""

LOG_MAX = 3


class Child:
    """The documents of a device and the pipe to the test."""

    def __init__(self, documents: Documents, steps: Steps) -> None:
        self.documents = documents
        self.steps = steps

    def say(self, answer: dict[str, Any]) -> None:
        self.steps.pass_one()
        os.write(1, json.dumps(answer).encode() + b"\n")
        self.steps.pass_one()

    def publish(self, frames: list[bytes]) -> None:
        for frame in frames:
            self.say({"sent": frame.hex()})

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["op"]:
            case "open":
                self.publish(await self.documents.opened())
            case "frame":
                frames, _ = await self.documents.receive(bytes.fromhex(command["hex"]), direct=True)
                self.publish(frames)
            case "write":
                fact = encode(Fact(json.dumps(command["value"])))
                await self.documents.write({f"s/{command['name']}": fact})
                self.publish(await self.documents.changed())
            case "ack":
                await self.documents.acknowledge(command["deployment"], Stage(command["stage"]))
                self.publish(await self.documents.changed())
            case "report":
                return {
                    "own": {key: v.hex() for key, v in self.documents.reported().items()},
                    "wanted": {
                        str(name): {key: v.hex() for key, v in values.items()}
                        for name, values in self.documents.wanted().items()
                    },
                    "settled": self.documents.settled,
                    "steps": self.steps.count,
                }
        return {}


def watch(steps: Steps) -> None:
    """Make every durable write a step, and meet the limits early."""
    for name in ("log", "keep", "set_numbers"):
        setattr(Store, name, steps.around(getattr(Store, name)))
    disk.LOG_MAX = LOG_MAX  # type: ignore[misc]
    setattr(shell, "Author", partial(Author, upkeep=SMALL))  # noqa: B010 - a class by a maker


async def live(state_dir: Path, steps: Steps) -> None:
    settings = Settings.model_validate({"device": DEVICE, "state_dir": state_dir})
    async with await open_store(state_dir) as store:
        documents = Documents(settings, store, SystemClock())
        await documents.start()
        child = Child(documents, steps)
        while line := await asyncio.to_thread(sys.stdin.readline):
            answer = await child.obey(json.loads(line))
            child.say({"done": True, **answer})


def main() -> None:
    steps = Steps(int(sys.argv[2]))
    watch(steps)
    asyncio.run(live(Path(sys.argv[1]), steps))


if __name__ == "__main__":
    main()
