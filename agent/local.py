"""The local socket: applications on the device read and set settings, and ask how things are.

Owns the socket and its protocol. Who may speak is decided by the kernel's word on who is at the
other end (SO_PEERCRED), not by anything they say.

Protocol: one JSON object a line, one answer a line, in UTF-8.
`{"op": "get", "key": K}`, `{"op": "set", "key": K, "value": V}`, `{"op": "unset", "key": K}`,
`{"op": "list"}`, `{"op": "status"}`, `{"op": "watch"}` (one line now and one for each change).
The rest, `inhibit` and `why` among them, is in docs/reference/local-socket.md.
Answers carry `"ok": true`, or `"ok": false` and `"error"`.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

logger = logging.getLogger(__name__)

LINE_BYTES_MAX: Final = 16 * 1024
CLIENTS_MAX: Final = 32
IDLE_S: Final = 300.0
"""A client that says nothing for so long is let go, unless it watches."""

CLOSE_S: Final = 5.0
"""How long a client that is let go may take to read its last answer."""

MODE: Final = 0o660

ACCEPT_STEPS: Final = 10
"""Rounds of the event loop after which a connection that was accepted is a client; 4 are enough."""

Answer = dict[str, Any]
Operation = Callable[[Mapping[str, Any]], Awaitable[Answer]]


@dataclass(slots=True, eq=False)
class Client:
    """One connected application."""

    uid: int
    """Its user, by the kernel's word."""
    holds: Callable[[], bool] = lambda: False
    """Whether it holds something: then its silence is no reason to let it go."""
    hung_up: Callable[[], Awaitable[None]] | None = None
    """Called when it has closed its connection, or died; not when the agent stops."""


PersonalOperation = Callable[[Mapping[str, Any], Client], Awaitable[Answer]]
"""An operation whose effect depends on who asks, or on how long they stay."""


class BadRequest(ValueError):
    """The application asked for something that cannot be; nothing was changed."""


class LocalSocketError(Exception):
    """The socket cannot be opened; says why and what to do."""


class LocalSocket:
    """Serves applications on this device."""

    def __init__(
        self,
        path: Path,
        *,
        allowed_uids: frozenset[int],
        operations: Mapping[str, Operation],
        snapshots: Mapping[str, Callable[[], Answer]],
        personal: Mapping[str, PersonalOperation] = MappingProxyType({}),
    ) -> None:
        """Answer `operations` and `personal` by name; `snapshots` is what watchers are shown.

        The first of them is for who does not say what to watch.
        """
        self._path = path
        self._allowed_uids = allowed_uids | {0, os.getuid()}
        self._operations = operations
        self._personal = personal
        self._snapshots = snapshots
        self._news = asyncio.Event()
        self._clients: set[asyncio.Task[Any]] = set()
        self._is_over = False

    async def run(self, opened: Callable[[], None]) -> None:
        """Serve until cancelled; calls `opened` once applications can connect.

        Raises:
            LocalSocketError: The socket cannot be opened.
        """
        listener = self._bind()
        server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_BYTES_MAX)
        try:
            opened()
            await asyncio.get_running_loop().create_future()
        finally:
            self._is_over = True
            # Nobody new is accepted, and those who were last are seen off: a connection that is on
            # its way in while its server closes would be lost open (CPython 3.11).
            asyncio.get_running_loop().remove_reader(listener)
            for _ in range(ACCEPT_STEPS):
                await asyncio.sleep(0)
            server.close()
            for client in list(self._clients):
                client.cancel()
            # Newer Pythons wait for every client before a server is closed: they must be gone.
            await asyncio.gather(*self._clients, return_exceptions=True)
            self._path.unlink(missing_ok=True)

    def announce(self) -> None:
        """Tell watchers that something has changed."""
        told, self._news = self._news, asyncio.Event()
        told.set()

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._clear_way()
            listener.bind(os.fspath(self._path))
            self._path.chmod(MODE)
        except OSError as error:
            listener.close()
            raise LocalSocketError(
                f"cannot open the socket {self._path}: {error.strerror or error}; set local_socket"
            ) from None
        except LocalSocketError:
            listener.close()
            raise
        return listener

    def _clear_way(self) -> None:
        """Remove the socket that a killed agent left; one that is served is somebody's."""
        if self._path.exists() and stat.S_ISSOCK(self._path.stat().st_mode):
            if _is_alive(self._path):
                raise LocalSocketError(
                    f"another agent serves {self._path}: stop it, or set local_socket"
                )
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.current_task()
        assert client is not None  # noqa: S101 - asyncio calls this in a task of its own
        self._clients.add(client)
        try:
            if self._is_over:
                pass  # it came while the agent stops, and nobody would answer it
            elif len(self._clients) > CLIENTS_MAX:
                await _answer(writer, _error(f"more than {CLIENTS_MAX} applications are connected"))
            elif (uid := _peer_uid(writer)) not in self._allowed_uids:
                await _answer(
                    writer, _error(f"user {uid} may not speak here; see local_allowed_uids")
                )
            else:
                peer = Client(uid)
                with contextlib.suppress(ConnectionError, TimeoutError):
                    await self._converse(reader, writer, peer)
                if peer.hung_up is not None:
                    await peer.hung_up()
        except (ConnectionError, TimeoutError):
            pass
        except asyncio.CancelledError:
            pass  # the agent stops; asyncio would log it as a failure of this task
        finally:
            await _hang_up(writer)
            self._clients.discard(client)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: Client
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
            except TimeoutError:
                if client.holds():
                    continue
                return
            except ValueError:
                await _answer(writer, _error(f"a line has at most {LINE_BYTES_MAX} bytes"))
                return
            if not line:
                return
            try:
                request = _parse(line)
                if request["op"] == "watch":
                    await self._watch(reader, writer, self._snapshot_of(request))
                    return
                answer = await self._operate(request, client)
            except BadRequest as error:
                answer = _error(str(error))
            except (OSError, asyncio.CancelledError):
                raise
            except Exception:  # no request may leave its application without an answer
                logger.exception("request_failed")
                answer = _error("the agent has a fault; its log says more")
            await _answer(writer, answer)

    async def _operate(self, request: Mapping[str, Any], client: Client) -> Answer:
        personal = self._personal.get(request["op"])
        if personal is not None:
            return {"ok": True, **await personal(request, client)}
        operation = self._operations.get(request["op"])
        if operation is None:
            known = ", ".join([*self._operations, *self._personal, "watch"])
            raise BadRequest(f"no operation {str(request['op'])[:40]!r}; there are {known}")
        return {"ok": True, **await operation(request)}

    def _snapshot_of(self, request: Mapping[str, Any]) -> Callable[[], Answer]:
        what = request.get("what", next(iter(self._snapshots)))
        snapshot = self._snapshots.get(what) if isinstance(what, str) else None
        if snapshot is None:
            raise BadRequest(f'"what" to watch is one of {", ".join(self._snapshots)}')
        return snapshot

    async def _watch(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        snapshot: Callable[[], Answer],
    ) -> None:
        gone = asyncio.ensure_future(reader.read(1))
        try:
            shown: Answer | None = None
            while not gone.done():
                news = self._news
                current = snapshot()
                if current != shown:
                    shown = current
                    await _answer(writer, {"ok": True, **current})
                waiting = asyncio.ensure_future(news.wait())
                try:
                    await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
        finally:
            gone.cancel()


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRequest("a request is one JSON object on one line") from None
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise BadRequest('a request is a JSON object with an "op"')
    return request


def _error(text: str) -> Answer:
    return {"ok": False, "error": text}


async def _answer(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    async with asyncio.timeout(IDLE_S):
        await writer.drain()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Let go of a client: it may read what was answered, but is not waited for long."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_S):
            await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.CancelledError):
        writer.transport.abort()


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    """Return the user at the other end, by the kernel (unix(7), SO_PEERCRED)."""
    connection = writer.get_extra_info("socket")
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as trial:
        trial.settimeout(1.0)
        try:
            trial.connect(os.fspath(path))
        except OSError:
            return False
        return True
