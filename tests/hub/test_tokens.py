"""Tokens over the API: made, listed, revoked."""

import os
import stat
from pathlib import Path

import apsw
import httpx
import pytest

from hub.audit import HUB, MACHINE
from hub.errors import BadSettings, DamagedDatabase, NewerDatabase, StateDirUnusable
from hub.operators import LIFE_MAX_S, parse_token
from hub.secret_file import SeenByOthers, read_secret, write_secret
from hub.store.beside import transact_beside
from hub.store.database import DATABASE_FILE
from hub.tokens import BOOTSTRAP_NAME, ENDED_KEPT_S, another_first_token, first_token
from tests.hub.core import START_MS, Core, running
from tests.hub.web import check_problem

SHOWN_FIELDS = {"id", "name", "scope", "created_at_ms", "expires_at_ms", "revoked_at_ms"}


async def test_a_token_is_shown_once_and_kept_as_a_hash(
    client: httpx.AsyncClient, core: Core, tmp_path: Path
) -> None:
    made = await client.post("/tokens", json={"name": "eve", "scope": "operator"})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    shown = parse_token(made.json()["token"])
    assert shown.id == made.json()["id"]
    listed = (await client.get("/tokens")).json()["items"]
    assert [each["name"] for each in listed if each["id"] == shown.id] == ["eve"]
    assert all(set(each) == SHOWN_FIELDS for each in listed)
    for file in (tmp_path / "hub").rglob("hub.db*"):
        content = file.read_bytes()
        assert shown.secret not in content
        assert shown.secret.hex().encode() not in content


async def test_a_revoked_token_stays_revoked_at_its_first_time(
    client: httpx.AsyncClient, core: Core
) -> None:
    made = (await client.post("/tokens", json={"name": "eve", "scope": "viewer"})).json()
    gone = (await client.delete(f"/tokens/{made['id']}")).json()
    assert gone["revoked_at_ms"] == core.now.ms
    core.pass_time(5)
    assert (await client.delete(f"/tokens/{made['id']}")).json() == gone
    answer = await client.get("/fleet", headers={"authorization": f"Bearer {made['token']}"})
    check_problem(answer, 401, "revoked")


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"name": "a b", "scope": "viewer"}, 400, "cannot name a token"),
        ({"name": "", "scope": "viewer"}, 400, "cannot name a token"),
        ({"name": "a" * 201, "scope": "viewer"}, 400, "name"),
        ({"name": "a", "scope": "root"}, 400, "no scope 'root'; there are: viewer, operator"),
        ({"name": "a"}, 400, "scope"),
        ({"name": "a", "scope": "viewer", "expires_s": 0}, 400, "every token ends"),
        ({"name": "a", "scope": "viewer", "expires_s": LIFE_MAX_S + 1}, 400, "every token ends"),
        ({"name": "a", "scope": "viewer", "expires_s": None}, 400, "expires_s"),
        ({"name": "a", "scope": "viewer", "secret": "x"}, 400, "secret"),
    ],
)
async def test_a_token_that_cannot_be_is_not_made(
    client: httpx.AsyncClient, core: Core, asked: object, status: int, words: str
) -> None:
    before = core.rows("SELECT * FROM token")
    check_problem(await client.post("/tokens", json=asked), status, words)
    assert core.rows("SELECT * FROM token") == before


async def test_an_unknown_token_cannot_be_revoked(client: httpx.AsyncClient) -> None:
    check_problem(await client.delete("/tokens/aaaaaaaa"), 404, "no token 'aaaaaaaa'")


async def test_there_is_a_most_of_tokens_and_those_that_ended_make_room(
    client: httpx.AsyncClient, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.tokens.TOKENS_MAX", 2)
    short = {"name": "a", "scope": "viewer", "expires_s": 10}
    assert (await client.post("/tokens", json=short)).status_code == 201
    check_problem(await client.post("/tokens", json=short), 409, "the most that are kept")
    core.database.transact(
        lambda db: db.execute("UPDATE token SET expires_ms = 0 WHERE name = 'a'")
    )
    assert ENDED_KEPT_S * 1000 < START_MS
    assert (await client.post("/tokens", json=short)).status_code == 201


# -------------------------------------------------------------------------------- the first


def test_the_first_token_is_made_once(core: Core, tmp_path: Path) -> None:
    def begin(file: Path | None) -> object:
        return core.database.transact(
            lambda db: first_token(db, file, now_ms=core.now.ms, rows_max_count=1000)
        )

    file = tmp_path / "token"
    assert begin(file) is not None
    assert begin(file) is None
    assert begin(None) is None
    assert core.rows("SELECT name, scope FROM token") == [(BOOTSTRAP_NAME, "admin")]
    assert core.rows("SELECT action, name, outcome FROM audit") == [
        ("token.create", HUB.name, "done")
    ]
    text = read_secret(file)
    assert core.rows("SELECT id FROM token") == [(parse_token(text).id,)]
    assert text not in str(core.rows("SELECT * FROM audit"))


def test_without_a_place_for_it_no_first_token_is_made(core: Core, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="bootstrap_token_file"):
        core.database.transact(
            lambda db: first_token(
                db, tmp_path / "no" / "token", now_ms=core.now.ms, rows_max_count=1000
            )
        )
    assert core.rows("SELECT * FROM token") == core.rows("SELECT * FROM audit") == []


def test_another_first_token_is_made_beside_a_hub_that_runs(core: Core, tmp_path: Path) -> None:
    shown = transact_beside(
        tmp_path / "hub",
        lambda db: another_first_token(db, MACHINE, now_ms=1, rows_max_count=1000),
    )
    assert core.rows("SELECT id FROM token") == [(shown.id,)]
    assert core.rows("SELECT name FROM audit") == [(MACHINE.name,)]


def test_beside_a_hub_nothing_is_made_where_none_has_run(tmp_path: Path) -> None:
    with pytest.raises(StateDirUnusable, match="a hub that was started before"):
        transact_beside(tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pragma", "told"),
    [
        ("user_version = 1000", NewerDatabase),
        ("user_version = 1", StateDirUnusable),
        ("application_id = 7", DamagedDatabase),
    ],
)
def test_beside_a_hub_only_its_own_schema_is_touched(
    tmp_path: Path, pragma: str, told: type[Exception]
) -> None:
    with running(tmp_path / "hub"):
        pass
    database = apsw.Connection(str(tmp_path / "hub" / DATABASE_FILE))
    database.execute(f"PRAGMA {pragma}")
    with pytest.raises(told):
        transact_beside(
            tmp_path / "hub",
            lambda db: another_first_token(db, MACHINE, now_ms=1, rows_max_count=1000),
        )
    assert database.execute("SELECT * FROM token").fetchall() == []
    database.close()


# ----------------------------------------------------------------------------- secret files


def test_a_secret_is_for_its_owner_alone_whatever_was_there(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "token"
    victim.write_text("as it was")
    file.symlink_to(victim)
    before = os.umask(0)
    try:
        write_secret(file, "secret")
    finally:
        os.umask(before)
    assert victim.read_text() == "as it was"
    assert stat.S_IMODE(file.lstat().st_mode) == 0o600
    assert read_secret(file) == "secret"
    assert sorted(tmp_path.iterdir()) == [file, victim]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_secret_that_others_may_touch_is_not_read(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    write_secret(file, "secret")
    file.chmod(mode)
    with pytest.raises(SeenByOthers):
        read_secret(file)
