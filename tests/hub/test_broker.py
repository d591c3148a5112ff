"""The embedded broker: chosen, configured, started, watched and stopped."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

import hub.broker
from hub.broker import EmbeddedBroker, accepts_mqtt
from hub.broker_plan import (
    BrokerKind,
    BrokerPlan,
    BrokerProblem,
    Candidates,
    choose,
    find_candidates,
    mosquitto_config,
    nats_config,
)
from tests.fakes.links import eventually
from tests.fakes.scripted_broker import Peer, ScriptedBroker
from tests.system.brokers import plan_or_skip

MOSQUITTO = Path("/usr/sbin/mosquitto")
NATS = Path("/venv/bin/nats-server")


@pytest.fixture(params=list(BrokerKind))
def plan(request: pytest.FixtureRequest) -> BrokerPlan:
    return plan_or_skip(request.param)


# Choosing and configuring: pure.


def test_mosquitto_is_taken_when_there_is_one() -> None:
    assert choose(Candidates(mosquitto=MOSQUITTO, nats=NATS)).program == MOSQUITTO
    assert choose(Candidates(mosquitto=MOSQUITTO)).kind is BrokerKind.MOSQUITTO


def test_nats_server_is_taken_otherwise() -> None:
    assert choose(Candidates(nats=NATS)).program == NATS


def test_a_preference_is_obeyed_or_refused() -> None:
    both = Candidates(mosquitto=MOSQUITTO, nats=NATS)
    assert choose(both, prefer=BrokerKind.NATS).program == NATS

    with pytest.raises(BrokerProblem, match="nats-server was not found"):
        choose(Candidates(mosquitto=MOSQUITTO), prefer=BrokerKind.NATS)


def test_without_any_broker_the_message_says_what_to_install() -> None:
    with pytest.raises(BrokerProblem, match="apt install mosquitto"):
        choose(Candidates())


def test_every_listener_is_on_loopback(tmp_path: Path) -> None:
    mosquitto = mosquitto_config(1883, tmp_path)
    nats = nats_config(1883, tmp_path)

    assert [line for line in mosquitto.splitlines() if line.startswith("listener")] == [
        "listener 1883 127.0.0.1"
    ]
    listens = [line.strip() for line in nats.splitlines() if "listen:" in line]
    assert listens == ['listen: "127.0.0.1:-1"', 'listen: "127.0.0.1:1883"']


def test_mosquitto_neither_delays_nor_stores(tmp_path: Path) -> None:
    config = mosquitto_config(1883, tmp_path)

    assert "set_tcp_nodelay true" in config
    assert "persistence false" in config


def test_a_directory_with_a_quote_in_its_name_is_configured() -> None:
    assert r'store_dir: "/tmp/a \"b\"/streams"' in nats_config(1, Path('/tmp/a "b"'))  # noqa: S108


def test_a_program_beside_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_candidates().mosquitto == program


# Running.


async def test_it_accepts_mqtt_once_it_is_ready_and_is_gone_afterwards(
    plan: BrokerPlan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with EmbeddedBroker(tmp_path / "broker", port=0, plan=plan) as broker:
        port, pid = broker.port, broker.pid
        await broker.ready()
        assert await accepts_mqtt(port)

    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert not await accepts_mqtt(port)
    lines = [line for line in caplog.messages if line.startswith("embedded broker:")]
    assert len(lines) == 1
    assert plan.kind.value in lines[0]
    assert "good for" in lines[0]


async def test_nothing_but_loopback_is_listened_on(plan: BrokerPlan, tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path, port=0, plan=plan) as broker:
        assert broker.pid is not None
        listening = [
            each.laddr.ip
            for each in psutil.Process(broker.pid).net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        ]

    assert listening
    assert set(listening) == {"127.0.0.1"}


async def test_a_dead_child_is_replaced_on_the_same_port(
    plan: BrokerPlan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = EmbeddedBroker(tmp_path, port=0, plan=plan)
    task = asyncio.create_task(broker.run())
    await broker.ready()
    port, first = broker.port, broker.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: broker.pid not in (None, first))
    await broker.ready()
    second = broker.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert broker.port == port
    assert second is not None
    assert not psutil.pid_exists(second)
    assert "ended with code -9, starting another" in caplog.text


async def test_a_child_that_hangs_is_replaced(
    plan: BrokerPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.broker, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(hub.broker, "PROBE_MAX_S", 0.2)
    broker = EmbeddedBroker(tmp_path, port=0, plan=plan)
    task = asyncio.create_task(broker.run())
    await broker.ready()
    first = broker.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    await eventually(lambda: broker.pid not in (None, first))
    await broker.ready()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not psutil.pid_exists(first)


async def test_it_starts_empty_whatever_a_former_run_left(plan: BrokerPlan, tmp_path: Path) -> None:
    streams = tmp_path / "streams"
    streams.mkdir()
    (streams / "jetstream").write_text("this is no folder")
    (tmp_path / "of somebody else").write_text("stays")
    async with EmbeddedBroker(tmp_path, port=0, plan=plan) as broker:
        assert await accepts_mqtt(broker.port)

    assert (tmp_path / "of somebody else").exists()


async def test_the_child_does_not_outlive_a_killed_hub(plan: BrokerPlan, tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from hub.broker import EmbeddedBroker\n"
        "from hub.broker_plan import BrokerKind, choose, find_candidates\n"
        "async def main():\n"
        "    plan = choose(find_candidates(), prefer=BrokerKind(sys.argv[2]))\n"
        "    async with EmbeddedBroker(Path(sys.argv[1]), port=0, plan=plan) as broker:\n"
        "        print(broker.pid, flush=True)\n"
        "        await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-c", code, str(tmp_path), plan.kind.value], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        line = await asyncio.to_thread(parent.stdout.readline)
        child = psutil.Process(int(line))
        assert child.name().startswith(plan.kind.value)
        parent.kill()
    await eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


# What can be wrong.


async def test_a_taken_port_is_one_clear_error_and_nothing_is_left(
    plan: BrokerPlan, tmp_path: Path
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        broker = EmbeddedBroker(tmp_path, port=port, plan=plan)
        with pytest.raises(BrokerProblem, match=f"port {port} on 127.0.0.1 .* choose another"):
            await broker.run()

    assert broker.pid is None


async def test_a_program_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 'I do not like this machine' >&2\nexit 3\n")
    program.chmod(0o755)
    plan = BrokerPlan(BrokerKind.MOSQUITTO, program, "nothing", "none", mosquitto_config)
    broker = EmbeddedBroker(tmp_path / "broker", port=0, plan=plan)
    with pytest.raises(BrokerProblem, match="code 3: I do not like this machine"):
        await broker.run()

    assert broker.pid is None


async def test_a_program_that_is_gone_is_named(tmp_path: Path) -> None:
    plan = BrokerPlan(BrokerKind.MOSQUITTO, tmp_path / "gone", "nothing", "none", mosquitto_config)
    with pytest.raises(BrokerProblem, match="gone"):
        async with EmbeddedBroker(tmp_path / "broker", port=0, plan=plan):
            pass


async def test_a_directory_that_cannot_be_made_is_named(plan: BrokerPlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BrokerProblem, match="cannot be made"):
        await EmbeddedBroker(tmp_path / "file" / "broker", port=0, plan=plan).run()


@pytest.mark.parametrize(
    "answer", [b"", b"\x20\x02\x00\x05", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20"]
)
async def test_a_probe_believes_only_an_accepting_mqtt_broker(answer: bytes) -> None:
    async def talk(peer: Peer) -> None:
        await peer.read()
        peer.write(answer)

    async with ScriptedBroker(talk) as broker:
        assert not await accepts_mqtt(broker.port)
