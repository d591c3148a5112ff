"""Being sent on: whither a download may follow, and what it takes along.

Owns those rules. Pure; opens no connection.

Rules: from `https` only to `https`; from `http` also to `http`, within one origin or on loopback.
What another origin is asked names the file and nothing about us, and an address that may be signed
is in no message.
"""

import ipaddress
from typing import Final
from urllib.parse import urljoin, urlsplit

from agent.line import FetchFailed
from sync.stages import Reason

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

REDIRECTS_MAX: Final = 3

LOCATION_MAX: Final = 4096
"""Longest address that is followed; signed ones have some 600 characters."""

Origin = tuple[str, str, int | None]


class StoreFailed(FetchFailed):
    """Where we were sent to gave nothing of use; who sent us may give it himself."""

    def __init__(self, detail: str, *, is_stale: bool = False) -> None:
        """`is_stale`: the address is refused, and another one may be good."""
        super().__init__(Reason.DOWNLOAD_FAILED, detail[:200], final=False)
        self.is_stale = is_stale


def origin_of(url: str) -> Origin:
    """Return what has to be the same for two addresses to belong to one server.

    Raises:
        ValueError: It is no address.
    """
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", parts.port or default


def followed(url: str, location: str) -> str:
    """Return the address to ask next, after `url` answered with `location`.

    Raises:
        StoreFailed: It is none, or one that we do not go to.
    """
    try:
        target = urljoin(url, location)
        is_fit = bool(location) and len(target) <= LOCATION_MAX and _may_follow(url, target)
    except ValueError:
        is_fit = False
    if not is_fit:
        shown = location.partition("?")[0][:100]
        raise StoreFailed(f"sent on to {shown!r}, which is no place to go to")
    return target


def named(url: str) -> str:
    """Return an address as it may be shown: the server alone."""
    scheme, host, port = origin_of(url)
    return f"{scheme}://{host}:{port}"


def _may_follow(url: str, target: str) -> bool:
    here, there = origin_of(url), origin_of(target)
    if not there[1] or "@" in urlsplit(target).netloc:
        return False
    if not target.isascii() or not target.isprintable() or " " in target:
        return False
    if there[0] == "https":
        return True
    return here[0] == there[0] == "http" and (
        here == there or (_is_loopback(here[1]) and _is_loopback(there[1]))
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
