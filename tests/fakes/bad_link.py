"""A hub's artifacts behind a link that does what bad links do: a real server on loopback."""

import hashlib
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from threading import Event, Thread

BLOCK_BYTES = 256 * 1024

Deed = Callable[["Asked"], None]
"""What the link does with a request."""


@dataclass
class Link:
    """The link, and what went over it."""

    content: bytes
    deed: Deed
    has_blocks: bool = True
    url: str = ""
    requests_count: int = 0
    sent_bytes: int = 0
    """Of the content, as the server gave them to the system."""
    random: Random = field(default_factory=lambda: Random(5))
    over: Event = field(default_factory=Event)
    """Set at the end, for those that stall."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Asked(BaseHTTPRequestHandler):
    """One request for the content."""

    protocol_version = "HTTP/1.1"
    link: Link

    def do_GET(self) -> None:
        if self.path.endswith("/blocks"):
            content = self.link.content
            digests = b"".join(
                hashlib.sha256(content[start : start + BLOCK_BYTES]).digest()
                for start in range(0, len(content), BLOCK_BYTES)
            )
            self.head(HTTPStatus.OK if self.link.has_blocks else HTTPStatus.NOT_FOUND, len(digests))
            self.wfile.write(digests)
            return
        self.link.requests_count += 1
        try:
            self.link.deed(self)
        except OSError:
            self.close_connection = True

    @property
    def start(self) -> int:
        """Where the asked range begins, 0 without one or for another tag than ours."""
        asked, tag = self.headers.get("Range"), self.headers.get("If-Range")
        if asked is None or tag not in (None, f'"{self.link.digest}"'):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def head(self, status: HTTPStatus, length: int, **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def rest(self, start: int | None = None) -> bytes:
        """Say what comes, from `start` on, and return it."""
        first = self.start if start is None else start
        rest = self.link.content[first:]
        total = len(self.link.content)
        if first:
            span = f"bytes {first}-{total - 1}/{total}"
            self.head(HTTPStatus.PARTIAL_CONTENT, len(rest), Content_Range=span)
        else:
            self.head(HTTPStatus.OK, len(rest))
        return rest

    def send(self, content: bytes) -> None:
        self.wfile.write(content)
        self.link.sent_bytes += len(content)

    def drop(self) -> None:
        """End the connection as a link does that is gone."""
        self.close_connection = True
        self.wfile.flush()
        # What is on its way arrives; nothing more does.
        self.connection.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End the connection so that what is on its way is lost as well."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def linked(link: Link) -> Iterator[Link]:
    """Serve `link` until the end of the block."""
    kind = type("Kind", (Asked,), {"link": link})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    link.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield link
    finally:
        link.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
