"""A program to be killed: takes kill orders and says which it obeys, and how long it was silent."""

import asyncio
import sys
from itertools import count
from pathlib import Path

import msgspec

from agent.clock import SystemClock
from agent.documents import Documents
from agent.flags import Flags
from agent.kills import Kills
from agent.settings import Settings
from agent.store import open_store


async def work(folder: Path) -> None:
    """Take one order after the other until killed."""
    settings = Settings.model_validate(
        {"device": "lamp-1", "hub_url": "http://127.0.0.1:1", "state_dir": folder}
    )
    async with await open_store(folder) as store:
        clock = SystemClock()
        documents = Documents(settings, store, clock)
        await documents.start()
        kills = Kills(store, documents, on_changed=lambda: None)
        await kills.load()
        flags = Flags(settings, store, documents, kills, clock, on_written=lambda: None)
        await flags.load()
        for number in count(len(kills.flags())):
            orders = [1, 1, [[f"flag:f{number}", 5 + number, True, ""]]]
            await kills.take(msgspec.msgpack.encode(orders))
            assert flags.decide(f"f{number}").reason == "DISABLED"
            await flags.settle()
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1])))
