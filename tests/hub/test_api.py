"""The HTTP API over a real store, without a network."""

import re
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest

from hub import views
from hub.api.app import HANDLED
from hub.deployments import Request
from sync.documents import DEPLOYMENT
from sync.messages import Fetch
from sync.records import Local, encode
from sync.replica import values_of
from tests.fakes.fleet import FleetDevice, runs
from tests.hub.core import Core, desired, group, own
from tests.hub.web import check_problem, device_of, release_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http-api.md"


# ----------------------------------------------------------------------------------- addresses


def _addresses() -> set[str]:
    found = set()
    for handler in HANDLED:
        for path in handler.paths:
            plain = re.sub(r":str", "", path)
            found |= {f"{method} /api/v1{plain}" for method in handler.http_methods}
    return {each for each in found if not each.startswith("OPTIONS")}


def test_every_address_is_in_the_reference_and_nothing_else_is() -> None:
    told = set(re.findall(r"^### `([A-Z]+ /api/v1\S+)`", PAGE.read_text(), re.MULTILINE))
    assert told == _addresses()


async def test_the_api_describes_itself(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    found = {
        f"{method.upper()} {path}"
        for path, methods in described["paths"].items()
        for method in methods
        if method in {"get", "put", "patch", "post", "delete", "head"}
    }
    assert found == _addresses() - {"GET /api/v1/openapi.json"}


async def test_an_unknown_address_and_a_wrong_method_are_problems(
    client: httpx.AsyncClient,
) -> None:
    check_problem(await client.get("/nowhere"), 404, "Not Found")
    check_problem(await client.get("/devices/a/b/c"), 404, "Not Found")
    check_problem(await client.patch("/fleet"), 405, "Method Not Allowed")


async def test_the_hub_says_what_it_is(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/hub")).json()
    assert answer["broker"] == {
        "kind": "external",
        "host": "127.0.0.1",
        "port": 1883,
        "connected": True,
    }
    assert answer["counters"] == {"frame_count": 3}
    assert answer["version"]


# --------------------------------------------------------------------------------- deployments


async def test_a_deployment_is_accepted_durably_and_reported(
    client: httpx.AsyncClient, core: Core
) -> None:
    device_of(core)
    release = await release_of(client)
    answer = await client.post("/deployments", json={"release": release, "group": "all"})
    assert answer.status_code == 202
    made = answer.json()
    assert made["targeted"] == ["d1"]
    assert answer.headers["location"] == f"/api/v1/deployments/{made['deployment']}"
    assert DEPLOYMENT + made["deployment"] in values_of(core.held(group()))
    report = (await client.get(f"/deployments/{made['deployment']}")).json()
    assert report["verdicts"]["too_early"] == 1
    assert [each["device"] for each in report["devices"]] == ["d1"]
    listed = (await client.get("/deployments")).json()["items"]
    assert [each["deployment"] for each in listed] == [made["deployment"]]
    gone = await client.delete(f"/deployments/{made['deployment']}")
    assert gone.json()["cancelled_at_ms"] == core.now.ms
    report = (await client.get(f"/deployments/{made['deployment']}")).json()
    assert report["verdicts"]["cancelled"] == 1


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"release": "lamp@9"}, 400, "either a group or devices"),
        ({"release": "lamp@9", "group": "all"}, 404, "no release 'lamp@9'"),
        ({"release": "lamp@1.0.0", "devices": ["nobody"]}, 404, "no device 'nobody'"),
        ({"release": "lamp@1.0.0", "group": "all", "where": "?"}, 400, "label=value"),
        ({"release": "lamp@1.0.0", "group": "all", "expires_s": -1}, 400, "expires_s"),
        ({"release": "lamp@1.0.0", "group": "all", "when": "now"}, 400, "when"),
        ({"release": 7, "group": "all"}, 400, "release"),
        ({"group": "all"}, 400, "release"),
    ],
)
async def test_a_deployment_that_cannot_be_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, core: Core, asked: dict[str, Any], status: int, words: str
) -> None:
    device_of(core)
    await release_of(client)
    check_problem(await client.post("/deployments", json=asked), status, words)
    assert core.rows("SELECT * FROM deployment") == []
    assert core.held(group()) is None


async def test_an_operator_says_how_devices_may_wait_and_the_report_shows_it(
    client: httpx.AsyncClient, core: Core
) -> None:
    device_of(core)
    asked = {
        "release": await release_of(client),
        "group": "all",
        "terms": {"windows": ["Sat 02:00-04:00"], "budget_s": 3600, "overdue": "go"},
    }
    deployment = (await client.post("/deployments", json=asked)).json()["deployment"]
    go = {"now": True, "why": "a leak", "device": "d1"}
    answer = await client.put(f"/deployments/{deployment}/terms", json=go)
    assert answer.status_code == 200
    report = (await client.get(f"/deployments/{deployment}")).json()
    assert report["terms"] == answer.json()["terms"]
    by_device = {each["device"]: each for each in report["terms"]}
    assert by_device[None]["windows"] == by_device["d1"]["windows"] == ["Sat 02:00-04:00"]
    assert (by_device[None]["now"], by_device["d1"]["now"]) == (False, True)
    assert (by_device["d1"]["who"], by_device["d1"]["why"]) == ("ada", "a leak")


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 400, "at least one"),
        ({"windows": ["at night"]}, 400, "windows: 'at' is no day"),
        ({"overdue": "explode"}, 400, "go, give_up"),
        ({"budget_s": -1}, 400, "budget_s"),
        ({"now": True, "device": "d9"}, 404, "not meant for"),
        ({"now": "perhaps"}, 400, "now"),
    ],
)
async def test_terms_that_cannot_be_are_refused_and_change_nothing(
    client: httpx.AsyncClient, core: Core, asked: dict[str, Any], status: int, words: str
) -> None:
    device_of(core)
    deploy = {"release": await release_of(client), "group": "all"}
    deployment = (await client.post("/deployments", json=deploy)).json()["deployment"]
    answer = await client.put(f"/deployments/{deployment}/terms", json=asked)
    check_problem(answer, status, words)
    report = (await client.get(f"/deployments/{deployment}")).json()
    assert report["terms"] == []


async def test_an_unknown_deployment_and_device_are_named(client: httpx.AsyncClient) -> None:
    check_problem(await client.get("/deployments/dnothing"), 404, "dnothing")
    check_problem(await client.delete("/deployments/dnothing"), 404, "dnothing")
    check_problem(await client.get("/devices/nobody"), 404, "registers by connecting")


# ------------------------------------------------------------------------- devices and settings


async def test_devices_come_a_page_at_a_time(client: httpx.AsyncClient, core: Core) -> None:
    names = [f"d{number}" for number in range(7)]
    for name in names:
        device_of(core, name)
    found: list[str] = []
    after: str | None = ""
    for _ in range(3):
        page = (await client.get("/devices", params={"after": after, "limit": 3})).json()
        found += [each["device"] for each in page["items"]]
        after = page["next"]
    assert found == names
    assert after is None
    check_problem(await client.get("/devices", params={"limit": 0}), 400, "limit")
    check_problem(await client.get("/devices", params={"limit": "x"}), 400, "limit")


async def test_a_wish_is_written_shown_and_taken_back(
    client: httpx.AsyncClient, core: Core
) -> None:
    device_of(core)
    path = "/devices/d1/settings/mode"
    assert (await client.put(path, json={"value": {"level": 3}})).status_code == 200
    assert "d/mode" in values_of(core.held(desired("d1")))
    (row,) = (await client.get("/devices/d1")).json()["settings"]
    assert (row["desired"], row["effective"], row["conflict"]) == (
        {"level": 3},
        {"level": 3},
        False,
    )
    await client.put("/groups/all/settings/mode", json={"value": "group", "policy": "operator"})
    (row,) = (await client.get("/devices/d1")).json()["settings"]
    assert (row["desired"], row["policy"]) == ("group", "operator")
    assert (await client.delete("/groups/all/settings/mode")).status_code == 200
    assert (await client.delete(path)).status_code == 200
    (row,) = (await client.get("/devices/d1")).json()["settings"]
    assert (row["desired"], row["effective"], row["winner"]) == (None, None, None)


async def test_a_wish_knows_of_the_devices_own_value_and_so_is_no_conflict(
    client: httpx.AsyncClient, core: Core
) -> None:
    device = device_of(core)
    local = encode(Local(core.now.ms << 16, '"dim"'))
    core.talk(device, device.write({"c/mode": local}, core.now.mono_s))
    core.pass_time(1)
    await client.put("/devices/d1/settings/mode", json={"value": "bright"})
    (row,) = (await client.get("/devices/d1")).json()["settings"]
    assert (row["local"], row["effective"], row["conflict"]) == ("dim", "bright", False)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/devices/d1/settings/NOT", {"value": 1}, 400, "cannot name a setting"),
        ("/devices/d1/settings/mode", {"value": 1, "policy": "mine"}, 400, "no policy 'mine'"),
        ("/devices/d1/settings/mode", {}, 400, "value"),
        ("/devices/d1/settings/mode", {"value": "x" * 2001}, 413, "at most 1300"),
        ("/devices/nobody/settings/mode", {"value": 1}, 404, "nobody"),
        ("/devices/hub/settings/mode", {"value": 1}, 400, "reserved"),
        ("/groups/UP/settings/mode", {"value": 1}, 400, "cannot name"),
    ],
)
async def test_a_wish_that_cannot_be_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, core: Core, path: str, body: object, status: int, words: str
) -> None:
    device_of(core)
    check_problem(await client.put(path, json=body), status, words)
    assert core.rows("SELECT name FROM document") == [("dev/d1",)]


async def test_the_fleet_says_who_runs_what(client: httpx.AsyncClient, core: Core) -> None:
    device = device_of(core)
    device_of(core, "d2")
    release = await release_of(client)
    made = await client.post("/deployments", json={"release": release, "group": "all"})
    digest = (await client.get("/releases")).json()["items"][0]["digest"]
    entries = runs("lamp", "1.0.0", bytes.fromhex(digest), device.boot)
    entries |= device.ack(made.json()["deployment"], "K")
    core.talk(device, device.write(entries, core.now.mono_s))
    fleet = (await client.get("/fleet")).json()
    assert (fleet["registered_count"], fleet["active_count"], fleet["dark"]) == (2, 2, [])
    (adoption,) = fleet["adoption"]
    assert (adoption["component"], adoption["version"]) == ("lamp", "1.0.0")
    assert (adoption["targeted_count"], adoption["proven_count"]) == (2, 1)
    assert adoption["adopted_ratio"] == 0.5
    (summary,) = fleet["deployments"]
    assert summary["verdicts"]["acknowledged"] == 1
    assert summary["devices_by_verdict"]["acknowledged"] == ["d1"]
    assert summary["sentence"].startswith("1 of 2 devices runs lamp 1.0.0")
    core.pass_time(8 * 86_400)
    fleet = (await client.get("/fleet")).json()
    assert (fleet["active_count"], fleet["dark"]) == (0, ["d1", "d2"])


async def test_a_look_at_the_fleet_goes_through_a_bounded_number_of_devices(
    client: httpx.AsyncClient, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("d1", "d2"):
        device_of(core, name)
    release = await release_of(client)
    made = [
        (await client.post("/deployments", json={"release": release, "group": "all"})).json()
        for _ in range(4)
    ]
    newest_first = [each["deployment"] for each in made][::-1]

    async def shown() -> list[str]:
        return [each["deployment"] for each in (await client.get("/fleet")).json()["deployments"]]

    assert await shown() == newest_first
    monkeypatch.setattr(views, "DEVICES_REPORTED_MAX", 5)
    assert await shown() == newest_first[:2]
    monkeypatch.setattr(views, "DEVICES_REPORTED_MAX", 0)
    assert await shown() == newest_first[:1]


async def test_a_device_that_is_forgotten_leaves_nothing_and_registers_anew(
    client: httpx.AsyncClient, core: Core
) -> None:
    device, other = device_of(core, "d1"), device_of(core, "d2")
    release = await release_of(client)
    for asked in ({"group": "all"}, {"devices": ["d1", "d2"]}):
        await client.post("/deployments", json={"release": release, **asked})
    core.talk(device, device.write(device.ack("dmade", "D"), core.now.mono_s))
    core.presence("d1", b'{"online": true, "birth": 1}')
    core.say("d1", Fetch("dev/d2"))
    before = core.rows("SELECT name FROM document WHERE name LIKE '%d2' ORDER BY 1")

    answer = await client.delete("/devices/d1")
    assert (answer.status_code, answer.json()) == (200, {"device": "d1", "forgotten": True})
    check_problem(await client.delete("/devices/d1"), 404, "no device 'd1'")
    tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'audit'"
    for (table,) in core.rows(tables):
        for row in core.rows(f"SELECT * FROM {table}"):
            assert "d1" not in row
            assert "dev/d1" not in row
            assert "des/d1" not in row
    assert core.rows("SELECT name FROM document WHERE name LIKE '%d2' ORDER BY 1") == before
    assert {n for (n,) in core.rows("SELECT device FROM targeted")} == {
        n for (n,) in core.rows("SELECT n FROM device")
    }
    core.talk(other, other.write(other.ack("dmade", "D"), core.now.mono_s))
    core.connect(device)
    assert values_of(core.held(own("d1"))) == device.author.values()


# -------------------------------------------------------------------------------------- faults


async def test_a_full_disk_is_507_and_nothing_of_the_request_is_kept(
    client: httpx.AsyncClient, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_of(core)
    release = await release_of(client)

    def full(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr("hub.store.deployments.supersede", full)
    asked = {"release": release, "group": "all"}
    check_problem(await client.post("/deployments", json=asked), 507, "make room")
    assert core.rows("SELECT * FROM deployment") == []
    assert core.groups.holding("grp/all") is None
    monkeypatch.undo()
    assert (await client.post("/deployments", json=asked)).status_code == 202


async def test_a_fault_of_the_hub_shows_nothing_of_its_inside(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(views, "fleet_view", broken)
    answer = await client.get("/fleet")
    check_problem(answer, 500, "its log says more")
    assert "secret" not in answer.text


async def test_a_body_nested_too_deeply_is_the_senders_fault(client: httpx.AsyncClient) -> None:
    answer = await client.post("/deployments", content=b"[" * 100_000)
    check_problem(answer, 400, "nested too deeply")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "-1", "0", "1e400", "1e308"])
async def test_a_time_that_is_none_is_refused_and_nothing_is_deployed(
    client: httpx.AsyncClient, core: Core, number: str
) -> None:
    device_of(core)
    release = await release_of(client)
    body = f'{{"release": "{release}", "group": "all", "expires_s": {number}}}'
    answer = await client.post("/deployments", content=body)
    check_problem(answer, 400, "expires_s|JSON|out of range")
    assert core.rows("SELECT * FROM deployment") == []


@pytest.mark.parametrize("limit", ["nan", "inf", "-1", "0", "", "1.5", "9" * 30, "1001", "%00"])
@pytest.mark.parametrize("path", ["/devices", "/deployments"])
async def test_a_limit_that_is_none_is_refused(
    client: httpx.AsyncClient, path: str, limit: str
) -> None:
    check_problem(await client.get(f"{path}?limit={limit}"), 400, "limit: Expected")


@pytest.mark.parametrize("value", ["NaN", "[Infinity]", "1e400", '"\\ud800"', "1" * 5000, ""])
async def test_a_value_that_is_no_json_is_refused_and_nothing_is_written(
    client: httpx.AsyncClient, core: Core, value: str
) -> None:
    device_of(core)
    answer = await client.put("/devices/d1/settings/mode", content=f'{{"value": {value}}}')
    check_problem(answer, 400, ".")
    assert core.held(desired("d1")) is None


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "rubbish", "application/json; charset=x"],
)
async def test_a_body_that_is_said_to_be_something_else_is_refused(
    client: httpx.AsyncClient, core: Core, kind: str
) -> None:
    device_of(core)
    asked = {"content": b'{"value": 1}', "headers": {"content-type": kind}}
    answer = await client.put("/devices/d1/settings/mode", **asked)  # type: ignore[arg-type]
    check_problem(answer, 415, "send JSON in UTF-8")
    assert core.held(desired("d1")) is None


@pytest.mark.parametrize("path", ["/deployments", "/releases"])
async def test_a_request_without_a_body_is_told_so(client: httpx.AsyncClient, path: str) -> None:
    check_problem(await client.post(path), 400, "has no body; send JSON")


async def test_a_device_that_joined_later_shows_how_it_came_off_and_counts_nowhere(
    client: httpx.AsyncClient, core: Core
) -> None:
    core.connect(FleetDevice("d1", 1))
    core.release()
    deployment = core.deploy(Request(release="lamp@1.0.0", group="all")).deployed.id
    late = FleetDevice("d2", 2)
    core.connect(late)
    acks = late.ack(deployment, "D") | late.ack(deployment, "F", "installer_failed")
    core.talk(late, late.write(acks, core.now.mono_s))

    shown = (await client.get("/devices/d2")).json()
    assert shown["deployments"] == []
    (joined,) = shown["joined_later"]
    assert (joined["deployment"], joined["release"]) == (deployment, "lamp@1.0.0")
    assert (joined["stage"], joined["reason"]) == ("failed", "installer_failed")
    report = (await client.get(f"/deployments/{deployment}")).json()
    assert [each["device"] for each in report["devices"]] == ["d1"]
    assert (await client.get("/devices/d1")).json()["joined_later"] == []


async def test_taking_back_what_nobody_wished_is_refused_and_leaves_no_row(
    client: httpx.AsyncClient, core: Core
) -> None:
    core.connect(FleetDevice("d1", 1))

    for path in ("/devices/d1/settings/mode", "/groups/all/settings/mode"):
        check_problem(await client.delete(path), 404, "nothing is wished for mode")

    assert (await client.get("/devices/d1")).json()["settings"] == []
    await client.put("/devices/d1/settings/mode", json={"value": 1})
    assert (await client.delete("/devices/d1/settings/mode")).is_success
    check_problem(await client.delete("/devices/d1/settings/mode"), 404, "nothing is wished")
