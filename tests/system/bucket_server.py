"""A real S3 server for tests: SeaweedFS as a child process on free loopback ports.

Owns its process, its keys and its folder. Everything of it stays on this machine: its own reports
to its makers are turned off.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import obstore
from obstore.store import S3Store

PROGRAM = Path(sys.executable).parent / "weed"
START_MAX_S = 60.0
POLL_S = 0.05

BUCKET = "tests"

PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


class Key(NamedTuple):
    """Credentials."""

    id: str
    secret: str


ADMIN = Key("ADMINKEY", "admin-secret-0123456789")
HUB = Key("HUBKEY", "hub-secret-0123456789")
READER = Key("READERKEY", "reader-secret-0123456789")
"""May list and read."""

RIGHTS = {ADMIN: ["Admin"], HUB: ["Read", "Write", "List"], READER: ["Read", "List"]}


class BucketServer:
    """One server; killed and started again it has what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with ExitStack() as stack:
            taken = [stack.enter_context(socket.socket()) for _ in PORTS]
            for each in taken:
                each.bind(("127.0.0.1", 0))
            self._ports = {
                name: each.getsockname()[1] for name, each in zip(PORTS, taken, strict=True)
            }
        self.url = f"http://127.0.0.1:{self._ports['s3.port']}"
        self._child: subprocess.Popen[bytes] | None = None
        self._places_count = 0

    def start(self) -> None:
        """Start it and wait until it answers."""
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        config = self._folder / "s3.json"
        identities = [
            {
                "name": key.id.lower(),
                "credentials": [{"accessKey": key.id, "secretKey": key.secret}],
                "actions": actions,
            }
            for key, actions in RIGHTS.items()
        ]
        config.write_text(json.dumps({"identities": identities}))
        options = {
            "dir": "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 50,
            "filer": "true",
            "filer.localSocket": "filer.sock",
            "s3": "true",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": "s3.sock",
            "s3.config": config,
            **self._ports,
        }
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [
                    PROGRAM,
                    "-logtostderr=true",
                    "server",
                    *(f"-{k}={v}" for k, v in options.items()),
                ],
                cwd=self._folder,
                env={**os.environ, "HOME": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_MAX_S
        while not self._answers():
            assert self._child.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(POLL_S)

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self._folder / "weed.log"

    def stop(self) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()
        for name in ("master", "volume", "filer", "s3"):  # where these lie cannot be chosen
            port = self._ports[f"{name}.port.grpc"]
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108

    def store(self, place: str = BUCKET, key: Key = ADMIN) -> S3Store:
        """Return a client of a place, `bucket` or `bucket/prefix`."""
        bucket, _, prefix = place.partition("/")
        return S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=self.url,
            access_key_id=key.id,
            secret_access_key=key.secret,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def new_place(self) -> str:
        """Return an empty place in the one bucket: each bucket takes volumes, which are few."""
        if not self._places_count:
            # An administrator makes a bucket by writing to it.
            obstore.put(self.store(), "first", b"x")
        self._places_count += 1
        return f"{BUCKET}/place-{self._places_count}"

    def uploads(self) -> list[str]:
        """Return the unfinished uploads in parts, which no reader of the bucket sees."""
        address = f"http://127.0.0.1:{self._ports['filer.port']}/buckets/{BUCKET}/.uploads/"
        request = urllib.request.Request(address, headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
                entries = json.load(answer)["Entries"] or []
        except urllib.error.HTTPError:
            return []
        return [each["FullPath"] for each in entries]

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=5).close()  # noqa: S310 - loopback
        except urllib.error.HTTPError as error:
            return error.code == 403  # it wants a key
        except OSError:
            return False
        return True


@contextmanager
def running_bucket_server(folder: Path) -> Iterator[BucketServer]:
    """Give a running server."""
    server = BucketServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
