"""Holding a lock while a command runs: `fieldfare-agent inhibit ... -- COMMAND`.

Owns the lock's connection, which a thread keeps, and the command's life. The lock ends with this
process, whatever ends it.
"""

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from io import BufferedRWPair
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from agent.asking import NoAgent, NoAnswer, ask, connect

TTL_S: Final = 60.0
"""How long the lock outlives a holder that is stopped and cannot renew it."""

RETRY_S: Final = 1.0
"""Wait before an agent that went away is asked again: it may be starting anew."""

LOOK_S: Final = 1.0
"""How often it is looked whether the agent is still there."""

CANNOT_START: Final = 126
"""Exit code of a command that cannot be started, as shells have it."""


class Refused(Exception):
    """The agent does not give the lock; says why."""


class Holder:
    """Holds one lock, renewed, and taken anew from an agent that was restarted."""

    def __init__(
        self,
        path: Path,
        *,
        owner: str,
        reason: str,
        longest_s: float,
        say: Callable[[str], object],
    ) -> None:
        """Hold a lock of the agent that serves `path`; `say` is told in words what goes wrong."""
        self._path = path
        self._wanted = {"op": "inhibit", "owner": owner, "reason": reason}
        self._ends_mono = time.monotonic() + longest_s
        self._say = say
        self._lock = ""
        self._is_over = threading.Event()
        self._is_decided = threading.Event()
        self._refused: str | None = None
        self._thread = threading.Thread(target=self._hold, name="lock", daemon=True)

    def __enter__(self) -> Self:
        """Take the lock.

        An agent that does not run installs nothing; it is asked as soon as it does.

        Raises:
            Refused: The agent does not give it.
        """
        self._thread.start()
        self._is_decided.wait()
        if self._refused is not None:
            self._thread.join()
            raise Refused(self._refused)
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self._is_over.set()
        self._thread.join()

    def _hold(self) -> None:
        while not self._is_over.is_set() and self._refused is None:
            if self._left_s() <= 0:
                self._say("the lock has lasted as long as it may; the command goes on without it")
                return
            try:
                with connect(self._path) as channel, channel.makefile("rwb") as lines:
                    while self._renewed(lines) and not self._is_over.is_set():
                        self._stay(channel)
                    if self._lock and self._is_over.is_set():
                        ask(lines, {"op": "release", "lock": self._lock})
                        return
            except (NoAgent, NoAnswer) as error:
                if not self._is_over.is_set():
                    self._say(f"the lock is not held now: {error}")
            self._is_decided.set()
            self._is_over.wait(RETRY_S)

    def _renewed(self, lines: BufferedRWPair) -> bool:
        """Take the lock, or keep it; False if it has to be tried over another connection."""
        left_s = self._left_s()
        if left_s <= 0:
            return False
        wanted: dict[str, Any] = {**self._wanted, "ttl_s": min(TTL_S, left_s)}
        known = {"lock": self._lock} if self._lock else {}
        answer = ask(lines, wanted | known)
        if not answer.get("ok") and known:
            answer = ask(lines, wanted)  # it has ended meanwhile; take another
        if answer.get("ok"):
            self._lock = str(answer["lock"])
        elif not self._is_decided.is_set():
            self._refused = str(answer.get("error"))
        else:
            self._say(f"the lock is not held now: {answer.get('error')}")
        self._is_decided.set()
        return bool(answer.get("ok"))

    def _stay(self, channel: socket.socket) -> None:
        """Return when the lock is to be renewed, or nobody needs it any more.

        Raises:
            NoAnswer: The agent went away.
        """
        renew_mono = time.monotonic() + TTL_S / 3
        while time.monotonic() < renew_mono and not self._is_over.wait(LOOK_S):
            if select.select([channel], [], [], 0)[0]:
                raise NoAnswer("the agent has stopped")

    def _left_s(self) -> float:
        return self._ends_mono - time.monotonic()


def run(command: Sequence[str]) -> int:
    """Run a command and return its exit code, 128 and the signal's number if a signal ended it.

    SIGTERM is passed on; Ctrl-C reaches the command by itself.
    """
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        os.write(2, f"fieldfare-agent: {command[0]} cannot be started: {error}\n".encode())
        return CANNOT_START

    def pass_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        while True:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                continue  # it got the signal too, and decides what that means
            return code if code >= 0 else 128 - code
    finally:
        signal.signal(signal.SIGTERM, before)
