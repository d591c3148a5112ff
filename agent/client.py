"""For applications: count, observe, tell of outcomes. Standard library alone; never blocks.

Owns the application's side of `measure.sock`. Every call is one datagram to the agent on this
device; the agent keeps, merges and sends. If there is no agent, or it does not keep up, a call is
dropped and counted, and the count is told with the next one that passes.

    from agent.client import Client
    measure = Client(release="app@1.4.0")
    measure.count("door.opened")
    measure.observe("door.open_s", 0.31)

One object may be used by several threads. Nothing here raises for what happens at the other end.
"""

import os
import socket
import time
from typing import Final

DEFAULT_PATH: Final = "/var/lib/fieldfare/measure.sock"

PATH_VARIABLE: Final = "FIELDFARE_MEASURE_SOCKET"

RETRY_S: Final = 1.0
"""How long calls are dropped at once after the agent could not be reached."""

LINE_BYTES_MAX: Final = 1024


class Client:
    """An application's own way to the agent on its device."""

    def __init__(self, path: str = "", *, release: str = "", variant: str = "") -> None:
        """Measure for `release` (component@version), and `variant` (flag=variant) if one is on.

        `path` is that of the agent's `measure.sock`; if it is not given, the variable
        `FIELDFARE_MEASURE_SOCKET` or else the place where a packaged agent has it.
        """
        self._path = path or os.environ.get(PATH_VARIABLE) or DEFAULT_PATH
        self._socket: socket.socket | None = None
        self._retry_mono = 0.0
        self._untold = 0
        self._suffix = (f" release={release}" if release else "") + (
            f" variant={variant}" if variant else ""
        )
        self.dropped_count = 0
        """Calls that did not reach the agent since this object was made."""

    def count(self, metric: str, number: float = 1) -> None:
        """Add to a counter, which only grows."""
        self._send(f"count {metric} {number!r}{self._suffix}")

    def observe(self, metric: str, value: float) -> None:
        """Add one observation to a histogram: a duration, a size."""
        self._send(f"observe {metric} {value!r}{self._suffix}")

    def gauge(self, metric: str, value: float) -> None:
        """Set what is so now: a level, a temperature."""
        self._send(f"gauge {metric} {value!r}{self._suffix}")

    def event(self, code: str, detail: str = "") -> None:
        """Tell that something went wrong that broke nothing."""
        self._send(f"event {code}{self._suffix}{_detail(detail)}")

    def outcome(self, intent: str, intended: str, reached: str = "", detail: str = "") -> None:
        """Tell what was intended and what was reached; call it again when more is known."""
        self._send(f"outcome {intent} {intended} {reached}{self._suffix}{_detail(detail)}")

    def case(self, intent: str, *, human: bool, detail: str = "") -> None:
        """Tell who brought an intent to its end: the machine, or a person."""
        by = "human" if human else "automatic"
        self._send(f"case {intent} {by}{self._suffix}{_detail(detail)}")

    def close(self) -> None:
        """Let go of the socket; a later call opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, line: str) -> None:
        encoded = line.encode(errors="replace")
        if len(encoded) > LINE_BYTES_MAX or b"\n" in encoded:
            self.dropped_count += 1
            self._untold += 1
            return
        untold = self._untold
        if untold:
            encoded += b"\ndropped %d" % untold
        try:
            channel = self._socket
            if channel is None:
                channel = self._connect()
            channel.send(encoded)
            self._untold -= untold
        except OSError as error:
            self.dropped_count += 1
            self._untold += 1
            if not isinstance(error, BlockingIOError):  # then the agent is gone, not only busy
                self.close()
                if time.monotonic() >= self._retry_mono:
                    self._retry_mono = time.monotonic() + RETRY_S

    def _connect(self) -> socket.socket:
        if time.monotonic() < self._retry_mono:
            raise ConnectionRefusedError
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        channel.setblocking(False)  # noqa: FBT003 - its own form
        try:
            channel.connect(self._path)
        except OSError:
            channel.close()
            raise
        self._socket = channel
        return channel


def _detail(text: str) -> str:
    return f" detail={' '.join(text[:200].split())}" if text else ""
