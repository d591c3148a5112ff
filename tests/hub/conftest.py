from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.core import Core, running


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    with running(tmp_path / "hub") as core:
        yield core
