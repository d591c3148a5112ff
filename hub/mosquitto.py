"""The configuration of a Mosquitto that stands on its own: TLS, certificates, rights on topics.

Owns the two texts and what they promise. Starts nothing and writes nothing.

What they promise: nobody without a certificate of the hub's authority connects; who is connected is
who the certificate names, also as client id, so that no device can throw another out; a device
writes to its own two topics and reads its own one, those of groups and the hub's presence. To a
subscription beyond that Mosquitto says yes and then delivers nothing (2.0, `acl_file`).

Tested with Mosquitto 2.0.11.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hub.broker_plan import (
    INFLIGHT_MAX_COUNT,
    PACKET_MAX_BYTES,
    QUEUED_MAX_BYTES,
    QUEUED_MAX_COUNT,
)
from hub.identity.ca import HUB_NAME
from sync.topics import EVERY_PRESENCE, EVERY_UP, HUB_PRESENCE, ROOT, VERSION

CONFIG: Final = "mosquitto.conf"
ACL: Final = "acl"
AUTHORITY: Final = "ca.pem"
CRL: Final = "crl.pem"
SERVER: Final = "server"
"""Stem of the broker's own key and certificate."""

CONNECTIONS_MAX: Final = 20_000
PORT: Final = 8883
"""MQTT over TLS, as registered with IANA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where the broker listens."""

    host: str
    """Address; empty for every address of the machine."""
    port: int
    user: str
    """User that Mosquitto becomes when it is started as root; empty for its own default."""


def config_text(listener: Listener, folder: Path) -> str:
    """Return the configuration for files in `folder`."""
    user = [f"user {listener.user}"] if listener.user else []
    return "\n".join(
        (
            "# Written by `fieldfare hub broker-config mosquitto`; written anew, it is replaced.",
            "per_listener_settings false",
            f"listener {listener.port} {listener.host}".rstrip(),
            *user,
            "allow_anonymous false",
            "# Who may connect: whoever has a certificate of the hub's authority that counts.",
            f"cafile {folder / AUTHORITY}",
            f"certfile {folder / f'{SERVER}.pem'}",
            f"keyfile {folder / f'{SERVER}.key'}",
            f"crlfile {folder / CRL}",
            "tls_version tlsv1.3",
            "require_certificate true",
            "# Who is connected: whom the certificate names.",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            f"acl_file {folder / ACL}",
            "# Without it, QoS 1 stalls at about 120 messages a second (Nagle's algorithm).",
            "set_tcp_nodelay true",
            "# Nothing here has to survive a restart: state vectors decide what is safe.",
            "persistence false",
            f"max_connections {CONNECTIONS_MAX}",
            f"max_inflight_messages {INFLIGHT_MAX_COUNT}",
            f"max_queued_messages {QUEUED_MAX_COUNT}",
            f"max_queued_bytes {QUEUED_MAX_BYTES}",
            f"max_packet_size {PACKET_MAX_BYTES}",
            "max_keepalive 3600",
            "persistent_client_expiration 14d",
            "connection_messages true",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "",
        )
    )


def acl_text() -> str:
    """Return the rights: those of the hub by name, those of a device by a pattern."""
    base = f"{ROOT}/{VERSION}"
    return "\n".join(
        (
            "# Written by `fieldfare hub broker-config mosquitto`; written anew, it is replaced.",
            f"user {HUB_NAME}",
            f"topic read {EVERY_UP}",
            f"topic read {EVERY_PRESENCE}",
            f"topic write {base}/+/down",
            f"topic write {base}/group/+",
            f"topic write {base}/kill/+",
            f"topic write {HUB_PRESENCE}",
            "",
            "# %u is the name in the certificate.",
            f"pattern write {base}/%u/up",
            f"pattern write {base}/%u/presence",
            f"pattern read {base}/%u/down",
            f"pattern read {base}/group/+",
            f"pattern read {base}/kill/+",
            f"pattern read {HUB_PRESENCE}",
            "",
        )
    )
