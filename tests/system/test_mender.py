"""Mender artifacts on a real fleet: imported, signed, deployed, and installed by a real module."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from hub.broker_plan import BrokerKind
from hub.mender.writer import Draft, write_artifact
from tests.hub.mender.keys import key_pair
from tests.system.brokers import running_broker
from tests.system.programs import BIN, AgentProgram, HubProgram, until

MODULES: Final = Path("/usr/share/mender/modules/v3")

pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (MODULES / "single-file").exists(), reason="mender-client is not installed"
    ),
]

DESCRIPTION: Final = """
component = "lamp"
owner = "the lamp makers"
outcomes = ["adoption"]
[health]
command = ["grep", "-q", "bright", "{shown}"]
deadline_s = 1
pause_s = 0.2
"""

SCRIPTS: Final = ("ArtifactInstall_Enter_00", "ArtifactCommit_Leave_00")
STATE_SCRIPT: Final = b"#!/bin/sh\necho $(basename $0) >> %s\n"


def fieldfare(*words: str | Path) -> str:
    done = subprocess.run([BIN / "fieldfare", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Bench:
    """A hub, a device, and artifacts for it."""

    def __init__(self, folder: Path, hub: HubProgram, agent: AgentProgram) -> None:
        self.folder = folder
        self.hub = hub
        self.agent = agent
        self.place = folder / "opt"

    def artifact(self, kind: str, name: str, content: str) -> Path:
        """Write what installs a file with this content through a module of Debian's."""
        inputs = self.folder / name
        inputs.mkdir()
        (inputs / "dest_dir").write_text(f"{self.place}\n")
        names = ["dest_dir"]
        if kind == "single-file":
            (inputs / "filename").write_text("light\n")
            (inputs / "light").write_text(content)
            names += ["filename", "light"]
        else:
            (inputs / "light").write_text(content)
            subprocess.run(["tar", "-cf", inputs / "update.tar", "-C", inputs, "light"], check=True)
            names += ["update.tar"]
        file = self.folder / f"{name}.mender"
        log = os.fsencode(self.folder / "scripts.log")
        draft = Draft(
            artifact_name=name,
            device_types=("bench",),
            kind=kind,
            files={each: inputs / each for each in names},
            scripts=dict.fromkeys(
                ("ArtifactInstall_Enter_00", "ArtifactCommit_Leave_00"), STATE_SCRIPT % log
            ),
        )
        write_artifact(file, draft, key=key_pair("ecdsa").private)
        return file

    def release(self, file: Path) -> dict[str, Any]:
        """Import an artifact as a person would."""
        (self.folder / "public.pem").write_bytes(key_pair("ecdsa").public)
        description = self.folder / "release.toml"
        description.write_text(DESCRIPTION.format(shown=self.place / "light"))
        words = ("--manifest", description, "--json", "--hub", self.hub.url)
        key = ("--key", self.folder / "public.pem")
        done = fieldfare("release", "import", file, *key, *words)
        said: dict[str, Any] = json.loads(done)
        return said

    async def deploy(self, release: str, verdict: str) -> dict[str, Any]:
        """Deploy it and wait until the hub says what became of it."""
        asked = self.hub.ask("POST", "/deployments", {"release": release, "group": "all"})

        def row() -> dict[str, Any]:
            report = self.hub.ask("GET", f"/deployments/{asked['deployment']}")
            found: dict[str, Any] = next(iter(report["devices"]), {})
            return found

        await until(
            lambda: row().get("verdict") == verdict,
            lambda: f"{row()}\n{self.agent.tail()}",
        )
        return row()

    def shown(self) -> str:
        return (self.place / "light").read_text()


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    (tmp_path / "words").write_text("correct horse battery staple\n")
    monkeypatch.setenv("FIELDFARE_PASSPHRASE_FILE", str(tmp_path / "words"))
    monkeypatch.setenv("FIELDFARE_KEYS", str(tmp_path / "keys"))
    async with running_broker(BrokerKind.NATS, tmp_path) as broker:
        hub = HubProgram(tmp_path, broker.port)
        trusts = {"trust_root": str(tmp_path / "keys/root.json"), "allow_unsigned": "false"}
        agent = AgentProgram(
            tmp_path, "bench-1", hub.url, broker.port, device_class="bench", **trusts
        )
        hub.start()
        try:
            await hub.wait_ready()
            monkeypatch.setenv("FIELDFARE_TOKEN", hub.token)
            await asyncio.to_thread(fieldfare, "keys", "init", "--hub", hub.url)
            agent.start()
            await until(lambda: bool(hub.ask("GET", "/devices")["items"]), hub.tail)
            yield Bench(tmp_path, hub, agent)
        finally:
            agent.kill()
            hub.kill()


@pytest.mark.parametrize("kind", ["single-file", "directory"])
async def test_an_artifact_is_installed_and_one_whose_check_fails_is_taken_back(
    bench: Bench, kind: str
) -> None:
    first = bench.release(bench.artifact(kind, "light-1", "bright one"))
    assert (first["release"], first["signature"]) == ("lamp@light-1", "checked")
    await bench.deploy("lamp@light-1", "acknowledged")
    assert bench.shown() == "bright one"
    assert (bench.folder / "scripts.log").read_text().split() == [*SCRIPTS]

    bench.release(bench.artifact(kind, "light-2", "dark"))
    row = await bench.deploy("lamp@light-2", "rolled_back")

    assert row["reason"].startswith("health")
    assert bench.shown() == "bright one"
    left = [path.name for path in (bench.agent.home / "install/lamp").iterdir()]
    assert sorted(left) == ["releases", "state.json"]

    bench.release(bench.artifact(kind, "light-3", "bright three"))
    await bench.deploy("lamp@light-3", "acknowledged")
    assert bench.shown() == "bright three"


async def test_what_was_written_for_another_hub_is_published_later(bench: Bench) -> None:
    file = bench.artifact("single-file", "light-1", "bright one")
    description = bench.folder / "release.toml"
    description.write_text(DESCRIPTION.format(shown=bench.place / "light"))
    folder = bench.folder / "carried"
    words = ("--manifest", description, "--output", folder)
    await asyncio.to_thread(fieldfare, "release", "import", file, *words)
    await asyncio.to_thread(fieldfare, "release", "publish", folder, "--hub", bench.hub.url)
    shutil.rmtree(folder)

    await bench.deploy("lamp@light-1", "acknowledged")
    assert bench.shown() == "bright one"


async def test_a_device_that_dies_in_the_middle_of_an_install_ends_with_one_release(
    bench: Bench,
) -> None:
    bench.release(bench.artifact("single-file", "light-1", "bright one"))
    await bench.deploy("lamp@light-1", "acknowledged")
    second = bench.release(bench.artifact("single-file", "light-2", "bright two"))
    asked = bench.hub.ask("POST", "/deployments", {"release": second["release"], "group": "all"})
    state = bench.agent.home / "install/lamp/state.json"
    await until(lambda: '"install":{' in state.read_text(), bench.agent.tail)
    bench.agent.kill()
    bench.agent.start()

    def verdict() -> str:
        (row,) = bench.hub.ask("GET", f"/deployments/{asked['deployment']}")["devices"]
        return str(row["verdict"])

    await until(lambda: verdict() == "acknowledged", bench.agent.tail)
    assert bench.shown() == "bright two"


async def test_a_module_that_refuses_to_commit_leaves_a_release_that_nobody_counts_as_good(
    bench: Bench,
) -> None:
    modules = bench.folder / "modules"
    modules.mkdir()
    text = (MODULES / "single-file").read_text()
    (modules / "single-file").write_text(text.replace("esac", "ArtifactCommit) exit 1 ;;\nesac"))
    (modules / "single-file").chmod(0o755)
    bench.agent.end()
    bench.agent.start_with(installers=json.dumps({"mender-module": {"modules_dir": str(modules)}}))
    await asyncio.to_thread(bench.release, bench.artifact("single-file", "light-1", "bright one"))

    row = await bench.deploy("lamp@light-1", "failed")

    assert row["reason"] == "inconsistent"
    assert "ArtifactCommit" in row["detail"]
    assert bench.shown() == "bright one"
