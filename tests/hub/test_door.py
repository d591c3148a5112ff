"""Who is let through to an address of the API, over the real application."""

import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar, get
from litestar.routes import HTTPRoute

from hub.api.app import HANDLED, ROOT
from hub.api.door import WRONG_BURST_COUNT, WRONG_PER_S, Door, bearer
from hub.api.needs import NEEDS
from hub.api.problems import HANDLERS
from hub.audit import Ledger
from hub.errors import Unauthenticated
from hub.flood import network_of
from hub.operators import LIFE_S, Scope, Shown, new_token
from hub.store import operators as store
from hub.tokens import Tokens
from tests.hub.core import Core
from tests.hub.web import CoreClock, app_of, check_problem, device_of, release_of, token_of


def showing(token: Shown | str) -> dict[str, str]:
    text = token if isinstance(token, str) else token.text()
    return {"authorization": f"Bearer {text}"}


@pytest.fixture
def stranger(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Give a client of the same API that shows no token."""
    del client.headers["authorization"]
    return client


def state(core: Core) -> list[list[tuple[object, ...]]]:
    """Return everything that a request could have changed."""
    tables = ("deployment", "release", "document", "token", "audit")
    return [core.rows(f"SELECT * FROM {table}") for table in tables]


# --------------------------------------------------------------------------------- the table


def addresses() -> set[str]:
    return {
        f"{method} {re.sub(':[a-z]+}', '}', path)}"
        for handler in HANDLED
        for path in handler.paths
        for method in handler.http_methods
    }


def test_every_address_says_what_it_needs_and_nothing_else_does() -> None:
    assert set(NEEDS) == addresses()


def test_an_address_without_a_token_says_why() -> None:
    public = {name: need for name, need in NEEDS.items() if need.scope is None}
    assert set(public) == {
        "GET /openapi.json",
        "GET /blobs/{digest}",
        "GET /blobs/{digest}/blocks",
        "HEAD /blobs/{digest}",
        "GET /packs/{base}/{target}",
        "GET /trust/metadata/{name}",
    }
    assert all(need.public_because for need in public.values())


def test_nothing_that_changes_something_is_for_viewers_or_strangers() -> None:
    for name, need in NEEDS.items():
        if not name.startswith(("GET ", "HEAD ")):
            assert need.scope in {Scope.OPERATOR, Scope.ADMIN}, name


async def test_an_address_that_is_not_in_the_table_is_closed_even_to_an_admin(core: Core) -> None:
    @get("/api/v1/forgotten")
    async def forgotten() -> str:
        raise AssertionError("somebody came in")

    clock = CoreClock(core)
    door = Door(Tokens(core.database, clock, Ledger(core.database, clock, 1000)), ROOT)
    api = Litestar([forgotten], guards=[door.check], exception_handlers=HANDLERS)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=api),  # type: ignore[arg-type]
        base_url="http://127.0.0.1",
    ) as client:
        for headers in ({}, showing(token_of(core, Scope.ADMIN))):
            for path in ("/api/v1/forgotten", "/schema/openapi.json"):
                check_problem(await client.get(path, headers=headers), 403, "closed")


async def test_whatever_the_application_serves_beside_the_table_is_closed(
    client: httpx.AsyncClient, core: Core, tmp_path: Path
) -> None:
    api: Any = app_of(core, tmp_path / "hub")
    while not isinstance(api, Litestar):
        api = api._app
    served = {
        f"{method} {route.path_format.removeprefix(ROOT)}"
        for route in api.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
    }
    assert served > set(NEEDS)
    for address in served - set(NEEDS):
        method, path = example(address)
        check_problem(await client.request(method, path), 403, "closed")


def example(address: str) -> tuple[str, str]:
    method, path = address.split(" ")
    return method, re.sub(r"{[a-z]+}", "x", path)


@pytest.mark.parametrize("address", sorted(NEEDS))
async def test_each_address_lets_exactly_those_through_whom_the_table_names(
    stranger: httpx.AsyncClient, core: Core, address: str
) -> None:
    method, path = example(address)
    need = NEEDS[address].scope
    tokens = {scope: token_of(core, scope) for scope in Scope}
    before = state(core)
    answer = await stranger.request(method, path)
    assert (answer.status_code == 401) is (need is not None)
    for scope, token in tokens.items():
        answer = await stranger.request(method, path, headers=showing(token))
        is_allowed = need is None or scope.covers(need)
        assert answer.status_code != 401
        assert (answer.status_code == 403) is (not is_allowed), (scope, answer.text)
        if not is_allowed:
            assert "ask an admin" in answer.text or method == "HEAD"
            assert state(core) == before
            assert token.secret.hex() not in answer.text


# --------------------------------------------------------------------------------- the token


async def test_who_shows_nothing_is_told_how(stranger: httpx.AsyncClient, core: Core) -> None:
    before = state(core)
    answer = await stranger.post("/deployments", json={"release": "x@1", "group": "all"})
    check_problem(answer, 401, "say who you are.*FIELDFARE_TOKEN")
    assert answer.headers["www-authenticate"] == 'Bearer realm="fieldfare"'
    assert state(core) == before


async def test_a_token_that_ended_is_refused_and_changes_nothing(
    stranger: httpx.AsyncClient, core: Core
) -> None:
    device_of(core)
    expired, revoked = (token_of(core, Scope.ADMIN) for _ in range(2))
    core.database.transact(lambda db: store.revoke(db, revoked.id, core.now.ms))
    wish = ("/devices/d1/settings/mode", {"value": 1})
    check_problem(
        await stranger.put(wish[0], json=wish[1], headers=showing(revoked)), 401, "was revoked"
    )
    assert (await stranger.put(wish[0], json=wish[1], headers=showing(expired))).is_success
    core.pass_time(LIFE_S)
    before = state(core)
    check_problem(await stranger.delete(wish[0], headers=showing(expired)), 401, "has expired")
    other = Shown(expired.id, new_token().secret)
    check_problem(await stranger.delete(wish[0], headers=showing(other)), 401, "no such token")
    assert state(core) == before


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Basic YTpi")],
        [("authorization", "Bearer {token} x")],
        [("authorization", "{token}")],
        [("authorization", "Bearer\t{token}")],
        [("authorization", "Bearer {token}, Bearer {token}")],
        [("authorization", "Bearer {token}"), ("authorization", "Bearer {token}")],
        [("cookie", "token={token}")],
        [("x-authorization", "Bearer {token}")],
        [("authorization", "Bearer \u00e4{token}")],
        [("authorization", "Bearer " + "a" * 60_000)],
    ],
)
async def test_a_token_that_is_shown_otherwise_does_not_count(
    stranger: httpx.AsyncClient, core: Core, headers: list[tuple[str, str]]
) -> None:
    text = token_of(core, Scope.ADMIN).text()
    shown = [(name, value.replace("{token}", text).encode("latin-1")) for name, value in headers]
    answer = await stranger.get("/fleet", headers=shown)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert text[-64:] not in answer.text


async def test_a_token_in_the_address_does_not_count(
    stranger: httpx.AsyncClient, core: Core
) -> None:
    text = token_of(core, Scope.ADMIN).text()
    answer = await stranger.get(f"/fleet?access_token={text}&token={text}")
    assert answer.status_code == 401


async def test_the_scheme_may_be_written_in_any_case(
    stranger: httpx.AsyncClient, core: Core
) -> None:
    text = token_of(core, Scope.VIEWER).text()
    for scheme in ("bearer", "BEARER", "Bearer "):
        answer = await stranger.get("/fleet", headers={"authorization": f"{scheme} {text}"})
        assert answer.is_success


HEADER_NAMES = st.sampled_from([b"authorization", b"host", b"x"])


@given(st.lists(st.tuples(HEADER_NAMES, st.binary(max_size=100))))
def test_any_bytes_in_headers_are_a_text_or_no_token(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        text = bearer(headers)
    except Unauthenticated:
        return
    (value,) = [value for name, value in headers if name == b"authorization"]
    assert value.decode("latin-1").lower().startswith("bearer")
    assert text in value.decode("latin-1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=200).map(lambda raw: b"Bearer fft_" + raw))
async def test_no_made_up_token_opens_an_address(core: Core, tmp_path: Path, value: bytes) -> None:
    clock = CoreClock(core)
    door = Door(Tokens(core.database, clock, Ledger(core.database, clock, 1000)), ROOT)
    with pytest.raises(Unauthenticated):
        await door._token([(b"authorization", value)], "192.0.2.1")


async def test_devices_fetch_artifacts_without_a_token(
    client: httpx.AsyncClient, core: Core
) -> None:
    await release_of(client)
    digest = (await client.get("/releases")).json()["items"][0]["digest"]
    for headers in ({}, showing("rubbish")):
        client.headers.pop("authorization", None)
        assert (await client.get(f"/blobs/{digest}", headers=headers)).is_success
        assert (await client.head(f"/blobs/{digest}", headers=headers)).is_success
        check_problem(await client.put(f"/blobs/{digest}", headers=headers), 401, "token")


# ------------------------------------------------------------------------------- too many


async def test_a_source_that_goes_on_with_wrong_tokens_waits_and_proven_ones_do_not(
    stranger: httpx.AsyncClient, core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worked, fresh = token_of(core, Scope.VIEWER), token_of(core, Scope.VIEWER)
    wrong = [Shown(worked.id, new_token().secret) for _ in range(3 * WRONG_BURST_COUNT)]
    assert (await stranger.get("/fleet", headers=showing(worked))).is_success
    found = [(await stranger.get("/fleet", headers=showing(each))).status_code for each in wrong]
    refused_count = found.count(401)
    assert WRONG_BURST_COUNT <= refused_count <= WRONG_BURST_COUNT + 2
    assert found == [401] * refused_count + [429] * (len(wrong) - refused_count)
    logged = [each for each in caplog.records if each.name == "hub.api.door"]
    assert len(logged) == refused_count
    assert (await stranger.get("/fleet", headers=showing("rubbish"))).status_code == 429
    assert (await stranger.get("/fleet", headers=showing(fresh))).status_code == 429
    assert (await stranger.get("/fleet", headers=showing(worked))).is_success
    core.database.transact(lambda db: store.revoke(db, worked.id, core.now.ms))
    check_problem(await stranger.get("/fleet", headers=showing(worked)), 401, "revoked")
    core.pass_time(3 / WRONG_PER_S)
    assert (await stranger.get("/fleet", headers=showing(fresh))).is_success
    said = caplog.text
    assert worked.id in said
    assert not any(each.secret.hex() in said for each in (*wrong, worked, fresh))


@pytest.mark.parametrize(
    ("source", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_a_network_of_ipv6_is_one_source(source: str, network: str) -> None:
    assert network_of(source) == network
