"""Where signed metadata comes from: the hub, or a folder that somebody carried here.

Owns reading it within bounds of length and time. Believes nothing: whoever asks verifies.

Format: HTTP/1.1 (RFC 9110); file names of TUF with consistent snapshots.
"""

import contextlib
import os
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from agent.line import CHUNKED, ends_within, is_chunked
from agent.plain import open_plain
from sync.metadata import Refused
from sync.stages import Reason

CHUNK_BYTES: Final = 16 * 1024

SIGNED: Final = b'"signed"'
"""Stands in every piece of TUF metadata."""

SLOW_GRACE_S: Final = 30.0
SLOW_BYTES_PER_S: Final = 100
"""Below this rate, after the grace, a file is given up. GSM at its worst carries ten times that."""


class Unreachable(Exception):
    """The source does not answer. That is nobody's fault, and it may answer later."""


class Source(Protocol):
    """Gives metadata by its name."""

    def get(self, name: str, bytes_max: int) -> bytes | None:
        """Return the file called `name`; None if the source says that it has none.

        Raises:
            Refused: It is longer than `bytes_max`, or comes too slowly.
            Unreachable: The source does not answer.
        """
        ...


class HubSource:
    """A hub over HTTP."""

    def __init__(
        self,
        hub_url: str,
        *,
        stall_s: float,
        tls: ssl.SSLContext | None = None,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask `hub_url`, over HTTPS as `tls` says; give up after a silence of `stall_s`."""
        self._tls = tls
        self._address = urlsplit(hub_url)
        self._stall_s = stall_s
        self._mono_s = mono_s

    def get(self, name: str, bytes_max: int) -> bytes | None:
        """As `Source.get`."""
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.connect()
                path = f"{self._address.path.rstrip('/')}/api/v1/trust/metadata/{name}"
                headers = {"Connection": "close", "User-Agent": "fieldfare-agent"}
                with ends_within(connection.sock, 2 * self._stall_s):
                    connection.request("GET", path, headers=headers)
                    came = connection.getresponse()
                with came as answer:
                    if answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
                        return None
                    if answer.status != HTTPStatus.OK:
                        raise Unreachable(f"the hub answered {answer.status} to {name}")
                    if is_chunked(answer):
                        raise Unreachable(CHUNKED)
                    return self._read(answer, name, bytes_max)
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{type(error).__name__}: {error}"[:200]) from None

    def _connect(self) -> HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._address.scheme == "https":
            return HTTPSConnection(host, port, timeout=self._stall_s, context=self._tls)
        return HTTPConnection(host, port, timeout=self._stall_s)

    def _read(self, answer: HTTPResponse, name: str, bytes_max: int) -> bytes:
        begun = self._mono_s()
        content = bytearray()
        while chunk := answer.read1(CHUNK_BYTES):
            content += chunk
            if len(content) > bytes_max:
                raise Refused(Reason.ENDLESS, f"{name} goes on after {bytes_max} bytes")
            late_s = self._mono_s() - begun - SLOW_GRACE_S
            if late_s > 0 and len(content) < late_s * SLOW_BYTES_PER_S:
                raise Refused(
                    Reason.SLOW,
                    f"{len(content)} bytes of {name} came in {late_s + SLOW_GRACE_S:.0f} s",
                )
        if answer.length:
            raise Unreachable(f"{name} broke off after {len(content)} bytes")
        if not content.lstrip().startswith(b"{") or SIGNED not in content:
            # A page of a proxy or of a network that wants a login: not what the hub has said.
            raise Unreachable(f"what answers to {name} is no metadata: is this the hub?")
        return bytes(content)


class FolderSource:
    """A folder with the files of `fieldfare release export`, on any medium."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str, bytes_max: int) -> bytes | None:
        """As `Source.get`. Only plain files count: no links, pipes or devices."""
        descriptor = open_plain(self._folder / "metadata" / name)
        if descriptor is None:
            return None
        try:
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(bytes_max + 1)
        except OSError as error:
            raise Unreachable(f"{name} cannot be read: {error.strerror}") from None
        if len(content) > bytes_max:
            raise Refused(Reason.ENDLESS, f"{name} goes on after {bytes_max} bytes")
        return content
