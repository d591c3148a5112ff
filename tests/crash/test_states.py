"""Die in each state of an install, once and always: the chain of states, and how it ends."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from agent import journal as journals
from agent.ending import Ending
from agent.install import DONE, STORED, State
from agent.store import open_store
from sync.manifest import Manifest
from tests.crash.test_agent_install import BAD, FIRST, GOOD, Place, _Blobs, wish

pytestmark = pytest.mark.timeout(300)

STARTS_MAX = 30
CHILD = "tests.crash.states_child"


@pytest.fixture(autouse=True, scope="module")
def hub() -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Blobs)
    thread = Thread(target=server.serve_forever)
    thread.start()
    os.environ["FIELDFARE_AGENT_HUB_URL"] = f"http://127.0.0.1:{server.server_port}"
    yield
    del os.environ["FIELDFARE_AGENT_HUB_URL"]
    server.shutdown()
    thread.join()
    server.server_close()


def settle(place: Place, kind: str, state: str, how: str) -> None:
    """Start the device until nothing is left to do."""
    words = [sys.executable, "-m", CHILD, kind, state, how]
    for _ in range(STARTS_MAX):
        done = subprocess.run(
            [*words, str(place.state_dir), str(place.install_dir)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if done.returncode == 0:
            return
    raise AssertionError(f"not settled after {STARTS_MAX} starts")


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """A device of each kind that runs the first release."""
    found = {}
    for kind in ("directory", "slots"):
        folder = tmp_path_factory.mktemp(kind)
        place = Place(folder / "state", folder / "install")
        place.state_dir.mkdir()
        asyncio.run(wish(place, "dfirst000", FIRST, 1))
        settle(place, kind, "none", "never")
        (folder / "chain").unlink()
        found[kind] = place
    return found


class Case(NamedTuple):
    kind: str
    release: tuple[Manifest, bytes]
    state: State
    how: str
    chain: str
    """States as the journal was given them, each once where it was given several times."""
    ending: Ending


TRIAL = "fetching staging activating trial"
UP = f"{TRIAL} committing committed"
TRIED = "fetching staging activating rebooting trial"
REBOOT = f"{TRIED} committing committed"

CASES = [
    Case("directory", GOOD, State.FETCHING, "once", UP, Ending.NO_FAILURE),
    Case("directory", GOOD, State.FETCHING, "always", "fetching failed", Ending.FAILED),
    Case("directory", GOOD, State.STAGING, "once", UP, Ending.NO_FAILURE),
    Case("directory", GOOD, State.STAGING, "always", "fetching staging failed", Ending.FAILED),
    Case("directory", GOOD, State.ACTIVATING, "once", UP, Ending.NO_FAILURE),
    Case(
        "directory",
        GOOD,
        State.ACTIVATING,
        "always",
        "fetching staging activating rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case(
        "directory",
        GOOD,
        State.TRIAL,
        "once",
        f"{TRIAL} activating trial committing committed",
        Ending.NO_FAILURE,
    ),
    Case(
        "directory",
        GOOD,
        State.TRIAL,
        "always",
        f"{TRIAL} activating trial activating trial rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case("directory", GOOD, State.COMMITTING, "once", UP, Ending.NO_FAILURE),
    Case("directory", GOOD, State.COMMITTING, "always", UP, Ending.NO_FAILURE),
    Case(
        "directory",
        BAD,
        State.TRIAL,
        "once",
        f"{TRIAL} activating trial rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case(
        "directory",
        BAD,
        State.ROLLING_BACK,
        "once",
        f"{TRIAL} rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case(
        "directory",
        BAD,
        State.ROLLING_BACK,
        "always",
        f"{TRIAL} rolling-back stuck",
        Ending.ROLLBACK_FAILED,
    ),
    Case("slots", GOOD, State.STAGING, "once", REBOOT, Ending.NO_FAILURE),
    Case("slots", GOOD, State.STAGING, "always", "fetching staging failed", Ending.FAILED),
    Case("slots", GOOD, State.ACTIVATING, "once", REBOOT, Ending.NO_FAILURE),
    Case(
        "slots",
        GOOD,
        State.ACTIVATING,
        "always",
        "fetching staging activating rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case("slots", GOOD, State.REBOOTING, "once", REBOOT, Ending.NO_FAILURE),
    Case(
        "slots",
        GOOD,
        State.REBOOTING,
        "always",
        "fetching staging activating rebooting rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case(
        "slots",
        GOOD,
        State.TRIAL,
        "once",
        f"{TRIED} activating rebooting trial committing committed",
        Ending.NO_FAILURE,
    ),
    Case(
        "slots",
        GOOD,
        State.TRIAL,
        "always",
        f"{TRIED} activating rebooting trial rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case(
        "slots",
        GOOD,
        State.COMMITTING,
        "once",
        f"{TRIED} committing rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case(
        "slots",
        GOOD,
        State.COMMITTING,
        "always",
        f"{TRIED} committing stuck",
        Ending.ROLLBACK_FAILED,
    ),
    Case(
        "slots",
        BAD,
        State.ROLLING_BACK,
        "once",
        f"{TRIED} rolling-back rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case(
        "slots",
        BAD,
        State.RETURNING,
        "once",
        f"{TRIED} rolling-back returning rolled-back",
        Ending.ROLLED_BACK,
    ),
    Case(
        "slots",
        BAD,
        State.RETURNING,
        "always",
        f"{TRIED} rolling-back returning stuck",
        Ending.ROLLBACK_FAILED,
    ),
]


def chain_of(place: Place) -> list[str]:
    return [state for state, _ in groupby((place.state_dir.parent / "chain").read_text().split())]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.kind}-{case.release is GOOD}-{case.state}-{case.how}"
)
async def test_dying_in_a_state_leads_along_this_chain_to_this_end(
    case: Case, origins: dict[str, Place], tmp_path: Path
) -> None:
    origin = origins[case.kind]
    place = origin.copy(tmp_path)
    if case.kind == "slots":
        shutil.copy(origin.state_dir.parent / "starts", tmp_path / "starts")
    await wish(place, "dsecond00", case.release, 2)

    await asyncio.to_thread(settle, place, case.kind, STORED[case.state], case.how)

    async with await open_store(place.state_dir) as store:
        journal = journals.decode((await store.journals())["lamp"])
    assert journal is not None
    assert " ".join(chain_of(place)) == case.chain
    assert journal.at in DONE
    assert journal.ending == case.ending
