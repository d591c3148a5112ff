"""Enrolment over HTTP, in one process: both listeners' addresses, their bodies and refusals."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hub.api.app import build_api
from hub.api.device_app import build_device_api
from hub.errors import Refusal, TooMany
from hub.identity.desk import BURST_COUNT, STRANGERS_BURST_COUNT, Desk
from tests.hub.core import Core
from tests.hub.identity.paper import NONCE, csr_of, new_key, proof_of
from tests.hub.web import (
    check_problem,
    desk_of,
    operations_of,
    status,
    token_of,
    trust_desk_of,
)

Client = httpx.AsyncClient


@asynccontextmanager
async def both(core: Core, state_dir: Path) -> AsyncIterator[tuple[Client, Client]]:
    """Give a client for operators and one for devices."""
    operations = operations_of(core, state_dir)
    desk, trust = desk_of(operations), trust_desk_of(operations)
    apps = (
        build_api(operations, status(), trust, desk),
        build_device_api(operations, trust, desk),
    )
    token = {"authorization": f"Bearer {token_of(core).text()}"}
    clients = [
        Client(
            transport=httpx.ASGITransport(app=app, raise_app_exceptions=False),  # type: ignore[arg-type]
            base_url="http://127.0.0.1:8420/api/v1",
            headers=shown,
        )
        for app, shown in zip(apps, (token, {}), strict=True)
    ]
    async with clients[0], clients[1]:
        yield clients[0], clients[1]


@pytest.fixture
async def clients(core: Core, tmp_path: Path) -> AsyncIterator[tuple[Client, Client]]:
    async with both(core, tmp_path) as pair:
        yield pair


def request(key: Any, device: str = "pump-1", **more: object) -> dict[str, object]:
    return {"csr": csr_of(key, device).decode(), "nonce": NONCE, "device_class": "pump", **more}


async def test_a_claim_token_is_shown_once_and_lets_one_device_in(
    clients: tuple[Client, Client],
) -> None:
    operator, device = clients
    made = await operator.post("/claims", json={"device_class": "pump"})
    assert made.status_code == 201
    token = made.json()["token"]
    assert token.startswith("ff1.hub.example:8443.")
    listed = (await operator.get("/claims")).text
    secret = token.rpartition(".")[2]
    assert secret not in listed
    said = (await device.post("/enrolments", json=request(new_key(), secret=secret))).json()
    assert (said["state"], said["device"]) == ("issued", "pump-1")
    assert said["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    (claim,) = (await operator.get("/claims")).json()["items"]
    assert claim["spent"] == 1


async def test_waiting_accepting_and_fetching(clients: tuple[Client, Client]) -> None:
    operator, device = clients
    said = (await device.post("/enrolments", json=request(new_key()))).json()
    assert (said["state"], said["certificate"]) == ("waiting", None)
    (row,) = (await operator.get("/enrolments?only=waiting")).json()["items"]
    assert row["id"] == said["id"]
    path = f"/enrolments/{said['id']}"
    check_problem(await device.get(path), 404, "no such enrolment")
    assert (await operator.post(f"{path}/accept")).status_code == 200
    found = (await device.get(path, headers={"fieldfare-nonce": NONCE})).json()
    assert found["state"] == "issued"
    (pump,) = (await operator.get("/provisioning")).json()["classes"]
    assert [each["passed_count"] for each in pump["steps"]] == [1, 1, 1, 0, 0]
    check_problem(await operator.get("/enrolments?only=lost"), 400, "there is no state 'lost'")


async def test_a_renewal_needs_the_proof_of_the_key(clients: tuple[Client, Client]) -> None:
    operator, device = clients
    key = new_key()
    token = (await operator.post("/claims", json={"device_class": "pump"})).json()["token"]
    secret = token.rpartition(".")[2]
    said = (await device.post("/enrolments", json=request(key, secret=secret))).json()
    csr = csr_of(key, "pump-1")
    wish = {
        "certificate": said["certificate"],
        "csr": csr.decode(),
        "proof": base64.b64encode(proof_of(key, csr)).decode(),
    }
    fresh = await device.post("/renewals", json=wish)
    assert fresh.json()["certificate"] == said["certificate"]
    for proof, code in (("!", 400), ("AAAA", 403)):
        answer = await device.post("/renewals", json={**wish, "proof": proof})
        check_problem(answer, code, "proof|signed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"csr": 1, "nonce": "", "device_class": ""}',
        json.dumps({"csr": "x" * 5000, "nonce": NONCE, "device_class": "p"}).encode(),
        json.dumps({"csr": "", "nonce": NONCE, "device_class": "p", "more": 1}).encode(),
        b"[" * 100_000,
        b'{"csr": "\xff", "nonce": "", "device_class": ""}',
        b"\xff\xfe{}",
    ],
)
async def test_a_body_out_of_form_is_the_senders_fault(
    clients: tuple[Client, Client], core: Core, body: bytes
) -> None:
    for path in ("/enrolments", "/renewals"):
        answer = await clients[1].post(
            path, content=body, headers={"content-type": "application/json"}
        )
        assert 400 <= answer.status_code < 500, answer.text
    assert core.rows("SELECT count(*) FROM enrolment") == [(0,)]


async def test_whoever_asks_too_often_is_told_to_come_later(
    clients: tuple[Client, Client],
) -> None:
    device = clients[1]
    codes = [
        (await device.get("/enrolments/none", headers={"fieldfare-nonce": NONCE})).status_code
        for _ in range(260)
    ]
    assert codes[0] == 404
    assert codes[-1] == 429


async def test_what_operators_decide_cannot_be_asked_where_devices_come(
    clients: tuple[Client, Client],
) -> None:
    operator, device = clients
    for method, path in (
        ("GET", "/enrolments"),
        ("POST", "/claims"),
        ("POST", "/enrolments/x/accept"),
        ("POST", "/devices/x/revoke"),
        ("GET", "/fleet"),
        ("PUT", f"/blobs/{'0' * 64}"),
    ):
        assert (await device.request(method, path, json={})).status_code in {404, 405}
    for path in ("/ca", "/renewals"):
        assert (await operator.get(path)).status_code == 404
    check_problem(await device.get(f"/blobs/{'0' * 64}"), 403, "only enrolled devices")


async def test_a_hub_without_https_says_how_to_enrol_devices(core: Core, tmp_path: Path) -> None:
    operations = operations_of(core, tmp_path)
    api: Any = build_api(operations, status(), trust_desk_of(operations))
    token = {"authorization": f"Bearer {token_of(core).text()}"}
    transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
    base = "http://127.0.0.1:8420/api/v1"
    async with Client(transport=transport, base_url=base, headers=token) as client:
        check_problem(await client.get("/enrolments"), 400, "set https_port")
        assert (await client.get("/hub")).status_code == 200


# ----------------------------------------------------------------------------- too much asking


@pytest.fixture
async def desk(core: Core, tmp_path: Path) -> Desk:
    return desk_of(operations_of(core, tmp_path))


async def asks(desk: Desk, peer: str) -> bool:
    """Ask how an enrolment stands that nobody has asked for; tell whether it was looked at."""
    with pytest.raises(Refusal) as caught:
        await desk.look("0" * 64, NONCE, peer)
    return not isinstance(caught.value, TooMany)


async def renews(desk: Desk, peer: str) -> bool:
    with pytest.raises(Refusal) as caught:
        await desk.renew(b"none", b"none", b"none", peer)
    return not isinstance(caught.value, TooMany)


async def test_one_network_that_asks_too_much_stops_nobody_else(desk: Desk) -> None:
    taken = [await asks(desk, f"2001:db8::{number:x}") for number in range(BURST_COUNT + 50)]
    assert taken.count(True) == BURST_COUNT
    assert not await asks(desk, "2001:db8::ffff")
    assert await asks(desk, "192.0.2.7")
    assert await asks(desk, "2001:db8:1::1")


async def test_a_flood_of_strangers_from_everywhere_stops_no_renewal(desk: Desk) -> None:
    sources = [f"2001:db8:{number:x}::1" for number in range(STRANGERS_BURST_COUNT + 200)]
    taken = [await asks(desk, each) for each in sources]
    assert taken.count(True) == STRANGERS_BURST_COUNT + 1
    assert not await asks(desk, "192.0.2.7")
    assert await renews(desk, "192.0.2.7")
    assert len(desk._each) <= STRANGERS_BURST_COUNT + 2
