"""A real HTTP server that gives the answers it was told to, and remembers what it was asked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class CannedHub(ThreadingHTTPServer):
    """Answers by (method, path with query); 404 for the rest."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, bytes]] = []
        self.credentials: list[str | None] = []
        """What each request showed as its `Authorization`."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, path: str, answer: Any = None, status: int = 200) -> None:
        self.answers[method, f"/api/v1{path}"] = (status, answer)

    def wishes(self, method: str, path: str) -> list[Any]:
        """Return the JSON bodies of these requests."""
        return [
            json.loads(body)
            for each, where, body in self.asked
            if (each, where) == (method, f"/api/v1{path}")
        ]


class _Answering(BaseHTTPRequestHandler):
    server: CannedHub

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, body))
        self.server.credentials.append(self.headers.get("Authorization"))
        problem = {"title": "There is no such thing", "status": 404, "detail": self.path}
        status, answer = self.server.answers.get((self.command, self.path), (404, problem))
        text = b"" if answer is None else answer if isinstance(answer, bytes) else _json(answer)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - names of http.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of http.server
        pass


def _json(answer: Any) -> bytes:
    return json.dumps(answer).encode()


@contextmanager
def canned_hub() -> Iterator[CannedHub]:
    hub = CannedHub()
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
