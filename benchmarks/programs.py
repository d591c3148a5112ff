"""A hub with its own broker and agents, as real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from hub.demo.ground import free_port

BIN = Path(sys.executable).parent
WAIT_MAX_S = 60.0
POLL_S = 0.05


class Ground:
    """One hub, its broker, and what is started beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http_port, self.broker_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self._children: list[subprocess.Popen[bytes]] = []
        self.hub_pid = 0

    async def start_hub(self, **settings: str) -> None:
        """Start the hub and wait until it answers."""
        self.hub_pid = self._start(
            "hub",
            [str(BIN / "fieldfare"), "hub"],
            {
                "FIELDFARE_HUB_STATE_DIR": str(self.folder / "hub"),
                "FIELDFARE_HUB_HTTP_PORT": str(self.http_port),
                "FIELDFARE_HUB_BROKER_PORT": str(self.broker_port),
                "FIELDFARE_HUB_BOOTSTRAP_TOKEN_FILE": str(self.folder / "hub.token"),
                **{f"FIELDFARE_HUB_{name.upper()}": value for name, value in settings.items()},
            },
        )
        await self._wait(f"{self.url}/api/v1/hub")

    async def start_agent(self, device: str, **settings: str) -> int:
        """Start an agent and return its process id."""
        return self._start(
            device,
            [str(BIN / "fieldfare-agent"), "run"],
            {
                "FIELDFARE_AGENT_DEVICE": device,
                "FIELDFARE_AGENT_HUB_URL": self.url,
                "FIELDFARE_AGENT_BROKER_PORT": str(self.broker_port),
                "FIELDFARE_AGENT_STATE_DIR": str(self.folder / device),
                "FIELDFARE_AGENT_INSTALL_DIR": str(self.folder / f"{device}-install"),
                "FIELDFARE_AGENT_ALLOW_UNSIGNED": "true",
                **{f"FIELDFARE_AGENT_{name.upper()}": value for name, value in settings.items()},
            },
        )

    async def wait_known(self, device: str) -> None:
        """Wait until the hub knows a device."""
        await self._wait(f"{self.url}/api/v1/devices/{device}")

    def stop(self) -> None:
        """End everything that was started, the hub last."""
        for child in reversed(self._children):
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _start(self, name: str, command: list[str], settings: Mapping[str, str]) -> int:
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children.append(child)
        return child.pid

    async def _wait(self, url: str) -> None:
        deadline = time.monotonic() + WAIT_MAX_S
        while True:
            try:
                await asyncio.to_thread(_get, url, self.folder / "hub.token")
            except OSError as error:
                if time.monotonic() > deadline:
                    logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                    raise RuntimeError(f"{url} did not answer ({error}):\n{logs}") from None
                await asyncio.sleep(POLL_S)
            else:
                return


@asynccontextmanager
async def ground(folder: Path, **settings: str) -> AsyncIterator[Ground]:
    """Run a hub for the length of a benchmark."""
    place = Ground(folder)
    try:
        await place.start_hub(**settings)
        yield place
    finally:
        place.stop()


def _get(url: str, token_file: Path) -> bytes:
    headers = {"Authorization": f"Bearer {token_file.read_text().strip()}"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - our own loopback address
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        body: bytes = answer.read()
        return body
