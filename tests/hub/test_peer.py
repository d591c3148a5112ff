"""Who is at the other end, and whether others could read along."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.peer import Peer, peer_of
from tests.hub.core import Core
from tests.hub.web import app_of, check_problem, token_of

PROXY = "192.0.2.1"
FAR = "198.51.100.9"

Said = list[tuple[bytes, bytes]]


def forwarded(source: str = FAR, proto: str = "https") -> Said:
    return [(b"x-forwarded-for", source.encode()), (b"x-forwarded-proto", proto.encode())]


@pytest.mark.parametrize(
    ("client", "scheme", "headers", "proxy", "expected"),
    [
        ("127.0.0.1", "http", [], None, Peer("127.0.0.1", "http", True)),
        ("::1", "http", [], None, Peer("::1", "http", True)),
        (FAR, "http", [], None, Peer(FAR, "http", False)),
        (FAR, "https", [], None, Peer(FAR, "https", True)),
        ("", "http", [], None, Peer("", "http", False)),
        # Without a proxy in the settings nobody is believed.
        (FAR, "http", forwarded("127.0.0.1"), None, Peer(FAR, "http", False)),
        ("127.0.0.1", "http", forwarded(), None, Peer("127.0.0.1", "http", True)),
        # The proxy is believed, others are not.
        (PROXY, "http", forwarded(), PROXY, Peer(FAR, "https", True)),
        (PROXY, "http", forwarded(proto="http"), PROXY, Peer(FAR, "http", False)),
        (PROXY, "http", forwarded()[:1], PROXY, Peer(FAR, "http", False)),
        (PROXY, "http", [], PROXY, Peer(PROXY, "http", False)),
        (FAR, "http", forwarded("127.0.0.1"), PROXY, Peer(FAR, "http", False)),
        # What the proxy was told stands before what it adds.
        (PROXY, "http", forwarded(f"127.0.0.1, {FAR}"), PROXY, Peer(FAR, "https", True)),
        (PROXY, "http", forwarded("127.0.0.1") + forwarded(), PROXY, Peer(FAR, "https", True)),
        (PROXY, "http", forwarded("nonsense"), PROXY, Peer(PROXY, "https", True)),
        (PROXY, "http", forwarded("fe80::1%" + "z" * 9999), PROXY, Peer(PROXY, "https", True)),
        # A command on the machine of a proxy that is on it too asks the hub itself.
        ("127.0.0.1", "http", [], "127.0.0.1", Peer("127.0.0.1", "http", True)),
        ("127.0.0.1", "http", forwarded(), "127.0.0.1", Peer(FAR, "https", True)),
        (
            "127.0.0.1",
            "http",
            forwarded(proto="http"),
            "127.0.0.1",
            Peer(FAR, "http", False),
        ),
    ],
)
def test_only_the_proxy_speaks_for_others(
    client: str, scheme: str, headers: Said, proxy: str | None, expected: Peer
) -> None:
    assert peer_of(client, scheme, headers, proxy) == expected


@given(
    st.lists(st.tuples(st.sampled_from([b"x-forwarded-for", b"x-forwarded-proto"]), st.binary())),
    st.sampled_from([None, PROXY]),
)
def test_no_header_of_a_far_machine_makes_it_a_near_one(headers: Said, proxy: str | None) -> None:
    assert peer_of(FAR, "http", headers, proxy) == Peer(FAR, "http", False)


# ----------------------------------------------------------------------------- over the API

From = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def asking(core: Core, tmp_path: Path) -> From:
    """Give clients of the API from anywhere, that show an admin's token."""

    @asynccontextmanager
    async def asking(
        client: str, base: str, **settings: object
    ) -> AsyncIterator[httpx.AsyncClient]:
        api = app_of(core, tmp_path / "hub", **settings)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=api, client=(client, 7)),  # type: ignore[arg-type]
            base_url=f"{base}/api/v1",
            headers={"authorization": f"Bearer {token_of(core).text()}"},
        ) as found:
            yield found

    return asking


async def test_a_token_in_clear_from_another_machine_is_not_looked_at(
    asking: From, core: Core
) -> None:
    far = asking(FAR, "http://hub.example.org", http_names=("hub.example.org",))
    async with far as client:
        for headers in ({}, {"authorization": "Bearer rubbish"}):
            answer = await client.put(
                "/groups/all/settings/mode", json={"value": 1}, headers=headers
            )
            check_problem(answer, 403, "not taken in clear")
    assert core.rows("SELECT * FROM document") == core.rows("SELECT * FROM audit") == []


async def test_over_tls_it_counts_and_the_audit_names_the_far_machine(
    asking: From, core: Core
) -> None:
    wish = ("/groups/all/settings/mode", {"value": 1})
    names = {"http_names": ("hub.example.org",)}
    async with asking(FAR, "https://hub.example.org", **names) as client:
        assert (await client.put(wish[0], json=wish[1])).is_success
    proxied = asking(PROXY, "http://hub.example.org", proxy_address=PROXY, **names)
    async with proxied as client:
        headers = {"x-forwarded-for": "203.0.113.5", "x-forwarded-proto": "https"}
        assert (await client.put(wish[0], json=wish[1], headers=headers)).is_success
    assert core.rows("SELECT source FROM audit") == [(FAR,), ("203.0.113.5",)]


async def test_over_tls_too_only_the_own_names_and_pages_count(asking: From) -> None:
    own = "https://hub.example.org"
    async with asking(FAR, own, http_names=("hub.example.org",)) as client:
        assert (await client.get("/hub", headers={"origin": own})).is_success
        for origin in ("http://hub.example.org", "https://evil.example", "null"):
            check_problem(await client.get("/hub", headers={"origin": origin}), 403, "other sites")
        answer = await client.get("/hub", headers={"host": "evil.example"})
        check_problem(answer, 421, "http_names")
