"""Who is at the other end of a request, and whether others could read along.

Owns the reading of what a proxy says of those it speaks for. Pure. A header that somebody else than
the proxy of the settings sends is not believed.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple

FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_PROTO: Final = b"x-forwarded-proto"


class Peer(NamedTuple):
    """The other end."""

    source: str
    """Address; empty if there is none."""
    scheme: str
    """`https` if it came over TLS, to the hub or to its proxy."""
    is_private: bool
    """Nobody on the way can read along: TLS, or it never left this machine."""


def peer_of(
    client: str, scheme: str, headers: Iterable[tuple[bytes, bytes]], proxy_address: str | None
) -> Peer:
    """Return who asks.

    Args:
        client: Address of the other end of the connection; empty if there is none.
        scheme: Of the connection.
        headers: Of the request, names in lower case.
        proxy_address: Of the proxy before the hub, if there is one. It must say both
            X-Forwarded-For and X-Forwarded-Proto; the last entries of each are its own.
    """
    is_here = is_loopback(client)
    if proxy_address is not None and client == proxy_address:
        named = _last(headers, FORWARDED_FOR)
        if named:
            source = named if _is_address(named) else client
            is_encrypted = _last(headers, FORWARDED_PROTO).lower() == "https"
            return Peer(source, "https" if is_encrypted else "http", is_encrypted)
    return Peer(client, scheme, scheme == "https" or is_here)


def is_loopback(address: str) -> bool:
    """Tell whether an address is one of this machine alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_address(text: str) -> bool:
    if "%" in text:
        return False  # a zone may be of any length, and means nothing here
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _last(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str:
    """Return what the nearest proxy has added: the end of the last header of this name."""
    found = [value for name, value in headers if name == wanted]
    return found[-1].decode("latin-1").rpartition(",")[2].strip() if found else ""
