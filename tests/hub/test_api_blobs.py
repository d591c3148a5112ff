"""The API's guard, its artifacts and its releases."""

import hashlib
import json
from pathlib import Path

import httpx
import pytest

from tests.hub.core import Core
from tests.hub.web import BLOB, DIGEST, check_problem, device_of, manifest_of, release_of

# --------------------------------------------------------------------------------------- guard


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8420", "localhost:1", "[::1]:8420"])
async def test_the_names_of_this_machine_are_answered(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/fleet", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "", "hub:8420"])
async def test_another_host_is_misdirected(client: httpx.AsyncClient, host: str) -> None:
    check_problem(await client.get("/fleet", headers={"host": host}), 421, "its own machine")


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
    device_of(core)
    release = await release_of(client)
    asked = {"release": release, "group": "all"}
    answer = await client.post(
        "/deployments", json=asked, headers={"host": "127.0.0.1:8420", **headers}
    )
    check_problem(answer, 403, "other sites")
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
    check_problem(await client.get(path), 404, "no blob")
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
    check_problem(
        await client.put(f"/blobs/{DIGEST}", content=BLOB[1:]), 422, "transfer was damaged"
    )
    long = b"x" * 1_000_001
    name = hashlib.sha256(long).hexdigest()
    check_problem(await client.put(f"/blobs/{name}", content=long), 413, "blob_max_bytes")
    check_problem(await client.put("/blobs/x", content=b""), 400, "64 hex digits")
    check_problem(await client.put(f"/blobs/{DIGEST.upper()}", content=BLOB), 400, "lower case")
    check_problem(await client.get("/blobs/..%2F..%2Fhub.db"), 404, "Not Found")
    files = [p for p in (tmp_path / "hub" / "blobs").rglob("*") if p.is_file()]
    assert files == []


# ------------------------------------------------------------------------------------ releases


async def test_a_release_needs_its_artifacts_and_never_changes(client: httpx.AsyncClient) -> None:
    check_problem(
        await client.post("/releases", json=manifest_of()), 409, f"missing: tree.*{DIGEST}"
    )
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    made = await client.post("/releases", json=manifest_of())
    assert made.status_code == 201
    assert (await client.post("/releases", json=manifest_of())).status_code == 200
    manifest = await client.get(f"/blobs/{made.json()['digest']}")
    assert hashlib.sha256(manifest.content).hexdigest() == made.json()["digest"]
    assert json.loads(manifest.content)["version"] == "1.0.0"
    other = manifest_of() | {"notes": "other"}
    check_problem(await client.post("/releases", json=other), 409, "another version")
    listed = (await client.get("/releases")).json()["items"]
    assert [each["release"] for each in listed] == ["lamp@1.0.0"]


@pytest.mark.parametrize(
    ("manifest", "status", "words"),
    [
        ({}, 422, "component: is missing"),
        (manifest_of() | {"version": "not a version"}, 422, "version"),
        (manifest_of() | {"surprise": 1}, 422, "surprise"),
        (manifest_of(length=5), 422, r"has 15000 bytes, and the manifest says 5"),
        ([], 400, "data"),
        ("text", 400, "data"),
    ],
)
async def test_what_is_no_manifest_is_refused_with_the_fault(
    client: httpx.AsyncClient, manifest: object, status: int, words: str
) -> None:
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    check_problem(await client.post("/releases", json=manifest), status, words)
    assert (await client.get("/releases")).json() == {"items": []}


async def test_a_body_that_is_not_json_or_too_long_is_refused(client: httpx.AsyncClient) -> None:
    check_problem(await client.post("/releases", content=b"{"), 400, ".")
    answer = await client.post("/releases", content=b"[" * 2_000_000)
    assert answer.status_code in {400, 413}


# -------------------------------------------------------------------------------------- blocks


async def test_the_blocks_of_a_blob_have_their_digests_in_one_list(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 3000
    digest = hashlib.sha256(content).hexdigest()
    await client.put(f"/blobs/{digest}", content=content)
    wanted = b"".join(
        hashlib.sha256(content[start : start + 262_144]).digest()
        for start in range(0, len(content), 262_144)
    )

    for _ in range(2):
        answer = await client.get(f"/blobs/{digest}/blocks")
        assert (answer.status_code, answer.content) == (200, wanted)
    check_problem(await client.get(f"/blobs/{'0' * 64}/blocks"), 404, "no blob")
