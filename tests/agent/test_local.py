import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from agent import local
from agent.local import CLIENTS_MAX, LINE_BYTES_MAX, BadRequest, LocalSocket, LocalSocketError


@dataclass
class Served:
    """A socket that is open, and what it serves."""

    path: Path
    there: LocalSocket
    shown: dict[str, Any] = field(default_factory=lambda: {"settings": []})


async def echo(request: Mapping[str, Any]) -> dict[str, Any]:
    if "refuse" in request:
        raise BadRequest("not that")
    if "fail" in request:
        raise ZeroDivisionError
    return {"heard": request.get("word")}


def make(path: Path, shown: dict[str, Any], uids: frozenset[int] = frozenset()) -> LocalSocket:
    return LocalSocket(
        path,
        allowed_uids=uids,
        operations={"echo": echo},
        snapshots={"settings": lambda: dict(shown), "flags": lambda: {"flags": dict(shown)}},
    )


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    shown: dict[str, Any] = {"settings": []}
    path = folder / "agent.sock"
    there = make(path, shown)
    is_open = asyncio.Event()
    task = asyncio.create_task(there.run(is_open.set))
    await is_open.wait()
    try:
        yield Served(path, there, shown)
    finally:
        task.cancel()
        await asyncio.wait({task})


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, line: bytes) -> Any:
        self.writer.write(line)
        return await self.hear()

    async def ask(self, **request: Any) -> Any:
        return await self.say(json.dumps(request).encode() + b"\n")

    async def hear(self) -> Any:
        line = await self.reader.readline()
        return json.loads(line) if line else None


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def test_one_connection_asks_many_times(tmp_path: Path) -> None:
    async with served(tmp_path) as there, client(there.path) as app:
        for word in ("one", "two"):
            assert await app.ask(op="echo", word=word) == {"ok": True, "heard": word}


async def test_only_owner_and_group_may_reach_the_socket(tmp_path: Path) -> None:
    async with served(tmp_path) as there:
        assert there.path.stat().st_mode & 0o777 == local.MODE
    assert not there.path.exists()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\n", "one JSON object"),
        (b"hello\n", "one JSON object"),
        (b"[1]\n", '"op"'),
        (b'{"op": 7}\n', '"op"'),
        (b"[" * 10_000 + b"\n", "one JSON object"),
        (b'{"op": "nonsense"}\n', "no operation 'nonsense'; there are echo, watch"),
        (b'{"op": "echo", "refuse": 1}\n', "not that"),
        (b'{"op": "echo", "fail": 1}\n', "the agent has a fault"),
        (b'{"op": "echo", "word": "\xff"}\n', "one JSON object"),
    ],
)
async def test_a_bad_request_gets_an_error_and_the_connection_goes_on(
    tmp_path: Path, line: bytes, error: str
) -> None:
    async with served(tmp_path) as there, client(there.path) as app:
        refused = await app.say(line)
        assert refused["ok"] is False
        assert error in refused["error"]
        assert await app.ask(op="echo", word="still here") == {"ok": True, "heard": "still here"}


async def test_a_line_without_end_is_refused_and_the_connection_closed(tmp_path: Path) -> None:
    async with served(tmp_path) as there, client(there.path) as app:
        refused = await app.say(b"x" * (LINE_BYTES_MAX + 10))
        assert refused == {"ok": False, "error": f"a line has at most {LINE_BYTES_MAX} bytes"}
        async with client(there.path) as another:
            assert (await another.ask(op="echo", word="x"))["ok"]


async def test_one_application_too_many_is_told_so_and_others_are_not_disturbed(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as there, client(there.path) as first:
        assert (await first.ask(op="echo"))["ok"]
        others = [await asyncio.open_unix_connection(there.path) for _ in range(CLIENTS_MAX - 1)]
        async with client(there.path) as late:
            refused = await late.hear()
            assert f"more than {CLIENTS_MAX}" in refused["error"]
            assert await late.hear() is None
        assert (await first.ask(op="echo"))["ok"]
        for _, writer in others:
            writer.close()


async def test_a_user_who_is_not_named_is_refused_whatever_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as there:
        monkeypatch.setattr(local, "_peer_uid", lambda writer: 65_534)
        async with client(there.path) as app:
            refused = await app.hear()
            assert refused == {
                "ok": False,
                "error": "user 65534 may not speak here; see local_allowed_uids",
            }
            assert await app.hear() is None


async def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    _, writer = await asyncio.open_unix_connection(sock=ours)
    with theirs:
        assert local._peer_uid(writer) == os.getuid()
        writer.close()
        await writer.wait_closed()


async def test_a_watcher_is_shown_the_values_now_and_after_each_change(tmp_path: Path) -> None:
    async with served(tmp_path) as there, client(there.path) as app:
        assert await app.ask(op="watch") == {"ok": True, "settings": []}
        there.shown["settings"] = ["changed"]
        there.there.announce()
        assert await app.hear() == {"ok": True, "settings": ["changed"]}


async def test_a_watcher_hears_nothing_when_nothing_has_changed(tmp_path: Path) -> None:
    async with served(tmp_path) as there, client(there.path) as app:
        await app.ask(op="watch")
        for _ in range(3):
            there.there.announce()
            await asyncio.sleep(0)
        there.shown["settings"] = ["changed"]
        there.there.announce()
        assert (await app.hear())["settings"] == ["changed"]


async def test_a_watcher_that_leaves_makes_room_for_another(tmp_path: Path) -> None:
    async with served(tmp_path) as there:
        for _ in range(CLIENTS_MAX + 3):
            async with client(there.path) as app:
                assert (await app.ask(op="watch"))["ok"]
            while there.there._clients:
                await asyncio.sleep(0)


async def test_the_socket_that_a_killed_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    assert path.exists()

    async with served(tmp_path) as there, client(there.path) as app:
        assert (await app.ask(op="echo"))["ok"]


async def test_a_socket_that_another_agent_serves_is_left_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as there:
        with pytest.raises(LocalSocketError, match="another agent serves"):
            await make(there.path, {}).run(lambda: None)
        async with client(there.path) as app:
            assert (await app.ask(op="echo"))["ok"]


async def test_a_file_in_the_place_of_the_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("precious")

    with pytest.raises(LocalSocketError, match="local_socket"):
        await make(path, {}).run(lambda: None)

    assert path.read_text() == "precious"


async def test_when_the_agent_stops_every_application_is_let_go(tmp_path: Path) -> None:
    there = make(tmp_path / "agent.sock", {"settings": []})
    is_open = asyncio.Event()
    task = asyncio.create_task(there.run(is_open.set))
    await is_open.wait()
    async with client(tmp_path / "agent.sock") as idle, client(tmp_path / "agent.sock") as watcher:
        assert (await idle.ask(op="echo"))["ok"]
        assert (await watcher.ask(op="watch"))["ok"]
        task.cancel()
        assert await idle.hear() is None
        assert await watcher.hear() is None
        await asyncio.wait({task})
    assert not (tmp_path / "agent.sock").exists()


class Deaf:
    """A client that says things and never reads an answer."""

    def __init__(self, path: Path) -> None:
        self._channel = socket.socket(socket.AF_UNIX)
        self._channel.setblocking(False)
        self._channel.connect(os.fspath(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def say(self, line: bytes) -> None:
        self._channel.send(line)


BIG = ["x" * 1000] * 1000


async def test_a_watcher_that_never_reads_is_let_go_and_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "IDLE_S", 0.1)
    monkeypatch.setattr(local, "CLOSE_S", 0.1)
    async with served(tmp_path) as there:
        there.shown["settings"] = BIG
        with Deaf(there.path) as deaf:
            deaf.say(b'{"op":"watch"}\n')
            while not there.there._clients:
                await asyncio.sleep(0)
            for number in range(50):
                there.shown["number"] = number
                there.there.announce()
                await asyncio.sleep(0)
            async with client(there.path) as app:
                assert (await app.ask(op="echo", word="x"))["ok"]
            while there.there._clients:
                await asyncio.sleep(0.01)


async def test_a_client_that_asks_and_never_reads_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "IDLE_S", 0.1)
    monkeypatch.setattr(local, "CLOSE_S", 0.1)
    async with served(tmp_path) as there:
        with Deaf(there.path) as deaf:
            with contextlib.suppress(BlockingIOError):
                for _ in range(10_000):
                    deaf.say(b'{"op": "echo", "word": "%b"}\n' % (b"x" * 15_000))
            while not there.there._clients:
                await asyncio.sleep(0)
            while there.there._clients:
                await asyncio.sleep(0.01)


async def test_half_a_line_and_silence_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "IDLE_S", 0.1)
    async with served(tmp_path) as there, client(there.path) as app:
        app.writer.write(b'{"op": "ec')
        assert await app.hear() is None


async def test_a_client_that_half_closes_reads_its_whole_answer(tmp_path: Path) -> None:
    async with served(tmp_path) as there, client(there.path) as app:
        there.shown["settings"] = BIG
        app.writer.write(b'{"op": "watch"}\n')
        assert await app.reader.readexactly(1_000_000)
        app.writer.write_eof()
        assert (await app.reader.read()).endswith(b"\n")


async def test_the_agent_stops_though_a_client_never_reads(tmp_path: Path) -> None:
    there = make(tmp_path / "agent.sock", {"settings": BIG})
    is_open = asyncio.Event()
    task = asyncio.create_task(there.run(is_open.set))
    await is_open.wait()
    with Deaf(tmp_path / "agent.sock") as deaf:
        deaf.say(b'{"op":"watch"}\n')
        while not there._clients:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    assert there._clients == set()


async def test_many_who_come_and_go_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path) as there:
        for _ in range(10):
            channels = [Deaf(there.path) for _ in range(20)]
            for number, channel in enumerate(channels):
                if number % 3:
                    channel.say(b'{"op":"watch"}\n' if number % 2 else b'{"op":')
            for channel in channels:
                with channel:
                    await asyncio.sleep(0)
        while there.there._clients:
            await asyncio.sleep(0)
        async with client(there.path) as app:
            assert (await app.ask(op="echo", word="x"))["ok"]
