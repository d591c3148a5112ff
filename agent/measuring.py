"""Measuring on a running device: the socket, the samples, and when it all becomes durable.

Owns `measure.sock` and the times of storing. What is kept is `agent.measures`, what lines say
`agent.statsd`, what the device measures of itself `agent.vitals`.

Rule: what is measured is in memory until `measure_flush_s`, and durable, in the telemetry document,
from then on. A stop in good order stores it first; a kill or a power cut loses what came since.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

from agent.clock import Clock
from agent.documents import Documents
from agent.local import MODE, BadRequest, LocalSocketError
from agent.log import say
from agent.measures import Measures
from agent.settings import Settings
from agent.statsd import take_lines
from agent.store import Store, StoreError
from agent.threads import in_thread
from agent.vitals import Vitals, boot_reason, lock_waits_s
from sync.series import Series

logger = logging.getLogger(__name__)

KIND: Final = "measuring"
"""Under which the last boot and how it ended are stored; never reuse it."""

QUIET_FACTOR: Final = 6
"""What only the device itself has measured waits so many times as long to be stored."""

DATAGRAM_BYTES_MAX: Final = 8192
DATAGRAMS_PER_TURN: Final = 200
"""Most datagrams that are read before anything else is done."""

LINES_PER_S: Final = 2000
"""Lines of all applications together; what comes beyond is dropped and counted."""

HOUR_S: Final = 3600.0

_CREDENTIALS: Final = struct.Struct("3i")


class Measuring:
    """The measurements of this device."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        documents: Documents,
        clock: Clock,
        *,
        on_written: Callable[[], None],
    ) -> None:
        """`load` comes first; `on_written` is called when the hub can be told of something."""
        self.measures = Measures()
        self._told_dropped: Counter[str] = Counter()
        """What the series tell of what was dropped in this start."""
        self._settings = settings
        self._store = store
        self._documents = documents
        self._clock = clock
        self._on_written = on_written
        self._vitals = Vitals(disk=settings.state_dir, services=settings.measure_services)
        self._uids = frozenset(settings.local_allowed_uids) | {0, os.getuid()}
        self._is_urgent = False
        self._is_connected = False
        self._since_mono = 0.0
        self._connected_s = self._expected_s = 0.0
        self._hour_s = 0.0
        self._hour_is_free = True
        self._second, self._second_lines = 0, 0

    async def load(self) -> None:
        """Go on from what is stored, and count this start.

        Raises:
            StoreError: The store cannot be read.
        """
        self.measures.load(self._documents.measured())
        self._documents.keeps = self.measures.kept
        self._documents.takes_back = self.measures.take_back
        self._since_mono = self._clock.mono_s()
        known = await self._store.kept(KIND)
        boot = self._clock.stamp().boot
        was_stopped = known.get("stopped") == b"1"
        if "boot" not in known:
            pass  # the very first start says nothing of an end
        elif known["boot"] == boot:
            ending = "stopped" if was_stopped else "died"
            self.measures.count(Series(f"agent.restarts.{ending}"))
            self._hour_is_free = was_stopped
        else:
            reason = boot_reason(was_stopped=was_stopped)
            self.measures.count(Series(f"device.boots.{reason}"))
            self._hour_is_free = reason == "ordered"
        with contextlib.suppress(StoreError):  # a full disk: then the next start knows less
            await self._store.keep_values(KIND, {"boot": boot, "stopped": b"0"})

    async def run(self) -> None:
        """Measure until cancelled; then store what is left.

        Raises:
            LocalSocketError: The socket cannot be opened.
        """
        listener = self._bind()
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._read, listener)
        try:
            await self._measure_in_time()
        finally:
            loop.remove_reader(listener)
            listener.close()
            self._settings.measure_path.unlink(missing_ok=True)
            self._account()
            with contextlib.suppress(StoreError):  # said when it was refused before
                await self.flush()
                await self._store.keep_values(KIND, {"stopped": b"1"})

    def link(self, *, is_connected: bool) -> None:
        """The link to the broker is there, or gone."""
        self._account()
        self._is_connected = is_connected

    async def flush(self) -> None:
        """Make durable what was measured, and have the hub told.

        Raises:
            StoreError: Nothing was stored; it is tried again.
        """
        self._is_urgent = False
        if self._connected_s or self._expected_s:
            self.measures.count(Series("device.connected_s"), self._connected_s)
            self.measures.count(Series("device.expected_s"), self._expected_s)
            self._connected_s = self._expected_s = 0.0
        self._tell_dropped()
        entries = self.measures.entries(self._clock.stamp())
        try:
            await self._documents.measure(entries)
        except BaseException:  # raised again; it must be written another time
            self.measures.unwritten(entries)
            raise
        if entries:
            self._on_written()

    def _tell_dropped(self) -> None:
        """Have the hub told what was not measured: figures that lack something must say so."""
        for why, number in (self.measures.dropped - self._told_dropped).items():
            self.measures.count(Series(f"agent.dropped.{why}"), number)
            self._told_dropped[why] += number

    def take(self, text: str) -> list[str]:
        """Measure lines; return what was wrong with them."""
        self._is_urgent = True
        return take_lines(self.measures, text, self._clock.stamp())

    # Operations of the local socket.

    async def measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `measure`: take lines, and say what was wrong with them; `now` stores at once."""
        lines = request.get("lines", [])
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise BadRequest('"measure" needs "lines", a list of text')
        faults = self.take("\n".join(lines))
        if request.get("now") is True:
            await self.flush()
        return {"faults": faults}

    async def rows(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `measures`: every series of this device, and what was dropped."""
        return {"series": self.measures.rows(), **self.status()}

    def status(self) -> dict[str, Any]:
        """Return how much there is, and what was dropped."""
        return {"measures": self.measures.status()}

    # Inside.

    def _bind(self) -> socket.socket:
        path = self._settings.measure_path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            # The lock on the state folder is held, so what lies there is of an agent that died.
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            listener.bind(os.fspath(path))
            path.chmod(MODE)
        except OSError as error:
            listener.close()
            raise LocalSocketError(
                f"cannot open the socket {path}: {error.strerror or error}; set local_socket"
            ) from None
        listener.setblocking(False)  # noqa: FBT003 - its own form
        return listener

    def _read(self, listener: socket.socket) -> None:
        space = socket.CMSG_SPACE(_CREDENTIALS.size)
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                datagram, extras, flags, _ = listener.recvmsg(DATAGRAM_BYTES_MAX, space)
            except OSError:
                return
            uid = next(
                (
                    _CREDENTIALS.unpack(value[: _CREDENTIALS.size])[1]
                    for level, kind, value in extras
                    if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS
                ),
                -1,
            )
            if uid not in self._uids:
                self.measures.drop("not_allowed")
            elif flags & socket.MSG_TRUNC:
                self.measures.drop("too_long")
            elif self._is_within_rate(datagram.count(b"\n") + 1):
                self.take(datagram.decode(errors="replace"))

    def _is_within_rate(self, lines_count: int) -> bool:
        second = int(self._clock.mono_s())
        if second != self._second:
            self._second, self._second_lines = second, 0
        self._second_lines += lines_count
        if self._second_lines <= LINES_PER_S:
            return True
        self.measures.drop("too_many", lines_count)
        return False

    async def _measure_in_time(self) -> None:
        settings = self._settings
        now = self._clock.mono_s()
        sample_mono = now if settings.vitals_s else inf
        flush_mono, quiet_count = now + settings.measure_flush_s, 0
        while True:
            await asyncio.sleep(max(0.0, min(sample_mono, flush_mono) - self._clock.mono_s()))
            now = self._clock.mono_s()
            if now >= sample_mono:
                sample_mono = now + settings.vitals_s
                await self._sample()
            if now < flush_mono:
                continue
            flush_mono, quiet_count = now + settings.measure_flush_s, quiet_count + 1
            if self._is_urgent or quiet_count >= QUIET_FACTOR:
                quiet_count = 0
                try:
                    await self.flush()
                except StoreError as error:
                    say(logger, "measures_not_stored", level=logging.ERROR, error=error)

    async def _sample(self) -> None:
        restarts = self._vitals.sample(self.measures, self._clock.mono_s())
        if restarts:
            self._hour_is_free = False
        self._account()
        databases = self._settings.measure_databases
        if not databases:
            return
        waits = await in_thread(lambda: lock_waits_s(databases), "lock wait")
        for name, wait_s in waits.items():
            if wait_s is None:
                self.measures.count(Series(f"sqlite.{name}.lock_missed"))
            else:
                self.measures.observe(Series(f"sqlite.{name}.lock_wait_s"), wait_s)

    def _account(self) -> None:
        """Add the time since the last look to what was expected, and if it was, connected."""
        now = self._clock.mono_s()
        elapsed_s, self._since_mono = now - self._since_mono, now
        self._expected_s += elapsed_s
        if self._is_connected:
            self._connected_s += elapsed_s
        self._hour_s += elapsed_s
        while self._hour_s >= HOUR_S:  # full hours only, as Memfault counts them
            self._hour_s -= HOUR_S
            self.measures.count(Series("device.hours"))
            self.measures.count(Series("device.crash_free_hours"), float(self._hour_is_free))
            self._hour_is_free = True
