"""A hub with HTTPS, a real Mosquitto with the configuration that the hub writes, enrolled agents.

Owns their processes and folders; everything stays on loopback.
"""

import asyncio
import json
import os
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

from hub.broker_plan import BrokerKind
from hub.client import HubClient
from hub.demo.ground import free_port
from sync.transport.tls import client_context
from tests.system.brokers import plan_or_skip
from tests.system.programs import BIN, AgentProgram, HubProgram, Program, until


class SecureFleet:
    """Everything of one test, over mutual TLS."""

    def __init__(self, folder: Path, **hub_settings: str) -> None:
        self.folder = folder
        self.mosquitto_folder = folder / "mosquitto"
        self.broker_port = free_port()
        self.https_port = free_port()
        plan = plan_or_skip(BrokerKind.MOSQUITTO)
        self.broker = Program(
            "mosquitto",
            [str(plan.program), "-c", str(self.mosquitto_folder / "mosquitto.conf")],
            {},
            folder / "mosquitto.log",
        )
        settings = {
            "broker": f"localhost:{self.broker_port}",
            "broker_tls": "true",
            "broker_crl": str(self.mosquitto_folder / "crl.pem"),
            "https_port": str(self.https_port),
            **hub_settings,
        }
        self.hub = HubProgram(folder, None, **settings)
        self.agents: list[AgentProgram] = []

    async def start(self) -> None:
        self.configure()
        self.broker.start()
        await until(self._broker_listens, self.broker.tail)
        self.hub.start()
        await self.hub.wait_ready()
        await until(lambda: bool(self.hub.ask("GET", "/hub")["broker"]["connected"]), self.tails)

    def configure(self) -> None:
        """Write the broker's configuration as an operator does."""
        words = ["--out", str(self.mosquitto_folder), "--host", "127.0.0.1"]
        words += ["--port", str(self.broker_port), "--user", "root" if not os.getuid() else ""]
        state_dir = str(self.folder / "hub")
        self.operator("hub", "broker-config", "mosquitto", "--state-dir", state_dir, *words)

    def operator(self, *words: str) -> Any:
        """Run `fieldfare WORDS --json`."""
        done = subprocess.run(
            [str(BIN / "fieldfare"), *words, "--json"],
            env={
                **os.environ,
                "FIELDFARE_HUB_URL": self.hub.url,
                **({"FIELDFARE_TOKEN": self.hub.token} if self.hub.token_file.exists() else {}),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def token(self, *words: str) -> str:
        return str(self.operator("enroll", "token", "--class", "pump", *words)["token"])

    def agent(self, device: str, **settings: str) -> AgentProgram:
        """Return an agent that is neither enrolled nor started."""
        agent = AgentProgram(
            self.folder,
            device,
            f"https://localhost:{self.https_port}",
            self.broker_port,
            device_class="pump",
            broker_host="localhost",
            broker_tls="true",
            **settings,
        )
        self.agents.append(agent)
        return agent

    def enrolled(self, device: str, **settings: str) -> AgentProgram:
        agent = self.agent(device, **settings)
        told = agent.cli("enroll", "--token", self.token(), "--wait-s", "60")
        assert told["enrolled"] is True
        return agent

    def identity(self, agent: AgentProgram) -> Path:
        return agent.home / "state" / "identity"

    def context(self, agent: AgentProgram | None) -> ssl.SSLContext:
        """Return how a device speaks, with its certificate or without one."""
        authority = self.mosquitto_folder / "ca.pem"
        if agent is None:
            return client_context(authority, None, None)
        folder = self.identity(agent)
        return client_context(authority, folder / "cert.pem", folder / "key.pem")

    async def wait_registered(self, *devices: str) -> None:
        def are_there() -> bool:
            names = {
                each.device
                for each in HubClient(self.hub.url, token=lambda: self.hub.token).devices()
            }
            return names >= set(devices)

        await until(are_there, self.tails)

    async def wait_verdict(self, deployment: str, device: str, verdict: str) -> None:
        def is_so() -> bool:
            report = self.hub.ask("GET", f"/deployments/{deployment}")
            return any(
                (row["device"], row["verdict"]) == (device, verdict) for row in report["devices"]
            )

        await until(is_so, self.tails)

    def tails(self) -> str:
        programs = [self.hub, self.broker, *self.agents]
        return "\n".join(f"--- {each.name}\n{each.tail()}" for each in programs)

    def stop(self) -> None:
        for program in (*self.agents, self.hub, self.broker):
            program.kill()

    def _broker_listens(self) -> bool:
        assert self.broker.is_running(), self.broker.tail()
        try:
            with socket.create_connection(("127.0.0.1", self.broker_port), 1):
                return True
        except OSError:
            return False


async def started(folder: Path, **hub_settings: str) -> SecureFleet:
    """Return a fleet that runs, or skip the test."""
    fleet = SecureFleet(folder, **hub_settings)
    try:
        await fleet.start()
    except BaseException:  # raised again; whatever it was, no process may be left
        fleet.stop()
        raise
    return fleet


async def restart(program: Program) -> None:
    """Stop a program and start it again."""
    await asyncio.to_thread(program.end)
    program.start()
