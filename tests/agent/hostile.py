"""Fires hostile frames of a hub at a device's real documents and store; a process of its own.

python -m tests.agent.hostile FOLDER SEED CASES
"""

import asyncio
import faulthandler
import logging
import resource
import sys
from pathlib import Path
from random import Random

from agent.clock import SystemClock
from agent.desired import wishes
from agent.documents import Documents
from agent.plan import plan
from agent.settings import Settings
from agent.store import Store, open_store
from agent.values import Values
from sync.documents import ACK, FACT, Side
from sync.replica import values_of
from sync.stages import Stage
from tests.fakes.stranger import Stranger

BATCH_COUNT = 50

BATCH_S = 60
"""A batch takes a fraction of a second; one that takes this long hangs."""

RESTART_EVERY = 10
"""Batches between two starts of the device, so that the stranger meets many states."""

GROWTH_BYTES_MAX = 64 * 2**20

DEPLOYMENT = "dmine"


async def attack(folder: Path, seed: int, cases: int) -> None:
    """Fire `cases` frames at device `d1`, and see after each batch that it is still itself."""
    random = Random(seed)
    settings = Settings.model_validate(
        {"device": "d1", "state_dir": folder, "install_dir": folder / "install"}
    )
    batches = cases // BATCH_COUNT
    offences = changed = grown_from = 0
    for start in range(0, batches, RESTART_EVERY):
        async with await open_store(folder) as store:
            documents = await _started(settings, store)
            stranger = Stranger(random, "d1", Side.HUB, documents._shelf)
            for _ in range(min(RESTART_EVERY, batches - start)):
                faulthandler.dump_traceback_later(BATCH_S, exit=True)
                for _ in range(BATCH_COUNT):
                    _, news = await documents.receive(
                        stranger.frame(), direct=random.random() < 0.8
                    )
                    changed += news
                await _check(documents)
            offences += documents.offence_count
            own = values_of(documents._shelf(documents.own))
        async with await open_store(folder) as store:
            again = Documents(settings, store, SystemClock())
            await again.start()
            assert values_of(again._shelf(again.own)) == own, "the disk says something else"
        if start == RESTART_EVERY:
            grown_from = _resident_bytes()
    faulthandler.cancel_dump_traceback_later()
    grown = _resident_bytes() - grown_from
    assert grown < GROWTH_BYTES_MAX, f"grew by {grown} bytes"
    assert offences > cases * 0.05, f"only {offences} offences: that was no attack"
    assert changed > cases * 0.01, f"only {changed} changes got through: that was no attack"
    sys.stdout.write("unharmed\n")


async def _started(settings: Settings, store: Store) -> Documents:
    documents = Documents(settings, store, SystemClock())
    await documents.start()
    await documents.write({FACT + "class": b"pump"})
    await documents.acknowledge(DEPLOYMENT, Stage.DELIVERED)
    await documents.opened()
    return documents


async def _check(documents: Documents) -> None:
    """What the device said stays said, and what it was told can be acted on."""
    reported = documents.reported()
    assert reported[FACT + "class"] == b"pump"
    assert any(key.startswith(f"{ACK}{DEPLOYMENT}/") for key in reported)
    wanted = wishes(documents.wanted(), {"site": "s1"})
    plan(wanted, documents.stages, documents.hub_ms)
    values = Values(documents, on_written=lambda: None)
    values.rows()
    await values.record_conflicts()


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(attack(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
