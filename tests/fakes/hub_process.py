"""A hub as a real process of its own, to be killed at any moment and started again."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

PROGRAM = """
import os, sys
from hub.app import run
from hub.errors import HubError
from hub.settings import load_settings
try:
    sys.exit(run(load_settings()))
except HubError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""

READY_MAX_S = 60.0
POLL_S = 0.01


class HubProcess:
    """One state directory and the process that runs on it."""

    def __init__(self, state_dir: Path, **settings: object) -> None:
        self.state_dir = state_dir
        self.log = state_dir.parent / f"{state_dir.name}.log"
        self.token_file = state_dir.parent / f"{state_dir.name}.token"
        chosen = {
            "state_dir": state_dir,
            "http_port": 0,
            "broker_port": 0,
            "bootstrap_token_file": self.token_file,
            **settings,
        }
        self._environment = {
            f"FIELDFARE_HUB_{name.upper()}": str(value) for name, value in chosen.items()
        }
        self._child: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.broker_port = 0

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def spawn(self) -> None:
        """Start it, without waiting."""
        self.url = ""
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )

    async def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.spawn()
        async with asyncio.timeout(READY_MAX_S):
            while not self.look():
                assert self.is_running, self.said()
                await asyncio.sleep(POLL_S)

    def look(self) -> bool:
        """Tell whether it has said that it is ready."""
        for line in self.said().splitlines():
            if line.startswith("fieldfare hub is ready: "):
                words = line.split()
                self.url = words[4].rstrip(",")
                self.broker_port = int(words[words.index("at") + 1].rstrip(",").rpartition(":")[2])
                return True
        return False

    @property
    def token(self) -> str:
        """The token of the first admin."""
        return self.token_file.read_text().strip()

    def client(self, *, token: str | None = None, **more: Any) -> httpx.AsyncClient:
        """Return a client of the API, as the first admin if no token is given."""
        headers = {"authorization": f"Bearer {token or self.token}"}
        return httpx.AsyncClient(base_url=f"{self.url}/api/v1", headers=headers, **more)

    def said(self) -> str:
        """Return everything it has written."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def forget(self, setting: str) -> None:
        """Leave a setting to its default from the next start on."""
        del self._environment[f"FIELDFARE_HUB_{setting.upper()}"]

    def wait(self) -> int:
        """Wait until it has ended by itself and return its exit code."""
        assert self._child is not None
        return self._child.wait(timeout=READY_MAX_S)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """End it and return its exit code."""
        if self._child is None:
            return None
        if self._child.poll() is None:
            self._child.send_signal(how)
        try:
            return self._child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise AssertionError(f"the hub did not end:\n{self.said()}") from None
