"""Who may ask a hub, with the hub as a process."""

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import stat
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from hub.cli import main
from hub.cli.exits import Exit
from hub.errors import ExitCode
from hub.operators import parse_token
from hub.store.beside import transact_beside
from hub.store.database import DATABASE_FILE
from tests.fakes.hub_process import HubProcess

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

TOKEN = re.compile(r"fft_[a-z2-7]{8}_[0-9a-f]{64}")


@contextlib.asynccontextmanager
async def running(folder: Path, **settings: object) -> AsyncIterator[HubProcess]:
    hub = HubProcess(folder / "hub", **settings)
    if "bootstrap_token_file" not in settings:
        hub.forget("bootstrap_token_file")
    try:
        await hub.start()
        yield hub
    finally:
        hub.kill()


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    database = apsw.Connection(str(folder / "hub" / DATABASE_FILE), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


async def test_the_first_start_prints_a_token_that_works_and_no_other_start_does(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as hub:
        (text,) = TOKEN.findall(hub.said())
        (line,) = [each for each in hub.said().splitlines() if text in each]
        assert line.startswith("fieldfare hub: the token of the first admin, shown this once")
        async with hub.client(token=text) as client:
            assert (await client.get("/tokens")).status_code == 200
        hub.kill()
        await hub.start()
        assert "fft_" not in hub.said()
        async with hub.client(token=text) as client:
            assert (await client.get("/tokens")).status_code == 200
        hub.end()
    secret = parse_token(text).secret
    for file in tmp_path.rglob("*"):
        if file.is_file() and file != hub.log:
            content = file.read_bytes()
            assert secret not in content
            assert text.encode()[-64:] not in content
    assert rows(tmp_path, "SELECT action, name FROM audit") == [("token.create", "the hub")]


async def test_the_first_token_goes_to_a_file_if_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "first.token"
    async with running(tmp_path, bootstrap_token_file=file) as hub:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        text = file.read_text().strip()
        async with hub.client(token=text) as client:
            assert (await client.get("/hub")).status_code == 200
        assert text not in hub.said()


async def test_a_hub_that_cannot_hand_its_first_token_over_does_not_run_and_makes_none(
    tmp_path: Path,
) -> None:
    hub = HubProcess(tmp_path / "hub", bootstrap_token_file=tmp_path / "no" / "token")
    hub.spawn()
    assert hub.wait() == ExitCode.SETTINGS
    assert "bootstrap_token_file" in hub.said()
    assert rows(tmp_path, "SELECT * FROM token") == []
    async with running(tmp_path) as hub:
        assert TOKEN.search(hub.said())


async def test_no_token_and_wrong_ones_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "first.token"
    async with running(tmp_path, bootstrap_token_file=file) as hub:
        async with hub.client(token=file.read_text().strip()) as admin:
            made = {}
            for scope in ("viewer", "operator"):
                asked = {"name": scope, "scope": scope}
                made[scope] = (await admin.post("/tokens", json=asked)).json()
            asked = {"name": "x", "scope": "admin"}
            gone, old = [(await admin.post("/tokens", json=asked)).json() for _ in range(2)]
            assert (await admin.delete(f"/tokens/{gone['id']}")).is_success
            expire = "UPDATE token SET expires_ms = 1 WHERE id = ?"
            transact_beside(tmp_path / "hub", lambda db: db.execute(expire, (old["id"],)))
        before = rows(tmp_path, "SELECT * FROM token"), rows(tmp_path, "SELECT * FROM document")
        wish = {"value": 1}
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer rubbish"}, 401),
            ({"authorization": f"Bearer {gone['token']}"}, 401),
            ({"authorization": f"Bearer {old['token']}"}, 401),
            ({"authorization": f"Bearer {made['viewer']['token']}"}, 403),
        ):
            async with httpx.AsyncClient(base_url=f"{hub.url}/api/v1", headers=headers) as client:
                for answer in (
                    await client.put("/groups/all/settings/mode", json=wish),
                    await client.put(f"/blobs/{'0' * 64}", content=b"x" * 1_000_000),
                    await client.post("/tokens", json={"name": "y", "scope": "admin"}),
                ):
                    assert answer.status_code == status
                    assert answer.headers["content-type"] == "application/problem+json"
        async with hub.client(token=made["operator"]["token"]) as client:
            refused = await client.post("/tokens", json={"name": "y", "scope": "viewer"})
            assert refused.status_code == 403
            after = rows(tmp_path, "SELECT * FROM token"), rows(tmp_path, "SELECT * FROM document")
            assert after == before
            assert (await client.put("/groups/all/settings/mode", json=wish)).is_success
        shown = (*made.values(), gone, old)
        assert not any(each["token"][-64:] in hub.said() for each in shown)


NOISE = [
    b"Authorization: Bearer " + b"a" * 1_000_000,
    b"Authorization: Bearer {token}\r\nAuthorization: Bearer {token}",
    b"Authorization: Bearer \x00{token}",
    b"Authorization: Bearer {token}\x00",
    b"Authorization: Bearer\xc2\xa0{token}",
    b"Authorization : Bearer {token}",
    b"Authorization: Bearer\r\n {token}\r\n x",
    b"Authorization: Bearer {token}\rX: y",
    b"X-Authorization: Bearer {token}",
    b"X-Forwarded-User: admin\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1",
    b"Cookie: authorization=Bearer {token}",
    b"\xff\xfe: \xff",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
]


async def test_no_noise_in_headers_opens_the_api_or_stops_the_hub(tmp_path: Path) -> None:
    file = tmp_path / "first.token"
    async with running(tmp_path, bootstrap_token_file=file) as hub:
        text = file.read_bytes().strip()
        host, port = hub.url.removeprefix("http://").split(":")
        before = rows(tmp_path, "SELECT * FROM document")
        for noise in NOISE:
            reader, writer = await asyncio.open_connection(host, int(port))
            body = b'{"value": 1}'
            request = b"\r\n".join(
                [
                    b"PUT /api/v1/groups/all/settings/mode HTTP/1.1",
                    f"Host: {host}:{port}".encode(),
                    b"Connection: close",
                    b"Content-Type: application/json",
                    f"Content-Length: {len(body)}".encode(),
                    noise.replace(b"{token}", text),
                    b"",
                    body,
                ]
            )
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
                answer = await reader.read()
                assert not answer.startswith(b"HTTP/1.1 2"), (noise[:40], answer[:200])
                assert text[-64:] not in answer
            writer.close()
        assert rows(tmp_path, "SELECT * FROM document") == before
        assert hub.is_running
        assert text[-64:].decode() not in hub.said()
        async with hub.client(token=text.decode()) as client:
            assert (await client.get("/hub")).is_success


async def test_a_service_that_reads_json_is_told_the_first_token_as_json(tmp_path: Path) -> None:
    names = {"STATE_DIR": tmp_path / "hub", "HTTP_PORT": 0, "BROKER_PORT": 0}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hub.cli",
        "hub",
        "--json",
        env={**os.environ, **{f"FIELDFARE_HUB_{name}": str(v) for name, v in names.items()}},
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        said = [json.loads(await child.stdout.readline()) for _ in range(2)]
        assert [list(each) for each in said] == [["bootstrap_token"], ["ready"]]
        assert TOKEN.fullmatch(said[0]["bootstrap_token"])
    finally:
        child.terminate()
        assert await child.wait() == ExitCode.OK


async def test_a_token_made_beside_a_running_hub_counts_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path) as hub:
        assert main(["token", "bootstrap", "--state-dir", str(tmp_path / "hub")]) == 0
        text = capsys.readouterr().out.strip()
        async with hub.client(token=text) as client:
            answer = await client.post("/tokens", json={"name": "next", "scope": "viewer"})
        assert answer.status_code == 201


# ------------------------------------------------------------------------------------- HTTPS


def certificate_in(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that has signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "hub.pem", folder / "hub.key"
    certificate_file.write_bytes(made.public_bytes(Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


async def test_the_api_speaks_https_to_those_who_know_its_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = certificate_in(tmp_path)
    file = tmp_path / "first.token"
    files = {"tls_certificate": certificate, "tls_key": key, "bootstrap_token_file": file}
    async with running(tmp_path, **files) as hub:
        assert hub.url.startswith("https://127.0.0.1:")
        words = ["devices", "--hub", hub.url, "--token-file", str(file)]
        assert await asyncio.to_thread(main, words) == Exit.NO_HUB
        assert "SSL_CERT_FILE" in capsys.readouterr().err
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await asyncio.to_thread(main, words) == Exit.OK
        plain = hub.url.replace("https://", "http://")
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"{plain}/api/v1/hub")


async def test_behind_a_proxy_the_hub_tells_far_callers_from_near_ones(tmp_path: Path) -> None:
    file = tmp_path / "first.token"
    wish = ("/groups/all/settings/mode", {"value": 1})
    async with contextlib.AsyncExitStack() as stack:
        settings = {"proxy_address": "127.0.0.1", "bootstrap_token_file": file}
        hub = await stack.enter_async_context(running(tmp_path, **settings))
        client = await stack.enter_async_context(hub.client(token=file.read_text().strip()))
        far = {"x-forwarded-for": "203.0.113.5", "x-forwarded-proto": "http"}
        assert (await client.put(wish[0], json=wish[1], headers=far)).status_code == 403
        far["x-forwarded-proto"] = "https"
        assert (await client.put(wish[0], json=wish[1], headers=far)).is_success
        assert (await client.put(wish[0], json=wish[1])).is_success
    found = rows(tmp_path, "SELECT source FROM audit WHERE action = 'setting.wish'")
    assert found == [("203.0.113.5",), ("127.0.0.1",)]


@pytest.mark.parametrize("spoilt", ["hub.pem", "hub.key"])
async def test_a_certificate_that_cannot_be_used_is_named_and_nothing_runs(
    tmp_path: Path, spoilt: str
) -> None:
    certificate, key = certificate_in(tmp_path)
    (tmp_path / spoilt).write_text("rubbish")
    hub = HubProcess(tmp_path / "hub", tls_certificate=certificate, tls_key=key)
    hub.spawn()
    assert await asyncio.to_thread(hub.wait) == ExitCode.SETTINGS
    assert "tls_certificate" in hub.said().splitlines()[-1]
    assert rows(tmp_path, "SELECT * FROM token") == []
