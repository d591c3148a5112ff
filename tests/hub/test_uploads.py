import hashlib
import os
import threading
import time
from pathlib import Path

import httpx
import pytest

from hub.uploads import FOLDER, KEPT_S
from tests.hub.core import Core
from tests.hub.web import BLOB, DIGEST, api_of, check_problem

HALF = len(BLOB) // 2


async def send(
    client: httpx.AsyncClient, piece: bytes, offset: int, *, digest: str = DIGEST
) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(len(BLOB))}
    return await client.patch(f"/uploads/{digest}", content=piece, headers=headers)


async def offset(client: httpx.AsyncClient) -> int:
    return int((await client.head(f"/uploads/{DIGEST}")).headers["upload-offset"])


async def test_an_artifact_comes_in_pieces(client: httpx.AsyncClient) -> None:
    assert await offset(client) == 0
    answer = await send(client, BLOB[:HALF], 0)
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(HALF))
    assert (await client.head(f"/blobs/{DIGEST}")).status_code == 404
    assert (await send(client, BLOB[HALF:], HALF)).status_code == 204
    assert (await client.get(f"/blobs/{DIGEST}")).content == BLOB
    assert await offset(client) == len(BLOB)


async def test_pieces_outlive_the_hub_but_not_for_ever(core: Core, tmp_path: Path) -> None:
    async with api_of(core, tmp_path / "hub") as client:
        await send(client, BLOB[:HALF], 0)
    async with api_of(core, tmp_path / "hub") as client:
        assert await offset(client) == HALF
    past = time.time() - KEPT_S - 60
    os.utime(tmp_path / "hub" / FOLDER / DIGEST, (past, past))
    async with api_of(core, tmp_path / "hub") as client:
        assert await offset(client) == 0


async def test_a_piece_that_does_not_follow_is_turned_away(client: httpx.AsyncClient) -> None:
    await send(client, BLOB[:HALF], 0)
    check_problem(await send(client, BLOB, 0), 409, f"{HALF} bytes of it are here")
    check_problem(await send(client, BLOB, HALF), 413, "goes on after")
    check_problem(await send(client, b"x", 0, digest="../x" * 16), 404, "")
    check_problem(await send(client, b"x", 0, digest="x" * 64), 400, "SHA-256")


async def test_of_a_whole_that_is_another_file_nothing_stays(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    check_problem(await send(client, b"?" * len(BLOB), 0), 422, "SHA-256")
    assert await offset(client) == 0
    assert list((tmp_path / "hub" / FOLDER).iterdir()) == []


@pytest.mark.parametrize("headers", [{}, {"Upload-Offset": "-1", "Upload-Length": "5"}])
async def test_a_piece_says_where_it_belongs(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await client.patch(f"/uploads/{DIGEST}", content=b"x", headers=headers)
    assert answer.status_code == 400


def test_an_upload_that_broke_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The client against a server that hangs up in the middle of the second piece."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from hub.client import PIECE_BYTES, HubClient, NoHub

    content = os.urandom(2 * PIECE_BYTES + 1000)
    file = tmp_path / "artifact"
    file.write_bytes(content)
    got = bytearray()
    hangs_up = [True]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_PATCH(self) -> None:
            piece = self.rfile.read(int(self.headers["Content-Length"]))
            assert int(self.headers["Upload-Offset"]) == len(got)
            if got and hangs_up[0]:
                hangs_up[0] = False
                got.extend(piece[:1000])
                self.connection.close()
                return
            got.extend(piece)
            self.answer()

        def answer(self) -> None:
            self.send_response(204)
            self.send_header("Upload-Offset", str(len(got)))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """It hung up on purpose."""

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        client = HubClient(f"http://127.0.0.1:{server.server_port}")
        digest = hashlib.sha256(content).hexdigest()
        with pytest.raises(NoHub):
            client.put_blob(file, digest)
        assert len(got) == PIECE_BYTES + 1000
        told: list[int] = []
        client.put_blob(file, digest, told.append)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert bytes(got) == content
    assert sum(told) == len(content)
