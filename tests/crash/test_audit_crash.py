"""A change and its row in the audit: killed before any statement, both are there or neither is."""

import subprocess
import sys
from pathlib import Path

import pytest

from sync.documents import DEPLOYMENT, DESIRED
from sync.replica import values_of
from tests.hub.core import Core, group, running

ACTIONS = ("deployment.create", "setting.wish", "token.create")


def changed(core: Core) -> dict[str, int]:
    """Return how many changes of each kind are there, told by what they change."""
    keys = values_of(core.held(group()))
    (deployments,), (tokens,) = (
        core.rows(f"SELECT count(*) FROM {table}")[0] for table in ("deployment", "token")
    )
    assert deployments == sum(key.startswith(DEPLOYMENT) for key in keys)
    wishes = sum(key.startswith(DESIRED) for key in keys)
    return dict(zip(ACTIONS, (deployments, wishes, tokens), strict=True))


@pytest.mark.timeout(120)
def test_killed_before_any_statement_a_change_and_its_row_are_both_there_or_neither_is(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.audit_child", str(tmp_path / "hub")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    seen = []
    for statement in range(int(done.stdout) + 1):
        with running(tmp_path / f"died-{statement}") as core:
            told = [row[0] for row in core.rows("SELECT action FROM audit ORDER BY n")]
            assert changed(core) == {action: told.count(action) for action in ACTIONS}
            seen.append(len(told))
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3}
