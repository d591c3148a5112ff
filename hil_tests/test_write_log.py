"""The power goes at any of the writes of an agent that stores rows while it installs releases."""

from collections import Counter
from pathlib import Path

import pytest

from hil_tests.recording import Recording, record
from hil_tests.surviving import faults

pytestmark = pytest.mark.timeout(1200)

STATES = 500
STATES_OF_THE_CARELESS = 60


@pytest.fixture(scope="module")
def recordings(
    system: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recording, Recording]:
    """Give what became of the careful disk and of the careless one."""
    return record(system, tmp_path_factory.mktemp("recording"))


def test_no_promise_is_broken_wherever_the_power_goes(
    recordings: tuple[Recording, Recording], tmp_path: Path
) -> None:
    careful, _ = recordings
    seen = Counter[str]()
    for state in careful.states(STATES, seed=1):
        found = faults(state, tmp_path)
        last = [promise for promise in state.promises if "row" not in promise][-1:]
        assert not any(found.values()), (state.number, last, found)
        seen.update(f"{name} {promise[name]}" for promise in last for name in promise)
    # The cuts fell into every part of an install, or the sentence above says little.
    assert {f"{what} {version}" for what in ("staged", "committed") for version in "12"} <= set(
        seen
    )
    assert sum(seen.values()) > STATES / 2, seen


def test_a_store_that_syncs_less_and_an_environment_written_anew_are_found_out(
    recordings: tuple[Recording, Recording], tmp_path: Path
) -> None:
    """If this fails, the test above would not notice either."""
    _, careless = recordings
    seen = Counter[str]()
    for state in careless.states(STATES_OF_THE_CARELESS, seed=1):
        seen.update(where for where, wrong in faults(state, tmp_path).items() if wrong)

    assert seen["store"] > 0
    assert seen["boot"] > 0
