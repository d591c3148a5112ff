"""The operators' commands against a real hub and a real agent."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.broker_plan import BrokerKind
from hub.cli import main
from hub.cli.exits import Exit
from tests.system.brokers import running_broker
from tests.system.programs import AgentProgram, HubProgram, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

LAMP = """
component = "lamp"
version = "1.0.0"
owner = "the lamp makers"
outcomes = ["adoption"]
[health]
command = ["{python}", "-c", "pass"]
"""


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HubProgram]:
    async with running_broker(BrokerKind.NATS, tmp_path) as broker:
        hub = HubProgram(tmp_path, broker.port)
        hub.start()
        try:
            await hub.wait_ready()
            monkeypatch.setenv("FIELDFARE_HUB_URL", hub.url)
            monkeypatch.setenv("FIELDFARE_TOKEN", hub.token)
            yield hub
        finally:
            hub.kill()


@pytest.fixture
async def agent(hub: HubProgram, tmp_path: Path) -> AsyncIterator[AgentProgram]:
    agent = AgentProgram(
        tmp_path, "lamp-1", hub.url, hub.broker_port, labels='{"site": "s7"}', keepalive_s="5"
    )
    agent.start()
    try:
        await until(lambda: bool(hub.ask("GET", "/devices")["items"]), hub.tail)
        await until(lambda: "s7" in str(hub.ask("GET", "/devices/lamp-1")), hub.tail)
        yield agent
    finally:
        agent.kill()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "release.toml").write_text(LAMP)
    (folder / "light").write_text("warm")
    return folder


class Told:
    """What a command said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        self.code = main(words)
        said = capsys.readouterr()
        self.out, self.err = said.out, said.err

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


async def test_a_release_is_published_deployed_and_taken_back(
    agent: AgentProgram, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = Told(capsys, "release", "build", "--unsigned", str(tree), "--json").json
    again = Told(capsys, "release", "build", "--unsigned", str(tree), "--json").json
    assert again["digest"] == built["digest"]
    (listed,) = Told(capsys, "release", "list", "--json").json
    assert (listed["release"], listed["digest"]) == ("lamp@1.0.0", built["digest"])

    nobody = Told(capsys, "deploy", "lamp@1.0.0", "--group", "all", "--where", "site=s8", "--json")
    assert nobody.json["targeted"] == []
    done = Told(capsys, "deploy", built["digest"], "--group", "all", "--where", "site=s7", "--wait")
    assert done.code == 0, done.err
    assert "1 of 1 device runs lamp 1.0.0" in done.out

    (deployment, *_) = Told(capsys, "deployment", "list", "--json").json
    cancelled = Told(capsys, "deployment", "cancel", deployment["deployment"], "--json").json
    assert cancelled["cancelled_at_ms"] is not None
    shown = Told(capsys, "deployment", "show", deployment["deployment"])
    assert "lamp-1 runs the release" in shown.out
    assert agent.cli("status")["running"]["lamp"]["version"] == "1.0.0"


async def test_what_was_released_never_changes(
    hub: HubProgram, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Told(capsys, "release", "build", "--unsigned", str(tree)).code == 0
    (tree / "light").write_text("cold")
    told = Told(capsys, "release", "build", "--unsigned", str(tree))
    assert told.code == Exit.REFUSED
    assert "another version" in told.err
    assert Told(capsys, "release", "build", "--unsigned", str(tree), "--version", "1.0.1").code == 0


async def test_a_wish_reaches_the_device_and_can_be_taken_back(
    agent: AgentProgram, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Told(capsys, "set", "lamp-1", "mode", '{"level": 3}').code == 0
    await until(lambda: agent.cli("get", "mode")["value"] == {"level": 3}, agent.tail)
    assert Told(capsys, "unset", "lamp-1", "mode").code == 0
    await until(lambda: agent.cli("get", "mode")["value"] is None, agent.tail)
    told = Told(capsys, "device", "lamp-1", "--json").json
    assert told["settings"][0]["key"] == "mode"


async def test_a_wish_for_a_group_prevails_over_the_application_if_the_policy_says_so(
    agent: AgentProgram, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Told(capsys, "set", "--group", "all", "mode", "eco", "--policy", "operator").code == 0
    await until(lambda: agent.cli("get", "mode")["value"] == "eco", agent.tail)
    agent.cli("set", "mode", '"bright"')
    assert agent.cli("get", "mode")["value"] == "eco"
    assert Told(capsys, "unset", "--group", "all", "mode").code == 0
    await until(lambda: agent.cli("get", "mode")["value"] == "bright", agent.tail)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("device", "nobody"), "no device 'nobody'"),
        (("deployment", "show", "dnothing"), "no deployment"),
        (("deployment", "cancel", "dnothing"), "no deployment"),
        (("deploy", "lamp@9", "--group", "all"), "no release"),
        (("deploy", "lamp@9", "--group", "all", "--where", "site"), "label=value"),
        (("set", "nobody", "mode", "eco"), "no device 'nobody'"),
        (("set", "--group", "all", "mode", "x" * 3000), "at most 1300"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
async def test_the_hub_refuses_in_one_line(
    hub: HubProgram, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], part: str
) -> None:
    told = Told(capsys, *words)
    assert (told.code, told.out) == (Exit.REFUSED, "")
    assert part in told.err
    assert told.err.count("\n") == 1
