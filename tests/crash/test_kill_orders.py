"""An agent that is killed at any moment still holds to every order that it ever obeyed."""

import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

from agent.clock import SystemClock
from agent.documents import Documents
from agent.kills import ORDERS_MAX, Kills
from agent.settings import Settings
from agent.store import open_store
from sync import documents as names
from sync.records import Obeyed, select

ROUNDS = 4


def killed_after(folder: Path, orders_count: int) -> list[int]:
    """Start the child, kill it after it has said so many, and return all it has said."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.kills_child", str(folder)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(orders_count)]
    child.kill()
    said += [int(line) for line in child.stdout.read().splitlines() if line]
    child.stdout.close()
    child.wait()
    return said


async def test_every_order_that_was_obeyed_is_there_after_a_kill(tmp_path: Path) -> None:
    random = Random(5)
    obeyed: set[str] = set()
    for _ in range(ROUNDS):
        obeyed |= {f"f{number}" for number in killed_after(tmp_path, random.randint(1, 12))}
        async with await open_store(tmp_path) as store:
            nothing = cast("Documents", SimpleNamespace(wanted=dict))
            kills = Kills(store, nothing, on_changed=lambda: None)
            await kills.load()
            assert obeyed <= kills.flags()
            settings = Settings.model_validate(
                {"device": "lamp-1", "hub_url": "http://127.0.0.1:1", "state_dir": tmp_path}
            )
            documents = Documents(settings, store, SystemClock())
            await documents.start()
            told = select(Obeyed, names.OBEYED, documents.reported())
            assert {f"flag:{key}" for key in obeyed} <= told.keys()
            # What was told was obeyed, so it must be on the disk as an order, too.
            assert {what.removeprefix("flag:") for what in told} <= kills.flags()
    assert 0 < len(obeyed) < ORDERS_MAX
