import json
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.audit import (
    ASKED_CHARACTERS_MAX,
    PRUNED,
    Act,
    Actor,
    Ledger,
    NobodyActs,
    acting,
    bounded_json,
)
from hub.errors import Clash, StorageFull
from hub.store import audit
from hub.store.database import Connection
from tests.hub.core import Core, running
from tests.hub.web import CoreClock

ADA = Actor("abcdefgh", "ada", "192.0.2.7")


def ledger_of(core: Core, rows_max_count: int = 1000) -> Ledger:
    return Ledger(core.database, CoreClock(core), rows_max_count)


def rows(core: Core) -> list[tuple[Any, ...]]:
    return core.rows("SELECT token, name, source, action, object, asked, outcome FROM audit")


async def change(ledger: Ledger, name: str = "x") -> None:
    def job(db: Connection) -> None:
        db.execute("INSERT INTO meta VALUES (?, 1)", (name,))

    await ledger.write(Act("thing.make", name, {"name": name}), job)


async def test_a_change_and_its_row_are_one(core: Core) -> None:
    with acting(ADA):
        await change(ledger_of(core))
    asked = '{"name":"x"}'
    assert rows(core) == [("abcdefgh", "ada", "192.0.2.7", "thing.make", "x", asked, "done")]
    assert core.rows("SELECT at_ms FROM audit") == [(core.now.ms,)]


async def test_what_is_refused_changes_nothing_and_leaves_one_row_that_says_so(core: Core) -> None:
    def job(db: Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('x', 1)")
        raise Clash("it is there already")

    with acting(ADA), pytest.raises(Clash):
        await ledger_of(core).write(Act("thing.make", "x", {}), job)
    assert [row[-1] for row in rows(core)] == ["refused: it is there already"]
    assert core.rows("SELECT * FROM meta WHERE name = 'x'") == []


@pytest.mark.parametrize(
    ("fault", "told"), [(apsw.FullError("full"), StorageFull), (KeyError("x"), KeyError)]
)
async def test_what_fails_leaves_neither_change_nor_row(
    core: Core, fault: Exception, told: type[Exception]
) -> None:
    def job(db: Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('x', 1)")
        raise fault

    with acting(ADA), pytest.raises(told):
        await ledger_of(core).write(Act("thing.make", "x", {}), job)
    assert rows(core) == []
    assert core.rows("SELECT * FROM meta WHERE name = 'x'") == []


async def test_where_the_row_cannot_be_written_nothing_is_changed(core: Core) -> None:
    core.rows("CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    with acting(ADA), pytest.raises(apsw.ConstraintError):
        await change(ledger_of(core))
    assert core.rows("SELECT * FROM meta WHERE name = 'x'") == []


async def test_nobody_changes_nothing(core: Core) -> None:
    with pytest.raises(NobodyActs):
        await change(ledger_of(core))
    assert rows(core) == []
    assert core.rows("SELECT * FROM meta WHERE name = 'x'") == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET name = 'eve'",
        "UPDATE audit SET n = 7",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE n = 1",
        "INSERT OR REPLACE INTO audit SELECT n, 0, '', 'eve', '', '', '', '', '', NULL FROM audit",
    ],
)
async def test_a_row_stays_as_it_is(core: Core, statement: str) -> None:
    with acting(ADA):
        await change(ledger_of(core))
    before = core.rows("SELECT * FROM audit")
    with pytest.raises(apsw.ConstraintError, match="the audit is"):
        core.rows(statement)
    assert core.rows("SELECT * FROM audit") == before


async def test_the_oldest_rows_go_and_a_row_says_which(core: Core) -> None:
    ledger = ledger_of(core, rows_max_count=10)
    with acting(ADA):
        for number in range(60):
            await change(ledger, f"x{number}")
            oldest, newest = core.database.transact(audit.span)
            assert newest - oldest + 1 <= 20
            assert newest - oldest + 1 >= min(number + 1, 10)
    left = core.rows("SELECT n, object, outcome FROM audit WHERE action = ?", PRUNED)
    assert left
    (first, last), outcome = map(int, left[-1][1].split("-")), left[-1][2]
    assert first <= last == core.database.transact(audit.span)[0] - 1
    assert outcome == "done"


async def test_a_prune_lets_only_those_go_that_it_names(core: Core) -> None:
    ledger = ledger_of(core, rows_max_count=10)
    with acting(ADA):
        for number in range(30):
            await change(ledger, f"x{number}")
    oldest, _ = core.database.transact(audit.span)
    with pytest.raises(apsw.ConstraintError, match="a row that says so"):
        core.rows("DELETE FROM audit WHERE n = ?", oldest)


async def test_a_bound_that_was_lowered_is_met_step_by_step(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    with acting(ADA):
        for number in range(40):
            await change(ledger_of(core), f"x{number}")
        monkeypatch.setattr("hub.audit.PRUNED_AT_ONCE_MAX", 15)
        await change(ledger_of(core, rows_max_count=5), "first")
        assert len(rows(core)) == 40 + 2 - 16
        await change(ledger_of(core, rows_max_count=5), "second")
        assert len(rows(core)) == 40 + 4 - 32


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), JSON | st.text(min_size=1500, max_size=3000)))
def test_what_was_asked_is_bounded_and_still_json(asked: dict[str, Any]) -> None:
    text = bounded_json(asked)
    assert len(text) <= 2 * ASKED_CHARACTERS_MAX + 100
    assert text.isascii()
    found = json.loads(text)
    assert found == asked or set(found) == {"length_characters", "begins"}


async def test_rows_survive_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "again") as core:
        with acting(ADA):
            await change(ledger_of(core))
        before = core.rows("SELECT * FROM audit")
    with running(tmp_path / "again") as core:
        assert core.rows("SELECT * FROM audit") == before


async def test_half_a_character_does_not_keep_a_row_from_being_written(core: Core) -> None:
    act = Act("thing.make", "\ud800" * 300, {"\udfff": "\ud800"})
    with acting(ADA):
        await ledger_of(core).write(act, lambda _: None)
    assert core.rows("SELECT object FROM audit") == [("\\ud800" * 200,)]
