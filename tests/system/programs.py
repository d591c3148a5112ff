"""The two programs as real processes, for tests that want the whole thing.

Owns their processes, folders and ports; everything stays on loopback.
"""

import asyncio
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hub.demo.ground import free_port
from sync.manifest import Artifact, Health, Manifest

BIN = Path(sys.executable).parent
WAIT_MAX_S = 60.0
POLL_S = 0.05


class Program:
    """One process with a log; may be killed and started again."""

    def __init__(self, name: str, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._env = {**os.environ, **env}
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def end(self, how: signal.Signals = signal.SIGTERM, wait_s: float = 20.0) -> int | None:
        """Send a signal and wait; returns the exit code."""
        if self._child is None:
            return None
        if self._child.poll() is None:
            self._child.send_signal(how)
        try:
            return self._child.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise AssertionError(f"{self.name} did not end:\n{self.tail()}") from None

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


class Refused(AssertionError):
    """The hub answered with an error."""

    def __init__(self, status: int, problem: Any) -> None:
        super().__init__(f"{status}: {problem}")
        self.status = status
        self.problem = problem


class HubProgram(Program):
    """A hub and its HTTP API."""

    def __init__(self, folder: Path, broker_port: int | None, **settings: str) -> None:
        self.http_port = free_port()
        self.token_file = folder / "hub.token"
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.broker_port = broker_port if broker_port is not None else free_port()
        broker = "embedded" if broker_port is None else f"127.0.0.1:{broker_port}"
        names = {
            "state_dir": str(folder / "hub"),
            "http_port": str(self.http_port),
            "broker": broker,
            "broker_port": str(self.broker_port),
            "silence_s": "3",
            "bootstrap_token_file": str(folder / "hub.token"),
            **settings,
        }
        env = {f"FIELDFARE_HUB_{name.upper()}": value for name, value in names.items()}
        super().__init__("hub", [str(BIN / "fieldfare"), "hub"], env, folder / "hub.log")

    @property
    def token(self) -> str:
        """The token of the first admin."""
        return self.token_file.read_text().strip()

    def ask(self, method: str, path: str, body: bytes | object | None = None) -> Any:
        """Make one request and return the decoded answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        request = urllib.request.Request(  # noqa: S310 - our own loopback address
            f"{self.url}/api/v1{path}",
            data=data,
            method=method,
            headers={"Content-Type": kind, "Authorization": f"Bearer {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - as above
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read() or b"null")) from None
        return json.loads(text) if text else None

    async def wait_ready(self) -> None:
        def is_ready() -> bool:
            assert self.is_running(), self.tail()
            try:
                self.ask("GET", "/hub")
            except OSError:
                return False
            return True

        await until(is_ready, self.tail)

    def publish_release(self, manifest: Manifest, tree: bytes) -> str:
        """Upload a release and return `component@version`."""
        self.ask("PUT", f"/blobs/{manifest.artifacts[0].sha256}", tree)
        self.ask("POST", "/releases", json.loads(manifest.canonical()))
        return f"{manifest.component}@{manifest.version}"


class AgentProgram(Program):
    """An agent."""

    def __init__(
        self, folder: Path, device: str, hub_url: str, broker_port: int, **settings: str
    ) -> None:
        self.device = device
        home = folder / device
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.socket = home / "agent.sock"
        names = {
            "device": device,
            "hub_url": hub_url,
            "broker_host": "127.0.0.1",
            "broker_port": str(broker_port),
            "state_dir": str(home / "state"),
            "install_dir": str(home / "install"),
            "local_socket": str(self.socket),
            "retry_first_s": "1",
            "retry_longest_s": "5",
            "keepalive_s": "5",
            "allow_unsigned": "true",
            **settings,
        }
        self.environment = {f"FIELDFARE_AGENT_{name.upper()}": v for name, v in names.items()}
        super().__init__(
            device, [str(BIN / "fieldfare-agent"), "run"], self.environment, home / "agent.log"
        )

    def start_with(self, **settings: str) -> None:
        """Start it with other settings than before."""
        changed = {f"FIELDFARE_AGENT_{name.upper()}": value for name, value in settings.items()}
        self.environment |= changed
        self._env = {**self._env, **changed}
        self.start()

    def cli(self, *words: str) -> Any:
        """Run `fieldfare-agent WORDS --json` and return what it prints."""
        done = subprocess.run(
            [str(BIN / "fieldfare-agent"), *words, "--json"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def runs(self) -> str | None:
        """Return what VERSION says in the release that `current` points to."""
        version = self.home / "install" / "lamp" / "current" / "VERSION"
        return version.read_text() if version.exists() else None


async def until(condition: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    """Wait until `condition` holds; the test fails when that takes absurdly long."""
    deadline = time.monotonic() + WAIT_MAX_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"waited in vain:\n{explain()}"
        await asyncio.sleep(POLL_S)


def lamp(version: str, *, healthy: bool = True, size_bytes: int = 0) -> tuple[Manifest, bytes]:
    """Return a small release whose health check looks at the tree that is current."""
    check = "import pathlib,sys; sys.exit(0 if pathlib.Path('VERSION').read_text() == sys.argv[1] "
    check += "else 1)"
    files = {"VERSION": version.encode() if healthy else b"something else"}
    if size_bytes:
        files["filler"] = os.urandom(size_bytes)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    tree = gzip.compress(plain.getvalue(), mtime=0)
    artifact = Artifact(
        name="tree.tar.gz", sha256=hashlib.sha256(tree).hexdigest(), length_bytes=len(tree)
    )
    manifest = Manifest(
        component="lamp",
        version=version,
        artifacts=(artifact,),
        health=Health(command=("{python}", "-c", check, version), deadline_s=3, pause_s=0.2),
        owner="lights@example.org",
        outcomes=("adoption",),
    )
    return manifest, tree
