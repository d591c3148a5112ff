"""Every change over the API leaves one row in the audit, and nothing else does."""

import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest

from hub import cli
from hub.api.needs import NEEDS
from hub.cli.audit import parse_since
from hub.identity.registrar import Asked
from hub.store.database import Connection
from hub.trust import signing
from hub.trust.keys import KeyFolder
from tests.hub.core import START_MS, Core
from tests.hub.flagged import definition
from tests.hub.identity.paper import NONCE, csr_of, new_key, registrar_of
from tests.hub.web import BLOB, DIGEST, check_problem, device_of, manifest_of, release_of

Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


def rows(core: Core) -> list[tuple[Any, ...]]:
    return core.rows("SELECT action, object, asked, outcome FROM audit ORDER BY n")


async def _cancel(client: httpx.AsyncClient) -> httpx.Response:
    (one,) = (await client.get("/deployments")).json()["items"]
    return await client.delete(f"/deployments/{one['deployment']}")


async def _go(client: httpx.AsyncClient) -> httpx.Response:
    (one,) = (await client.get("/deployments")).json()["items"]
    return await client.put(f"/deployments/{one['deployment']}/terms", json={"now": True})


async def _revoke(client: httpx.AsyncClient) -> httpx.Response:
    bob = next(
        each for each in (await client.get("/tokens")).json()["items"] if each["name"] == "bob"
    )
    return await client.delete(f"/tokens/{bob['id']}")


async def _hand_in(client: httpx.AsyncClient) -> httpx.Response:
    online = (await client.get("/trust")).json()["online"]
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyFolder(Path(folder) / "keys")
        quorums = {role: signing.Quorum(1, 1) for role in ("root", "targets")}
        signing.begin(keys, online, quorums, lambda: "four or five words", now_s=START_MS // 1000)
        signed = {
            "roots": [each.decode() for each in keys.roots()],
            "targets": keys.targets()[1].decode(),
        }
    return await client.post("/trust", json=signed)


async def _withdraw(client: httpx.AsyncClient) -> httpx.Response:
    (one,) = (await client.get("/claims")).json()["items"]
    return await client.delete(f"/claims/{one['id']}")


# In an order in which each finds what it needs; the action that its row names.
CHANGES: list[tuple[str, str | None, Ask]] = [
    # A file that nothing names changes nothing; the release that names it leaves a row.
    ("PUT /blobs/{digest}", None, lambda c: c.put(f"/blobs/{DIGEST}", content=BLOB)),
    (
        "PATCH /uploads/{digest}",
        None,
        lambda c: c.patch(
            f"/uploads/{DIGEST}",
            content=BLOB,
            headers={"Upload-Offset": "0", "Upload-Length": str(len(BLOB))},
        ),
    ),
    ("POST /releases", "release.publish", lambda c: c.post("/releases", json=manifest_of())),
    (
        "POST /deployments",
        "deployment.create",
        lambda c: c.post("/deployments", json={"release": "lamp@1.0.0", "group": "all"}),
    ),
    ("PUT /deployments/{deployment}/terms", "deployment.terms", _go),
    ("DELETE /deployments/{deployment}", "deployment.cancel", _cancel),
    (
        "PUT /devices/{device}/settings/{key}",
        "setting.wish",
        lambda c: c.put("/devices/d1/settings/mode", json={"value": {"level": 3}}),
    ),
    (
        "DELETE /devices/{device}/settings/{key}",
        "setting.unwish",
        lambda c: c.delete("/devices/d1/settings/mode"),
    ),
    (
        "PUT /groups/{group}/settings/{key}",
        "setting.wish",
        lambda c: c.put("/groups/all/settings/mode", json={"value": 1, "policy": "operator"}),
    ),
    (
        "DELETE /groups/{group}/settings/{key}",
        "setting.unwish",
        lambda c: c.delete("/groups/all/settings/mode"),
    ),
    (
        "PUT /groups/{group}/flags/{flag}",
        "flag.set",
        lambda c: c.put("/groups/all/flags/pump-fast", json={"definition": definition()}),
    ),
    (
        "PUT /groups/{group}/flags/{flag}/share",
        "flag.share",
        lambda c: c.put("/groups/all/flags/pump-fast/share", json={"share": 0.5}),
    ),
    (
        "POST /groups/{group}/flags/{flag}/finish",
        "flag.finish",
        lambda c: c.post("/groups/all/flags/pump-fast/finish", json={"for": "nobody"}),
    ),
    (
        "DELETE /groups/{group}/flags/{flag}",
        "flag.remove",
        lambda c: c.delete("/groups/all/flags/pump-fast"),
    ),
    (
        "PUT /kills/{what}",
        "kill.order",
        lambda c: c.put("/kills/flag:agent.delta", json={"why": "it leaks"}),
    ),
    ("DELETE /kills/{what}", "kill.undo", lambda c: c.delete("/kills/flag:agent.delta")),
    (
        "POST /tokens",
        "token.create",
        lambda c: c.post("/tokens", json={"name": "bob", "scope": "viewer"}),
    ),
    ("DELETE /tokens/{token}", "token.revoke", _revoke),
    ("POST /trust", "trust.hand_in", _hand_in),
    ("POST /trust/online", "trust.new_online_keys", lambda c: c.post("/trust/online", json={})),
    (
        "POST /claims",
        "claim.create",
        lambda c: c.post("/claims", json={"device_class": "pump"}),
    ),
    ("DELETE /claims/{claim}", "claim.withdraw", _withdraw),
    (
        "POST /enrolments/refuse",
        "enrolment.refuse",
        lambda c: c.post("/enrolments/refuse", json={}),
    ),
    (
        "POST /enrolments/{name}/refuse",
        "enrolment.refuse",
        lambda c: c.post("/enrolments/pump-1/refuse"),
    ),
    (
        "POST /enrolments/{name}/accept",
        "enrolment.accept",
        lambda c: c.post("/enrolments/pump-1/accept"),
    ),
    (
        "POST /devices/{device}/revoke",
        "device.revoke",
        lambda c: c.post("/devices/pump-2/revoke"),
    ),
    ("DELETE /devices/{device}", "device.forget", lambda c: c.delete("/devices/d1")),
]


def waits_and_belongs(core: Core) -> None:
    """Let pump-1 wait for an operator, and pump-2 have a certificate."""
    registrar, now_ms = registrar_of(), core.now.ms

    def job(db: Connection) -> None:
        for device in ("pump-1", "pump-2"):
            registrar.ask(
                db, Asked(csr=csr_of(new_key(), device), nonce=NONCE, device_class="pump"), now_ms
            )
        found = registrar.accept(db, "pump-2", now_ms)
        registrar.look(db, found.id, NONCE, now_ms)

    core.database.transact(job)


def test_the_table_below_holds_every_address_that_changes_something() -> None:
    changing = {name for name in NEEDS if not name.startswith(("GET ", "HEAD "))}
    assert sorted(changing) == sorted(address for address, _, _ in CHANGES)


async def test_each_change_leaves_one_row_that_says_who_made_it(
    client: httpx.AsyncClient, core: Core
) -> None:
    device_of(core)
    waits_and_belongs(core)
    (token,) = core.rows("SELECT id FROM token")
    for address, action, ask in CHANGES:
        before = rows(core)
        answer = await ask(client)
        assert answer.is_success, (address, answer.text)
        new = rows(core)[len(before) :]
        assert [row[0] for row in new] == ([] if action is None else [action]), address
        assert all(row[-1] == "done" for row in new)
    who = core.rows("SELECT DISTINCT token, name, source FROM audit")
    assert who == [(*token, "ada", "127.0.0.1")]


async def test_looking_leaves_none(client: httpx.AsyncClient, core: Core) -> None:
    device_of(core)
    release = await release_of(client)
    made = await client.post("/deployments", json={"release": release, "group": "all"})
    await client.put("/groups/all/flags/pump-fast", json={"definition": definition()})
    await client.put("/kills/flag:pump-fast", json={})
    before = rows(core)
    for name in NEEDS:
        method, path = name.split(" ")
        if method in {"GET", "HEAD"}:
            path = path.replace("{what}", "flag:pump-fast")
            path = path.replace("{flag}", "pump-fast")
            path = path.replace("{device}", "d1").replace("{digest}", DIGEST)
            path = path.replace("{deployment}", made.json()["deployment"])
            answer = await client.request(method, path)
            # There is no signed metadata here, no pack, no measurement, and no flag in use.
            nothing = ("/trust/metadata", "/packs", "/measures/", "/flags/pump-fast/verdicts")
            assert answer.is_success or path.startswith(nothing), path
    assert rows(core) == before


async def test_a_row_says_what_was_asked_and_what_came_of_it(
    client: httpx.AsyncClient, core: Core
) -> None:
    device_of(core)
    release = await release_of(client)
    asked = {"release": release, "devices": ["d1"], "expires_s": 60.0}
    made = (await client.post("/deployments", json=asked)).json()
    await client.put("/devices/d1/settings/mode", json={"value": {"level": 3}})
    found = {row[0]: row for row in rows(core)}
    about, text, outcome = found["deployment.create"][1:]
    assert (about, outcome) == (made["deployment"], "done")
    assert json.loads(text) == {**asked, "group": None, "where": "", "terms": None}
    digest = (await client.get("/releases")).json()["items"][0]["digest"]
    assert found["release.publish"][1:3] == (release, f'{{"digest":"{digest}"}}')
    assert found["setting.wish"][1] == "des/d1 mode"
    assert json.loads(found["setting.wish"][2]) == {"value": {"level": 3}, "policy": "latest"}


async def test_what_was_so_already_is_said_to_be_unchanged(
    client: httpx.AsyncClient, core: Core
) -> None:
    device_of(core)
    for _ in range(2):
        release = await release_of(client)
    made = await client.post("/deployments", json={"release": release, "group": "all"})
    token = (await client.post("/tokens", json={"name": "bob", "scope": "viewer"})).json()
    for _ in range(2):
        await client.delete(f"/deployments/{made.json()['deployment']}")
        await client.delete(f"/tokens/{token['id']}")
    found: dict[str, list[str]] = {}
    for action, _, _, outcome in rows(core):
        found.setdefault(action, []).append(outcome)
    for action in ("release.publish", "deployment.cancel", "token.revoke"):
        assert found[action] == ["done", "unchanged"]


async def test_what_is_refused_against_what_is_there_leaves_a_row_that_says_so(
    client: httpx.AsyncClient, core: Core
) -> None:
    asked = {"release": "lamp@9\ud800", "group": "all"}
    await client.post("/deployments", content=json.dumps(asked))
    await client.post("/deployments", json={"release": "lamp@9", "group": "all"})
    await client.delete("/deployments/dnothing")
    await client.put("/devices/nobody/settings/mode", json={"value": 1})
    await client.delete("/tokens/aaaaaaaa")
    found = [(action, about, outcome[:18]) for action, about, _, outcome in rows(core)]
    assert found[-4:] == [
        ("deployment.create", "lamp@9", "refused: there is "),
        ("deployment.cancel", "dnothing", "refused: there is "),
        ("setting.wish", "des/nobody mode", "refused: no device"),
        ("token.revoke", "aaaaaaaa", "refused: there is "),
    ]
    assert core.rows("SELECT * FROM deployment") == core.rows("SELECT * FROM document") == []


async def test_what_makes_no_sense_and_what_a_stranger_asks_leaves_none(
    client: httpx.AsyncClient, core: Core
) -> None:
    check_problem(await client.post("/deployments", json={"release": "lamp@9"}), 400, "either")
    check_problem(await client.put("/groups/UP/settings/x", json={"value": 1}), 400, "cannot name")
    del client.headers["authorization"]
    check_problem(await client.put("/groups/all/settings/x", json={"value": 1}), 401, "who you")
    assert rows(core) == []


async def test_a_full_disk_leaves_neither_change_nor_row(
    client: httpx.AsyncClient, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr("hub.store.audit.add", full)
    wish = {"value": 1}
    check_problem(await client.put("/groups/all/settings/mode", json=wish), 507, "make room")
    monkeypatch.undo()
    assert rows(core) == core.rows("SELECT * FROM document") == []


# ------------------------------------------------------------------------------------ reading


async def test_the_audit_is_read_a_page_at_a_time_newest_first(
    client: httpx.AsyncClient, core: Core
) -> None:
    for number in range(7):
        await client.put("/groups/all/settings/mode", json={"value": number})
        core.pass_time(1)
    found: list[int] = []
    query: dict[str, int] = {"limit": 3}
    for _ in range(3):
        page = (await client.get("/audit", params=query)).json()
        found += [each["asked"]["value"] for each in page["items"]]
        # What happens meanwhile does not move what comes.
        await client.put("/groups/all/settings/other", json={"value": 0})
        query["before"] = page["next"]
    assert found == [6, 5, 4, 3, 2, 1, 0]
    assert page["next"] is None
    late = await client.get("/audit", params={"since_ms": core.now.ms - 1500})
    assert [each["asked"]["value"] for each in late.json()["items"]] == [0, 0, 0, 6]


@pytest.mark.parametrize(
    "query", ["before=0", "before=x", "limit=0", "limit=1001", "since_ms=-1", f"before={2**63}"]
)
async def test_a_page_that_cannot_be_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/audit?{query}")).status_code == 400


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("", 0),
        ("30m", 1_790_000_000_000 - 30 * 60_000),
        ("7d", 1_790_000_000_000 - 7 * 86_400_000),
        ("999999d", 0),
        ("2026-11-23", 1_795_392_000_000),
        ("2026-11-23T14:30", 1_795_444_200_000),
        ("2026-11-23T14:30+01:00", 1_795_440_600_000),
        ("1969-01-01", 0),
    ],
)
def test_a_moment_is_said_as_people_say_it(text: str, ms: int) -> None:
    assert parse_since(text, 1_790_000_000_000) == ms


def test_what_is_no_moment_is_the_askers_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "--since", "tomorrow"]) == 2
    assert "is no moment" in capsys.readouterr().err
