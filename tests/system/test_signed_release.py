"""Keys, a signed release, a device out of reach and a stick: with the real programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from hub.broker_plan import BrokerKind
from hub.cli import main
from hub.cli.exits import Exit
from hub.demo.ground import free_port
from tests.system.brokers import running_broker
from tests.system.programs import AgentProgram, HubProgram, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

LAMP = """
component = "lamp"
version = "1.0.0"
{measure}
[health]
command = ["{{python}}", "-c", "pass"]
"""
MEASURE = 'owner = "the lamp makers"\noutcomes = ["adoption"]'


async def test_a_signed_release_travels_by_hub_and_by_stick_while_keys_are_replaced(  # noqa: PLR0915 - one story
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        ended = main([*words, "--json"])
        told = capsys.readouterr()
        assert ended == code, told
        return json.loads(told.out) if code == 0 else told.err

    (tmp_path / "words").write_text("correct horse battery staple\n")
    monkeypatch.setenv("FIELDFARE_PASSPHRASE_FILE", str(tmp_path / "words"))
    monkeypatch.setenv("FIELDFARE_KEYS", str(tmp_path / "keys"))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "lamp.txt").write_text("on")
    (tree / "release.toml").write_text(LAMP.format(measure=""))
    async with running_broker(BrokerKind.NATS, tmp_path) as broker:
        hub = HubProgram(tmp_path, broker.port)
        agent = AgentProgram(
            tmp_path,
            "lamp-1",
            hub.url,
            broker.port,
            trust_root=str(tmp_path / "keys" / "root.json"),
            allow_unsigned="false",
        )
        hub.start()
        try:
            await hub.wait_ready()
            monkeypatch.setenv("FIELDFARE_HUB_URL", hub.url)
            monkeypatch.setenv("FIELDFARE_TOKEN", hub.token)

            # Keys, and what is not signed without them.
            assert "no keys" in run("release", "build", str(tree), "--unmeasured", "?", code=17)
            made = run("keys", "init")
            assert made["hub"]["roles"]["targets"]["version"] == 1
            assert "already" in run("keys", "init", code=Exit.KEYS)
            assert "no owner and no outcome" in run("release", "build", str(tree), code=Exit.KEYS)

            # Built and signed here, published from elsewhere, installed there.
            (tree / "release.toml").write_text(LAMP.format(measure=MEASURE))
            run("release", "build", str(tree), "--output", str(tmp_path / "out"))
            assert run("release", "publish", str(tmp_path / "out"))["published"] == ["lamp@1.0.0"]
            run("release", "publish", str(tmp_path / "out"))
            agent.start()
            await until(lambda: [each["device"] for each in run("devices")] == ["lamp-1"])
            run("deploy", "lamp@1.0.0", "--group", "all", "--wait")
            assert agent.cli("status")["trust"]["targets_version"] == 2

            # Replaced online keys, and a reason instead of a measure.
            assert run("keys", "rotate", "online")["root"]["version"] == 2
            (tree / "release.toml").write_text(LAMP.format(measure=""))
            run("release", "build", str(tree), "--version", "1.1.0", "--unmeasured", "a bench")
            listed = {each["release"]: each for each in run("release", "list")}
            assert listed["lamp@1.1.0"]["is_signed"] is True
            assert listed["lamp@1.1.0"]["manifest"]["unmeasured"] == "a bench"

            # The device cannot fetch; a stick brings it.
            agent.end()
            agent.start_with(hub_url=f"http://127.0.0.1:{free_port()}")
            deployed = run("deploy", "lamp@1.1.0", "--group", "all")["deployment"]
            stick = tmp_path / "stick.tar"
            run("release", "export", str(stick))
            await until(
                lambda: agent.socket.exists() and "fetching" in agent.cli("status")["activity"],
                agent.tail,
            )
            assert agent.cli("import", str(stick))["releases"] == ["lamp@1.1.0"]

            def has_it() -> bool:
                report = hub.ask("GET", f"/deployments/{deployed}")
                return [each["verdict"] for each in report["devices"]] == ["acknowledged"]

            await until(has_it, agent.tail)

            # What is taken off the list is not installed again.
            run("release", "withdraw", "lamp@1.0.0")
            agent.end()
            agent.start_with(hub_url=hub.url)
            again = run("deploy", "lamp@1.0.0", "--group", "all")["deployment"]

            def is_refused() -> bool:
                report = hub.ask("GET", f"/deployments/{again}")
                return [each["verdict"] for each in report["devices"]] == ["failed"]

            await until(is_refused, agent.tail)
            assert agent.cli("status")["trust"]["refused"].startswith("unsigned: ")
        finally:
            agent.kill()
            hub.kill()
