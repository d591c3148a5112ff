"""Telling the service manager how a program is: a datagram (sd_notify(3)), or nothing."""

import os
import socket
from collections.abc import Mapping
from typing import Final

_MICROSECONDS: Final = 1_000_000


def notify(state: str) -> None:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=...`; without a service manager do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.connect(address)
            channel.send(state.encode(errors="replace"))
        except OSError:
            return  # a service manager that does not listen is no reason to fail


def without_manager(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child that must not speak to the service manager for us.

    nats-server 2.10 says `READY=1` of itself where it finds the address.
    """
    ours = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    return {name: value for name, value in environment.items() if name not in ours}


def status(text: str) -> str:
    """Return the message that shows `text` beside the unit: one line, nothing else in it."""
    plain = "".join(each if each.isprintable() else " " for each in text)
    return f"STATUS={plain}"


def watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Return within how many seconds the service manager wants to hear `WATCHDOG=1` again.

    None if it does not watch this process (sd_watchdog_enabled(3)).
    """
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    try:
        within = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return within / _MICROSECONDS if within > 0 else None
