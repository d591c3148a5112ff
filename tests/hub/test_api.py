"""The HTTP API over a real store, without a network."""

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest

from hub.api.app import HANDLED, build_api
from hub.api.status import Status
from hub.artifacts import Artifacts
from hub.clock import Clock
from hub.operations import Operations
from hub.publisher import Publisher
from hub.settings import Settings
from sync.documents import DEPLOYMENT
from sync.replica import values_of
from sync.transport.memory import MemoryTransport
from sync.transport.memory_broker import MemoryBroker
from sync.transport.port import Link
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, desired, group

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http-api.md"
BLOB = b"a tree of files" * 1000
DIGEST = hashlib.sha256(BLOB).hexdigest()


class CoreClock:
    """The clock of a test's hub."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def now_ms(self) -> int:
        return self._core.now.ms

    def mono_s(self) -> float:
        return self._core.now.mono_s


def _operations(core: Core, state_dir: Path) -> Operations:
    clock: Clock = CoreClock(core)
    transport = MemoryTransport(MemoryBroker(), Link(client_id="hub"))
    return Operations(
        settings=Settings(state_dir=state_dir, blob_max_bytes=1_000_000),
        clock=clock,
        database=core.database,
        artifacts=Artifacts(state_dir, blob_max_bytes=1_000_000),
        desired=core.desired,
        entries=core.entries,
        groups=core.groups,
        conversations=core.conversations,
        publisher=Publisher(transport, core.database, core.groups, clock, b"hub-1!"),
    )


@pytest.fixture
async def client(core: Core, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    status = Status(
        run="00",
        broker_kind="external",
        broker_host="127.0.0.1",
        broker_port=1883,
        started_at_ms=1,
        is_connected=lambda: True,
        counters=lambda: {"frame_count": 3},
    )
    api = build_api(_operations(core, tmp_path / "hub"), status)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=api, raise_app_exceptions=False),  # type: ignore[arg-type]
        base_url="http://127.0.0.1:8420/api/v1",
    ) as client:
        yield client


def _manifest(
    version: str = "1.0.0", digest: str = DIGEST, length: int = len(BLOB)
) -> dict[str, Any]:
    return {
        "component": "lamp",
        "version": version,
        "artifacts": [{"name": "tree.tar.gz", "sha256": digest, "length_bytes": length}],
        "health": {"command": ["true"]},
    }


def _device(core: Core, name: str = "d1") -> FleetDevice:
    device = FleetDevice(name, 1)
    device.write(fact("site", "s7"), core.now.mono_s)
    core.connect(device)
    return device


async def _release(client: httpx.AsyncClient, version: str = "1.0.0") -> str:
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    answer = await client.post("/releases", json=_manifest(version))
    assert answer.status_code in {200, 201}, answer.text
    return f"lamp@{version}"


def _problem(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert re.search(words, problem["detail"]), problem
    assert "\n" not in problem["detail"]


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
        if method in {"get", "put", "post", "delete", "head"}
    }
    assert found == _addresses() - {"GET /api/v1/openapi.json"}


async def test_an_unknown_address_and_a_wrong_method_are_problems(
    client: httpx.AsyncClient,
) -> None:
    _problem(await client.get("/nowhere"), 404, "Not Found")
    _problem(await client.get("/devices/a/b/c"), 404, "Not Found")
    _problem(await client.patch("/fleet"), 405, "Method Not Allowed")


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


# --------------------------------------------------------------------------------------- guard


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8420", "localhost:1", "[::1]:8420"])
async def test_the_names_of_this_machine_are_answered(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/fleet", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "", "hub:8420"])
async def test_another_host_is_misdirected(client: httpx.AsyncClient, host: str) -> None:
    _problem(await client.get("/fleet", headers={"host": host}), 421, "its own machine")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://example.org"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8420"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_pages_of_other_sites_are_refused_before_anything_happens(
    client: httpx.AsyncClient, core: Core, headers: dict[str, str]
) -> None:
    _device(core)
    release = await _release(client)
    asked = {"release": release, "group": "all"}
    answer = await client.post(
        "/deployments", json=asked, headers={"host": "127.0.0.1:8420", **headers}
    )
    _problem(answer, 403, "other sites")
    assert core.rows("SELECT * FROM deployment") == []


async def test_a_page_of_the_hub_itself_may_ask(client: httpx.AsyncClient) -> None:
    headers = {"host": "127.0.0.1:8420", "origin": "http://127.0.0.1:8420"}
    headers["sec-fetch-site"] = "same-origin"
    assert (await client.get("/fleet", headers=headers)).status_code == 200


# --------------------------------------------------------------------------------------- blobs


async def test_a_blob_is_uploaded_once_and_fetched_whole_and_in_parts(
    client: httpx.AsyncClient,
) -> None:
    path = f"/blobs/{DIGEST}"
    _problem(await client.get(path), 404, "no blob")
    assert (await client.head(path)).status_code == 404
    assert (await client.put(path, content=BLOB)).status_code == 201
    assert (await client.put(path, content=BLOB)).status_code == 200
    head = await client.head(path)
    assert head.headers["content-length"] == str(len(BLOB))
    assert head.headers["etag"] == f'"{DIGEST}"'
    assert "immutable" in head.headers["cache-control"]
    assert (await client.get(path)).content == BLOB
    part = await client.get(path, headers={"range": "bytes=10-19", "if-range": f'"{DIGEST}"'})
    assert (part.status_code, part.content) == (206, BLOB[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(BLOB)}"
    whole = await client.get(path, headers={"range": "bytes=10-19", "if-range": '"other"'})
    assert (whole.status_code, whole.content) == (200, BLOB)
    behind = await client.get(path, headers={"range": f"bytes={len(BLOB)}-"})
    assert behind.status_code == 416
    assert behind.headers["content-range"] == f"bytes */{len(BLOB)}"
    known = await client.get(path, headers={"if-none-match": f'"{DIGEST}"'})
    assert (known.status_code, known.content) == (304, b"")


async def test_a_blob_that_is_another_or_too_long_or_misnamed_is_refused(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    _problem(await client.put(f"/blobs/{DIGEST}", content=BLOB[1:]), 422, "transfer was damaged")
    long = b"x" * 1_000_001
    name = hashlib.sha256(long).hexdigest()
    _problem(await client.put(f"/blobs/{name}", content=long), 413, "blob_max_bytes")
    _problem(await client.put("/blobs/x", content=b""), 400, "64 hex digits")
    _problem(await client.put(f"/blobs/{DIGEST.upper()}", content=BLOB), 400, "lower case")
    _problem(await client.get("/blobs/..%2F..%2Fhub.db"), 404, "Not Found")
    files = [p for p in (tmp_path / "hub" / "blobs").rglob("*") if p.is_file()]
    assert files == []


# ------------------------------------------------------------------------------------ releases


async def test_a_release_needs_its_artifacts_and_never_changes(client: httpx.AsyncClient) -> None:
    _problem(await client.post("/releases", json=_manifest()), 409, f"missing: tree.*{DIGEST}")
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    made = await client.post("/releases", json=_manifest())
    assert made.status_code == 201
    assert (await client.post("/releases", json=_manifest())).status_code == 200
    manifest = await client.get(f"/blobs/{made.json()['digest']}")
    assert hashlib.sha256(manifest.content).hexdigest() == made.json()["digest"]
    assert json.loads(manifest.content)["version"] == "1.0.0"
    other = _manifest() | {"notes": "other"}
    _problem(await client.post("/releases", json=other), 409, "another version")
    listed = (await client.get("/releases")).json()["items"]
    assert [each["release"] for each in listed] == ["lamp@1.0.0"]


@pytest.mark.parametrize(
    ("manifest", "status", "words"),
    [
        ({}, 422, "component: Field required"),
        (_manifest() | {"version": "not a version"}, 422, "version"),
        (_manifest() | {"surprise": 1}, 422, "surprise"),
        (_manifest(length=5), 422, r"has 15000 bytes, and the manifest says 5"),
        ([], 400, "data"),
        ("text", 400, "data"),
    ],
)
async def test_what_is_no_manifest_is_refused_with_the_fault(
    client: httpx.AsyncClient, manifest: object, status: int, words: str
) -> None:
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    _problem(await client.post("/releases", json=manifest), status, words)
    assert (await client.get("/releases")).json() == {"items": []}


async def test_a_body_that_is_not_json_or_too_long_is_refused(client: httpx.AsyncClient) -> None:
    _problem(await client.post("/releases", content=b"{"), 400, ".")
    answer = await client.post("/releases", content=b"[" * 2_000_000)
    assert answer.status_code in {400, 413}


# --------------------------------------------------------------------------------- deployments


async def test_a_deployment_is_accepted_durably_and_reported(
    client: httpx.AsyncClient, core: Core
) -> None:
    _device(core)
    release = await _release(client)
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
    _device(core)
    await _release(client)
    _problem(await client.post("/deployments", json=asked), status, words)
    assert core.rows("SELECT * FROM deployment") == []
    assert core.held(group()) is None


async def test_an_unknown_deployment_and_device_are_named(client: httpx.AsyncClient) -> None:
    _problem(await client.get("/deployments/dnothing"), 404, "dnothing")
    _problem(await client.delete("/deployments/dnothing"), 404, "dnothing")
    _problem(await client.get("/devices/nobody"), 404, "registers by connecting")


# ------------------------------------------------------------------------- devices and settings


async def test_devices_come_a_page_at_a_time(client: httpx.AsyncClient, core: Core) -> None:
    names = [f"d{number}" for number in range(7)]
    for name in names:
        _device(core, name)
    found: list[str] = []
    after: str | None = ""
    for _ in range(3):
        page = (await client.get("/devices", params={"after": after, "limit": 3})).json()
        found += [each["device"] for each in page["items"]]
        after = page["next"]
    assert found == names
    assert after is None
    _problem(await client.get("/devices", params={"limit": 0}), 400, "limit")
    _problem(await client.get("/devices", params={"limit": "x"}), 400, "limit")


async def test_a_wish_is_written_shown_and_taken_back(
    client: httpx.AsyncClient, core: Core
) -> None:
    _device(core)
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
    from sync.records import Local, encode

    device = _device(core)
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
    _device(core)
    _problem(await client.put(path, json=body), status, words)
    assert core.rows("SELECT name FROM document") == [("dev/d1",)]


async def test_the_fleet_says_who_runs_what(client: httpx.AsyncClient, core: Core) -> None:
    device = _device(core)
    _device(core, "d2")
    release = await _release(client)
    made = await client.post("/deployments", json={"release": release, "group": "all"})
    digest = (await client.get("/releases")).json()["items"][0]["digest"]
    from tests.fakes.fleet import runs

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


# -------------------------------------------------------------------------------------- faults


async def test_a_full_disk_is_507_and_nothing_of_the_request_is_kept(
    client: httpx.AsyncClient, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    _device(core)
    release = await _release(client)

    def full(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr("hub.store.deployments.supersede", full)
    asked = {"release": release, "group": "all"}
    _problem(await client.post("/deployments", json=asked), 507, "make room")
    assert core.rows("SELECT * FROM deployment") == []
    assert core.groups.holding("grp/all") is None
    monkeypatch.undo()
    assert (await client.post("/deployments", json=asked)).status_code == 202


async def test_a_fault_of_the_hub_shows_nothing_of_its_inside(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hub import views

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(views, "fleet_view", broken)
    answer = await client.get("/fleet")
    _problem(answer, 500, "its log says more")
    assert "secret" not in answer.text
