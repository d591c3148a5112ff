"""The demo over mutual TLS: a Mosquitto as the hub configures it, and agents that enrolled.

Owns what differs from the plain demo: settings, the broker, and how a device gets its identity.
Everything is done by the shipped commands, as an operator and a device would.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hub.broker_plan import BrokerKind, BrokerProblem, choose, find_candidates
from hub.client import HubClient
from hub.demo.ground import LOOPBACK, CannotStart, Ground, Program, free_port
from sync.transport.tls import client_context, server_context

HOST: Final = "localhost"
COMMAND_MAX_S: Final = 60.0
CLASS: Final = "greenhouse"


class SecureGround:
    """The broker and the settings of the demo over TLS.

    Raises:
        CannotStart: There is no Mosquitto, or its configuration cannot be written.
    """

    def __init__(self, ground: Ground, hub_state_dir: Path) -> None:
        try:
            plan = choose(find_candidates(), prefer=BrokerKind.MOSQUITTO)
        except BrokerProblem as problem:
            raise CannotStart(str(problem)) from None
        self.broker_port = free_port()
        self._https_port = free_port()
        self._folder = ground.folder / "mosquitto"
        user = "root" if os.getuid() == 0 else ""
        words = ["hub", "broker-config", "mosquitto", "--state-dir", str(hub_state_dir)]
        words += ["--out", str(self._folder), "--host", LOOPBACK, "--user", user]
        _run("hub.cli", [*words, "--port", str(self.broker_port)], {})
        config = self._folder / "mosquitto.conf"
        self.broker: Program = ground.program(
            "mosquitto", [str(plan.program), "-c", str(config)], {}
        )

    def hub_settings(self) -> dict[str, str]:
        """Return what the hub is told more."""
        return {
            "broker": f"{HOST}:{self.broker_port}",
            "broker_tls": "true",
            "broker_crl": str(self._folder / "crl.pem"),
            "https_port": str(self._https_port),
        }

    def agent_settings(self) -> dict[str, str]:
        """Return what an agent is told more."""
        return {
            "broker_host": HOST,
            "broker_tls": "true",
            "hub_url": f"https://{HOST}:{self._https_port}",
            "device_class": CLASS,
        }

    def enrol(self, client: HubClient, device: str, state_dir: Path) -> None:
        """Let a device enrol with a claim token of its own.

        Raises:
            CannotStart: It did not get a certificate, and why.
        """
        wish = {"device_class": CLASS, "device": device}
        token = client.change("POST", "/claims", wish)["token"]
        environment = {
            "FIELDFARE_AGENT_DEVICE": device,
            "FIELDFARE_AGENT_DEVICE_CLASS": CLASS,
            "FIELDFARE_AGENT_STATE_DIR": str(state_dir),
        }
        _run("agent", ["enroll", "--token", token, "--wait-s", "30"], environment)

    def link_tls(self, state_dir: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Return how a link that is to be spoiled speaks to the device, and to the broker.

        Only whoever has the keys of both sides can stand in between, as the demo does here.
        """
        pinned = self._folder / "ca.pem"
        identity = state_dir / "identity"
        return (
            server_context(pinned, self._folder / "server.pem", self._folder / "server.key"),
            client_context(pinned, identity / "cert.pem", identity / "key.pem"),
        )


def refuses_strangers(broker_port: int) -> bool:
    """Tell whether a broker turns away who speaks plainly, and who shows no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is the broker that has to ask for one
    hello = b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x05\x00\x00\x00"
    for wrap in (lambda plain: plain, context.wrap_socket):
        try:
            with (
                socket.create_connection((LOOPBACK, broker_port), timeout=10) as plain,
                wrap(plain) as link,
            ):
                link.sendall(hello)
                if link.recv(4):
                    return False
        except OSError:  # of which errors of TLS are some
            continue
    return True


def _run(module: str, words: list[str], environment: Mapping[str, str]) -> None:
    own = {name: text for name, text in os.environ.items() if not name.startswith("FIELDFARE_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *words, "--json"],
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=COMMAND_MAX_S,
        check=False,
    )
    if done.returncode:
        raise CannotStart(f"{words[0]} failed: {done.stderr.strip() or json.dumps(done.stdout)}")
