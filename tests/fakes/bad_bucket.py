"""A link to a bucket that does what bad links and bad buckets do: an HTTP proxy on loopback.

The bucket behind it is a real one; what is signed for this address is still right there, because
the name that was asked for is passed on.
"""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "transfer-encoding"}

FAULT = "<Error><Code>{code}</Code><Message>{message}</Message></Error>"


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    """Without its query, which may hold a signature."""
    query: str
    headers: dict[str, str]

    @property
    def is_device(self) -> bool:
        """Tell whether an agent asks, with an address that was signed for it."""
        return self.headers.get("user-agent") == "fieldfare-agent"


Deed = Callable[["Asked"], tuple[HTTPStatus, str] | None]
"""Answers a request with a status and a code of S3, or lets it pass (None)."""


def passes(_asked: Asked) -> None:
    """Let everything pass."""


@dataclass
class BadBucket:
    """The link, and what went over it."""

    upstream: str
    url: str = ""
    deed: Deed = passes
    flips: bool = False
    """Turn over a bit of each content that is read."""
    asked: list[Asked] = field(default_factory=list)
    device_bytes: int = 0
    """Contents that went to devices."""
    stalled: threading.Event = field(default_factory=threading.Event)
    """Set at the end, for those that stall."""

    @property
    def port(self) -> int | None:
        """Where the bucket is."""
        return urlsplit(self.upstream).port

    def refuses(self, status: int, code: str = "SlowDown") -> None:
        """Answer everything from now on with this."""
        self.deed = lambda _asked: (HTTPStatus(status), code)

    def stalls(self) -> None:
        """Answer nothing from now on."""

        def deed(_asked: Asked) -> tuple[HTTPStatus, str]:
            self.stalled.wait(60)
            return HTTPStatus.GATEWAY_TIMEOUT, "Stalled"

        self.deed = deed

    def heals(self) -> None:
        """Let everything pass again, unchanged."""
        self.deed, self.flips = passes, False

    def of_devices(self) -> list[Asked]:
        """Return what agents asked."""
        return [each for each in self.asked if each.is_device]


class _Passing(BaseHTTPRequestHandler):
    """One request on its way to the bucket."""

    protocol_version = "HTTP/1.1"
    link: BadBucket

    def passed_on(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, path, query, headers)
        self.link.asked.append(asked)
        body = self.rfile.read(int(headers.get("content-length", 0)))
        verdict = self.link.deed(asked)
        if verdict is not None:
            status, code = verdict
            text = FAULT.format(code=code, message="said the test").encode()
            self.answer(status, {"Content-Length": str(len(text))}, text)
            return
        try:
            status, said, content = self.ask(headers, body)
        except (OSError, http.client.HTTPException):  # it is not there any more
            self.answer(HTTPStatus.BAD_GATEWAY, {"Content-Length": "0"}, b"")
            return
        if self.link.flips and self.command == "GET" and "list-type" not in query:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if asked.is_device:
            self.link.device_bytes += len(content)
        said.setdefault("Content-Length", str(len(content)))
        self.answer(status, said, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = passed_on  # noqa: N815

    def ask(self, headers: dict[str, str], body: bytes) -> tuple[HTTPStatus, dict[str, str], bytes]:
        """Ask the bucket the same, under the name that we were asked by."""
        there = http.client.HTTPConnection(
            "127.0.0.1", urlsplit(self.link.upstream).port, timeout=30
        )
        with contextlib.closing(there):
            there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name not in HOP_BY_HOP:
                    there.putheader(name, value)
            there.endheaders(body or None)
            got = there.getresponse()
            content = got.read()
        said = {k: v for k, v in got.getheaders() if k.lower() not in HOP_BY_HOP}
        return HTTPStatus(got.status), said, content

    def answer(self, status: HTTPStatus, headers: dict[str, str], body: bytes) -> None:
        with contextlib.suppress(OSError):  # who asked has given up
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def linked_bucket(upstream: str) -> Iterator[BadBucket]:
    """Pass on to `upstream` until the end of the block."""
    link = BadBucket(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Kind", (_Passing,), {"link": link}))
    server.daemon_threads = True
    link.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield link
    finally:
        link.stalled.set()
        server.shutdown()
        thread.join()
        server.server_close()
