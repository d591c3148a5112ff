"""Die in each state of an install, once and always: the chain of states, and how it ends.

The table has a cell for each state that is not an end, for dying in it once and always, and for
each kind of installer that can run here. None may be missing; one that cannot be reached says why,
and it is looked at whether that is so.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import ThreadingHTTPServer
from importlib.metadata import entry_points
from itertools import groupby, product
from pathlib import Path
from threading import Thread
from typing import Final

import pytest

from agent import journal as journals
from agent.ending import Ending
from agent.install import DONE, STORED, State
from agent.store import open_store
from firmware_hooks.contract import ENTRY_POINTS
from tests.crash import devices
from tests.crash.devices import KINDS, Made
from tests.crash.test_agent_install import BLOBS, Place, _Blobs, wish

pytestmark = pytest.mark.timeout(300)

STARTS_MAX = 30
CHILD = "tests.crash.states_child"
HOW = ("once", "always")
DYING: Final = tuple(state for state in State if state not in DONE)

GIVEN: Final[Mapping[State, str]] = {
    state: "bad" if state in (State.ROLLING_BACK, State.RETURNING) else "good" for state in DYING
}
"""Which release leads through a state."""


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
    raise AssertionError(f"not settled after {STARTS_MAX} starts: {chain_of(place)}")


async def publish(place: Place, deployment: str, made: Made, order: int) -> None:
    content = made.artifacts[made.manifest.artifacts[0].sha256]
    await wish(place, deployment, (made.manifest, content), order)
    BLOBS.update(made.artifacts)


class Origin:
    """A device that runs the first release."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.place = Place(folder / "state", folder / "install")
        self.place.state_dir.mkdir()
        (folder / "orders").mkdir()
        self.releases = devices.releases_of(kind, folder / "orders")
        asyncio.run(publish(self.place, "dfirst000", self.releases["first"], 1))
        settle(self.place, kind, "none", "never")
        (folder / "chain").unlink()

    async def gone_through(
        self, folder: Path, release: str, state: str, how: str
    ) -> tuple[str, Ending]:
        """Install a release on a copy of the device; return the chain and the ending."""
        place = self.place.copy(folder)
        devices.copied(self.folder, folder)
        await publish(place, "dsecond00", self.releases[release], 2)
        await asyncio.to_thread(settle, place, self.kind, state, how)
        async with await open_store(place.state_dir) as store:
            journal = journals.decode((await store.journals())["lamp"])
        assert journal is not None
        assert journal.at in DONE
        return " ".join(chain_of(place)), Ending(journal.ending)


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Origin]:
    return {kind: Origin(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def chain_of(place: Place) -> list[str]:
    """Return the states as the journal was given them, each once where it was given again."""
    return [state for state, _ in groupby((place.state_dir.parent / "chain").read_text().split())]


TRIAL = "fetching staging activating trial"
UP = f"{TRIAL} committing committed"
TRIED = "fetching staging activating rebooting trial"
REBOOTED = f"{TRIED} committing committed"
GOOD, FAILED, BACK = Ending.NO_FAILURE, Ending.FAILED, Ending.ROLLED_BACK
STUCK = Ending.ROLLBACK_FAILED

Ends = dict[tuple[State, str], tuple[str, Ending]]

BEFORE: Final[Ends] = {
    (State.FETCHING, "always"): ("fetching failed", FAILED),
    (State.STAGING, "always"): ("fetching staging failed", FAILED),
    (State.ACTIVATING, "always"): ("fetching staging activating rolling-back rolled-back", BACK),
}
"""The same whatever the installer."""

AT_ONCE: Final[Ends] = BEFORE | {
    (State.FETCHING, "once"): (UP, GOOD),
    (State.STAGING, "once"): (UP, GOOD),
    (State.ACTIVATING, "once"): (UP, GOOD),
    (State.TRIAL, "once"): (f"{TRIAL} activating trial committing committed", GOOD),
    (State.TRIAL, "always"): (
        f"{TRIAL} activating trial activating trial rolling-back rolled-back",
        BACK,
    ),
    (State.COMMITTING, "once"): (UP, GOOD),
    (State.COMMITTING, "always"): (UP, GOOD),
    (State.ROLLING_BACK, "once"): (f"{TRIAL} rolling-back rolled-back", BACK),
    (State.ROLLING_BACK, "always"): (f"{TRIAL} rolling-back stuck", STUCK),
}
"""A switch that counts at once."""

AFTER_REBOOT: Final[Ends] = BEFORE | {
    (State.FETCHING, "once"): (REBOOTED, GOOD),
    (State.STAGING, "once"): (REBOOTED, GOOD),
    (State.ACTIVATING, "once"): (REBOOTED, GOOD),
    (State.REBOOTING, "once"): (REBOOTED, GOOD),
    (State.REBOOTING, "always"): (
        "fetching staging activating rebooting rolling-back rolled-back",
        BACK,
    ),
    (State.TRIAL, "once"): (f"{TRIED} activating rebooting trial committing committed", GOOD),
    (State.TRIAL, "always"): (
        f"{TRIED} activating rebooting trial rolling-back rolled-back",
        BACK,
    ),
    (State.COMMITTING, "once"): (f"{TRIED} committing rolling-back rolled-back", BACK),
    (State.COMMITTING, "always"): (f"{TRIED} committing stuck", STUCK),
    (State.ROLLING_BACK, "once"): (f"{TRIED} rolling-back rolled-back", BACK),
    (State.ROLLING_BACK, "always"): (f"{TRIED} rolling-back stuck", STUCK),
    (State.RETURNING, "once"): (f"{TRIED} rolling-back returning rolled-back", BACK),
    (State.RETURNING, "always"): (f"{TRIED} rolling-back returning stuck", STUCK),
}
"""A switch that counts after a reboot, for one start."""

TABLE: Final[Mapping[str, Ends]] = {
    "directory": AT_ONCE,
    "slots": AFTER_REBOOT,
    # The firmware of a Raspberry Pi keeps nothing of a try that was not ordered.
    "ab-slots": AFTER_REBOOT
    | {(State.REBOOTING, "once"): AFTER_REBOOT[(State.REBOOTING, "always")]},
    "mender-module": AFTER_REBOOT
    | {
        # The module takes a power cut for the restart, so the release was tried.
        (State.REBOOTING, "always"): (
            "fetching staging activating rebooting rolling-back returning rolled-back",
            BACK,
        ),
        # It can be asked neither for another restart nor for going back without one.
        (State.TRIAL, "once"): (
            f"{TRIED} activating trial rolling-back returning rolled-back",
            BACK,
        ),
        (State.TRIAL, "always"): (
            f"{TRIED} activating trial activating trial rolling-back returning rolled-back",
            BACK,
        ),
        (State.COMMITTING, "once"): (
            f"{TRIED} committing rolling-back returning rolled-back",
            BACK,
        ),
        (State.ROLLING_BACK, "once"): (f"{TRIED} rolling-back returning rolled-back", BACK),
    },
}

UNREACHABLE: Final[Mapping[tuple[str, State], str]] = {
    ("directory", State.REBOOTING): "the link counts at once; nothing awaits a reboot",
    ("directory", State.RETURNING): "the link counts at once; nothing awaits a reboot",
}
"""Why an installer never leads to a state."""

ELSEWHERE: Final[Mapping[str, str]] = {
    "compose": "its switch counts at once, as that of `directory`; needs podman",
    "container": "its switch counts at once, as that of `directory`; needs podman",
    "deb": "its switch counts at once, as that of `directory`; needs dpkg and its database",
    "file": "its switch counts at once, as that of `directory`",
    "mcu": "its switch counts at once, as that of `directory`; needs a chip",
    "program": "its switch counts at once, as that of `directory`",
    "rauc": "the order of `ab-slots` (`two_slots`); needs RAUC's service",
    "sm-plugin": "its switch counts at once, as that of `directory`",
    "swupdate": "the order of `ab-slots` (`two_slots`); needs SWUpdate",
}
"""Installers without a column, and which column they would repeat. Each is killed at every step of
its calls in `tests/contracts`."""

CELLS: Final = [
    (kind, state, how)
    for kind, state, how in product(KINDS, DYING, HOW)
    if (kind, state) not in UNREACHABLE
]


def test_no_cell_of_the_table_is_missing_and_none_has_nothing_to_say() -> None:
    told = {(kind, *cell) for kind, ends in TABLE.items() for cell in ends}

    assert set(CELLS) - told == set(), "say what becomes of these"
    assert told - set(CELLS) == set(), "these cannot be"


def test_every_installer_has_a_column_or_says_whose_it_shares() -> None:
    named = {point.name for point in entry_points(group=ENTRY_POINTS)}

    assert named == (set(KINDS) - {"slots"}) | set(ELSEWHERE)
    assert set(TABLE) == set(KINDS)


@pytest.mark.parametrize(("kind", "release"), [*product(KINDS, ("good", "bad"))])
async def test_a_state_that_is_said_to_be_unreachable_is_not_met(
    kind: str, release: str, origins: Mapping[str, Origin], tmp_path: Path
) -> None:
    chain, _ = await origins[kind].gone_through(tmp_path, release, "none", "never")

    met = {State(name) for name in chain.split()}
    assert {state for each, state in UNREACHABLE if each == kind} & met == set()
    reachable = {state for each, state, _ in CELLS if each == kind and GIVEN[state] == release}
    assert reachable <= met


@pytest.mark.parametrize(("kind", "state", "how"), CELLS)
async def test_dying_in_a_state_leads_along_this_chain_to_this_end(
    kind: str, state: State, how: str, origins: Mapping[str, Origin], tmp_path: Path
) -> None:
    origin, given = origins[kind], GIVEN[state]

    chain, ending = await origin.gone_through(tmp_path, given, STORED[state], how)

    assert (chain, ending) == TABLE[kind][state, how]
    if ending is not STUCK:
        runs = given if ending is GOOD else "first"
        assert devices.runs(kind, tmp_path, origin.releases[runs])
