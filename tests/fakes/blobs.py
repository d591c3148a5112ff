"""The hub's artifacts over HTTP, with ranges, and nothing else of a hub."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from sync.manifest import Manifest


class Blobs:
    """What can be fetched, and what was asked for."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        """Digest and Range header of each request."""
        self.packs: dict[str, list[tuple[int, bytes]]] = {}
        """Answers to `base/target`, one after the other; the last one again and again."""
        self.on_request: Callable[[], object] = lambda: None
        """Called, in a thread of the server, before an answer to each request for a blob."""
        self.url = ""

    def put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.contents[digest] = content
        return digest

    def publish(self, manifest: Manifest, *artifacts: bytes) -> None:
        """Offer a release."""
        self.put(manifest.canonical())
        for artifact in artifacts:
            self.put(artifact)


@contextmanager
def serving_blobs() -> Iterator[Blobs]:
    """Serve on loopback until the end of the block."""
    blobs = Blobs()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/api/v1/packs/"):
                answers = blobs.packs.get(self.path.removeprefix("/api/v1/packs/"), [(404, b"{}")])
                status, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self.answer(HTTPStatus(status), body)
                return
            digest = self.path.removeprefix("/api/v1/blobs/")
            asked = self.headers.get("Range")
            blobs.requests.append((digest, asked))
            blobs.on_request()
            content = blobs.contents.get(digest)
            if content is None:
                self.answer(HTTPStatus.NOT_FOUND, b"")
            elif asked is None or self.headers.get("If-Range") != f'"{digest}"':
                self.answer(HTTPStatus.OK, content)
            else:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"")
                else:
                    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                    self.answer(HTTPStatus.PARTIAL_CONTENT, content[start:], span)

        def answer(self, status: HTTPStatus, body: bytes, span: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if span:
                self.send_header("Content-Range", span)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    blobs.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield blobs
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
