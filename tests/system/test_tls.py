"""Mutual TLS with a real Mosquitto: who may speak, about what, and who may not any more."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sync.transport.mqtt import MqttTransport
from sync.transport.port import Connected, Delivery, Link, PublishRefused, Subscription
from tests.system.programs import AgentProgram, lamp, until
from tests.system.tls import SecureFleet, restart, started

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[SecureFleet]:
    fleet = await started(tmp_path)
    yield fleet
    fleet.stop()


@contextlib.asynccontextmanager
async def at_broker(
    fleet: SecureFleet, tls: ssl.SSLContext | None, name: str, *filters: str
) -> AsyncIterator[MqttTransport]:
    """Connect to the broker as whoever `tls` says, claiming to be `name`."""
    link = Link(
        client_id=name,
        host="localhost",
        port=fleet.broker_port,
        tls=tls,
        reconnect_min_s=0.1,
        reconnect_max_s=0.2,
    )
    transport = MqttTransport(link, subscriptions=[Subscription(each) for each in filters])
    running = asyncio.create_task(transport.run())
    try:
        yield transport
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def connected(transport: MqttTransport) -> None:
    async with asyncio.timeout(30):
        while not isinstance((await transport.receive(1))[0], Connected):
            pass


async def refused(transport: MqttTransport) -> str:
    """Wait until the broker has turned an attempt away, and return what it looked like."""
    await until(lambda: transport.counters.connect_failed_count >= 2)
    assert transport.counters.connect_count == 0
    return transport.last_failure


async def test_a_release_goes_out_and_its_outcome_returns_over_mutual_tls(
    fleet: SecureFleet,
) -> None:
    with_token = fleet.enrolled("pump-1")
    by_hand = fleet.agent("pump-2")
    asking = asyncio.create_task(
        asyncio.to_thread(by_hand.cli, "enroll", "--trust-first-contact", "--wait-s", "60")
    )
    await until(lambda: bool(fleet.operator("enroll", "list", "--waiting")["enrolments"]))
    fleet.operator("enroll", "accept", "pump-2")
    assert (await asking)["changed"] is True
    for agent in (with_token, by_hand):
        agent.start()
    await fleet.wait_registered("pump-1", "pump-2")
    release = fleet.hub.publish_release(*lamp("1.0.0", size_bytes=300_000))
    accepted = fleet.hub.ask("POST", "/deployments", {"release": release, "group": "all"})
    for agent in (with_token, by_hand):
        await fleet.wait_verdict(accepted["deployment"], agent.device, "acknowledged")
        assert agent.runs() == "1.0.0"
    (funnel,) = fleet.operator("enroll", "funnel")["classes"]
    assert [each["passed_count"] for each in funnel["steps"]] == [2, 2, 2, 2, 2]
    key = fleet.identity(with_token) / "key.pem"
    assert key.stat().st_mode & 0o777 == 0o600


async def test_a_stranger_without_a_certificate_is_refused_by_the_broker(
    fleet: SecureFleet,
) -> None:
    async with at_broker(fleet, fleet.context(None), "pump-1") as transport:
        await refused(transport)
    async with at_broker(fleet, None, "pump-1") as transport:
        await refused(transport)


async def test_a_device_that_publishes_outside_its_topics_is_refused_by_the_broker(
    fleet: SecureFleet,
) -> None:
    one = fleet.enrolled("pump-1")
    async with at_broker(fleet, fleet.context(one), "pump-1") as transport:
        await connected(transport)
        await transport.publish("ff/1/pump-1/up", b"mine")
        for topic in (
            "ff/1/pump-2/up",
            "ff/1/pump-2/down",
            "ff/1/group/all",
            "ff/1/kill/all",
            "ff/1/hub/presence",
        ):
            with pytest.raises(PublishRefused):
                await transport.publish(topic, b"not mine")


async def test_a_device_that_subscribes_outside_its_topics_hears_nothing(
    fleet: SecureFleet,
) -> None:
    one, two = fleet.enrolled("pump-1"), fleet.enrolled("pump-2")
    nosy = ("#", "ff/1/pump-2/up", "ff/1/pump-2/presence", "ff/1/+/down", "$SYS/#")
    async with (
        at_broker(fleet, fleet.context(one), "pump-1", *nosy) as spy,
        at_broker(fleet, fleet.context(two), "pump-2") as victim,
    ):
        await connected(spy)
        await connected(victim)
        await victim.publish("ff/1/pump-2/presence", b'{"online":true,"birth":1}', retain=True)
        await victim.publish("ff/1/pump-2/up", b"secret")
        fleet.hub.ask("PUT", "/groups/all/settings/mode", {"value": "eco"})
        heard: set[str] = set()
        async with asyncio.timeout(30):
            while "ff/1/group/all" not in heard:
                found = await spy.receive(10)
                heard |= {each.topic for each in found if isinstance(each, Delivery)}
        assert heard <= {"ff/1/group/all", "ff/1/hub/presence", "ff/1/pump-1/down"}


async def test_a_device_is_who_its_certificate_names_whatever_client_id_it_claims(
    fleet: SecureFleet,
) -> None:
    one, two = fleet.enrolled("pump-1"), fleet.enrolled("pump-2")
    async with at_broker(fleet, fleet.context(two), "pump-2") as victim:
        await connected(victim)
        async with at_broker(fleet, fleet.context(one), "pump-2") as thief:
            await connected(thief)
            with pytest.raises(PublishRefused):
                await thief.publish("ff/1/pump-2/up", b"as pump-2")
            await victim.publish("ff/1/pump-2/up", b"still here")
        assert victim.counters.disconnect_count == 0


async def test_a_revoked_device_is_refused_by_the_hub_at_once_and_then_by_the_broker(
    fleet: SecureFleet,
) -> None:
    agent = fleet.enrolled("pump-1")
    agent.start()
    await fleet.wait_registered("pump-1")
    fleet.operator("enroll", "revoke", "pump-1")
    agent.cli("set", "mode", '"eco"')

    def is_counted() -> bool:
        offences = fleet.hub.ask("GET", "/devices/pump-1")["offences"]
        return "not_enrolled" in {each["code"] for each in offences}

    await until(is_counted, fleet.tails)
    assert fleet.hub.ask("GET", "/devices/pump-1")["settings"] == []

    await restart(fleet.broker)
    async with at_broker(fleet, fleet.context(agent), "pump-1") as transport:
        await refused(transport)
    agent.kill()
    done = fleet.agents[0]
    assert _renew(fleet, done)["error"].endswith("an operator has revoked this device")

    told = agent.cli("enroll", "--anew", "--token", fleet.token("--device", "pump-1"))
    assert told["changed"] is True
    async with at_broker(fleet, fleet.context(agent), "pump-1") as transport:
        await connected(transport)


async def test_artifacts_are_for_enrolled_devices_alone(fleet: SecureFleet) -> None:
    agent = fleet.enrolled("pump-1")
    manifest, tree = lamp("1.0.0")
    fleet.hub.publish_release(manifest, tree)
    path = f"/api/v1/blobs/{manifest.artifacts[0].sha256}"
    assert await asyncio.to_thread(_get, fleet, fleet.context(agent), path) == (200, tree)
    status, _ = await asyncio.to_thread(_get, fleet, fleet.context(None), path)
    assert status == 403
    stolen = fleet.context(agent)
    fleet.operator("enroll", "revoke", "pump-1")
    status, _ = await asyncio.to_thread(_get, fleet, stolen, path)
    assert status == 403
    agent.cli("enroll", "--anew", "--token", fleet.token("--device", "pump-1"))
    assert await asyncio.to_thread(_get, fleet, fleet.context(agent), path) == (200, tree)
    status, _ = await asyncio.to_thread(_get, fleet, stolen, path)
    assert status == 403, "a revoked certificate counts again"
    for path in ("/api/v1/devices", "/api/v1/claims", "/api/v1/fleet", "/api/v1/hub"):
        assert (await asyncio.to_thread(_get, fleet, fleet.context(None), path))[0] == 404


async def test_a_token_is_not_sent_to_another_hub_than_it_names(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    elsewhere = await started(tmp_path / "other")
    try:
        head, _, fingerprint, secret = fleet.token().rsplit(".", 3)
        del head
        forged = f"ff1.localhost:{elsewhere.https_port}.{fingerprint}.{secret}"
        agent = fleet.agent("pump-1")
        with pytest.raises(AssertionError, match="the token was not sent"):
            agent.cli("enroll", "--token", forged, "--wait-s", "5")
        assert elsewhere.operator("enroll", "list")["enrolments"] == []
        assert not (fleet.identity(agent) / "cert.pem").exists()
    finally:
        elsewhere.stop()


async def test_certificates_renew_themselves_while_the_agent_runs_and_after_they_expired(
    tmp_path: Path,
) -> None:
    fleet = await started(tmp_path, certificate_life_s="6", certificate_grace_s="600")
    try:
        agent = fleet.enrolled("pump-1")
        file = fleet.identity(agent) / "cert.pem"
        first = file.read_bytes()
        agent.start()
        await until(lambda: file.read_bytes() != first, fleet.tails)
        await fleet.wait_registered("pump-1")
        agent.kill()
        second = file.read_bytes()

        def is_expired() -> bool:
            try:
                status, _ = _get(fleet, fleet.context(agent), "/api/v1/blobs/" + "0" * 64)
            except (ssl.SSLError, ConnectionError):
                return True
            assert status == 404
            return False

        await until(is_expired)
        agent.start()
        await until(lambda: file.read_bytes() != second, fleet.tails)
        agent.cli("set", "mode", '"eco"')
        await until(lambda: bool(fleet.hub.ask("GET", "/devices/pump-1")["settings"]), fleet.tails)
    finally:
        fleet.stop()


async def test_enrolling_anew_in_vain_leaves_the_device_at_work(fleet: SecureFleet) -> None:
    agent = fleet.enrolled("pump-1")
    before = (fleet.identity(agent) / "cert.pem").read_bytes()
    for words in (("--token", fleet.token("--device", "pump-2")), ("--token", fleet.token())):
        with pytest.raises(AssertionError, match="another name|with another key"):
            agent.cli("enroll", "--anew", *words, "--wait-s", "0")
        assert (fleet.identity(agent) / "cert.pem").read_bytes() == before
    agent.start()
    await fleet.wait_registered("pump-1")


async def test_a_device_whose_key_lives_elsewhere_enrols_speaks_and_renews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "element"
    monkeypatch.setenv("ELEMENT", str(store))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    fleet = await started(tmp_path, certificate_life_s="6", certificate_grace_s="600")
    try:
        agent = fleet.agent("pump-1", device_key="tests.fakes.element:Element")
        agent.cli("enroll", "--token", fleet.token())
        file = fleet.identity(agent) / "cert.pem"
        first = file.read_bytes()
        signed_count = (store / "slot-0.log").read_text().count("signed")
        agent.start()
        await fleet.wait_registered("pump-1")
        await until(lambda: file.read_bytes() != first, fleet.tails)
        assert (store / "slot-0.log").read_text().count("signed") > signed_count > 0
        assert (fleet.identity(agent) / "key.pem").is_symlink()
        assert len(list(store.glob("*.pem"))) == 1
    finally:
        fleet.stop()


def _get(fleet: SecureFleet, context: ssl.SSLContext, path: str) -> tuple[int, bytes]:
    import http.client

    connection = http.client.HTTPSConnection(
        "localhost", fleet.https_port, timeout=20, context=context
    )
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _renew(fleet: SecureFleet, agent: AgentProgram) -> dict[str, str]:
    import subprocess
    import sys

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "agent.enrol",
            "--folder",
            str(fleet.identity(agent)),
            "--hub-url",
            f"https://localhost:{fleet.https_port}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done
    said: dict[str, str] = json.loads(done.stdout)
    return said
