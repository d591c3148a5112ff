"""The demo's hub and devices: how they are started, how faults get in, what really runs.

Owns settings, folders and links of the demo's programs. Decides nothing about what is expected.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Final

from hub.demo.cast import CLOCK_OFFSET_S, COMPONENT, Fault, Part
from hub.demo.ground import LOOPBACK, Ground, Program, free_port
from hub.demo.secure import SecureGround
from hub.link_proxy import LinkProxy

SILENCE_S: Final = 8.0
"""Patience of the demo's hub. In the field it is a minute or more; a demo cannot wait so long."""

ANSWER_MAX_S: Final = 2.0

SWITCH_POLL_S: Final = 0.001
"""How often is looked whether the switch was thrown: the kill must come right after it."""

SOCKET: Final = "greenhouse.sock"

_HUB: Final = {
    "silence_s": str(SILENCE_S),
    "log_level": "info",
}

# Shorter than in the field, for the same reason as the patience.
_AGENT: Final = {
    "broker_host": LOOPBACK,
    "keepalive_s": "5",
    "reconnect_max_s": "2",
    "retry_first_s": "1",
    "retry_longest_s": "4",
    "anti_entropy_s": "3",
}


class HubProgram:
    """The hub."""

    def __init__(self, ground: Ground, *, is_secure: bool) -> None:
        self.http_port = free_port()
        self.url = f"http://{LOOPBACK}:{self.http_port}"
        state_dir = ground.folder / "hub" / "state"
        self.secure = SecureGround(ground, state_dir) if is_secure else None
        """What is different where everybody speaks TLS."""
        self.broker_port = free_port() if self.secure is None else self.secure.broker_port
        self.token_file = ground.folder / "hub" / "token"
        """Where the hub puts the token of the first admin."""
        settings = {
            "state_dir": str(state_dir),
            "http_port": str(self.http_port),
            "broker_port": str(self.broker_port),
            "bootstrap_token_file": str(self.token_file),
            **_HUB,
            **(self.secure.hub_settings() if self.secure is not None else {}),
        }
        self.program = ground.program(
            "hub", [*_python("hub.cli"), "hub"], _environment("FIELDFARE_HUB_", settings)
        )


class DeviceProgram:
    """One device: its agent, its folder, its sensors, and its link if that is to be spoiled."""

    def __init__(
        self, ground: Ground, part: Part, hub: HubProgram, link: LinkProxy | None, root: Path
    ) -> None:
        self.part = part
        self.link = link
        self.over = Event()
        """Set when the demo ends, so that nothing waits for this device any more."""
        home = ground.folder / part.device
        self.state_dir = state_dir_of(ground, part)
        self._home = home / "install" / COMPONENT
        sensors = home / "sensors"
        settings = {
            **_AGENT,
            "device": part.device,
            "hub_url": hub.url,
            "broker_port": str(link.port if link is not None else hub.broker_port),
            "state_dir": str(self.state_dir),
            "install_dir": str(home / "install"),
            # Over TLS the root was pinned when the device enrolled.
            **({"trust_root": str(root)} if hub.secure is None else hub.secure.agent_settings()),
        }
        if part.fault is Fault.WRONG_CLOCK:
            settings["wall_clock_offset_s"] = str(CLOCK_OFFSET_S)
        environment = _environment("FIELDFARE_AGENT_", settings)
        environment["GREENHOUSE_SENSORS"] = str(sensors)
        self.program: Program = ground.program(part.device, [*_python("agent"), "run"], environment)
        sensors.mkdir()
        (sensors / "air_temperature").write_text("22.5\n")
        if part.fault is not Fault.NO_SENSOR:
            (sensors / "soil_moisture").write_text("31\n")

    def switched_to(self) -> str:
        """Return what the installer's switch points to, empty if nothing was installed."""
        try:
            return str((self._home / "current").readlink())
        except OSError:
            return ""

    def kill_after_switch(self, before: str, wait_s: float) -> bool:
        """Wait until the switch no longer points to `before`, and kill the agent then and there.

        Returns False if the switch was not thrown within `wait_s`, or `over` was set before; the
        agent is not killed then.
        """
        deadline = time.monotonic() + wait_s
        while self.switched_to() == before:
            if time.monotonic() > deadline or self.over.wait(SWITCH_POLL_S):
                return False
        self.program.kill()
        return True

    def runs(self) -> str | None:
        """Ask the application which version it is; None if it does not answer."""
        folder_path = self.state_dir / "components" / COMPONENT
        try:
            folder = os.open(folder_path, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(ANSWER_MAX_S)
                # A name that is short enough for a socket address, however deep the folder lies.
                channel.connect(f"/proc/self/fd/{folder}/{SOCKET}")
                answer = b""
                while chunk := channel.recv(65536):
                    answer += chunk
            version: str = json.loads(answer)["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        finally:
            os.close(folder)
        return version


def state_dir_of(ground: Ground, part: Part) -> Path:
    """Return the state folder of a device's agent."""
    return ground.folder / part.device / "state"


def find_example() -> Path | None:
    """Return the folder of the example application, None where only a wheel is installed."""
    folder = Path(__file__).parents[2] / "examples" / "greenhouse"
    return folder if folder.is_dir() else None


def _python(module: str) -> list[str]:
    # -P: the folder it starts in is a device's, and must not lend modules.
    return [sys.executable, "-P", "-m", module]


def _environment(prefix: str, settings: Mapping[str, str]) -> dict[str, str]:
    named = {prefix + name.upper(): value for name, value in settings.items()}
    # An HTTP proxy of the person's own has no business between two programs on loopback.
    return {**named, "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK, "PYTHONUNBUFFERED": "1"}
