"""The embedded broker: a real MQTT broker that runs as the hub's child when no other is named.

This module owns its life: start, readiness, restart after a death, stop.
Which program it is and how it is configured is `hub.broker_plan`.
It never speaks for the hub; the hub connects to this broker as to any other.
Its rule: the child listens on loopback only, keeps nothing that matters, and does not outlive the
hub.

Why it keeps nothing: the protocol treats every broker as one that may forget everything (state
vectors decide what is safe, births and group frames are published again on every connect), so a
broker that starts empty after the hub did loses nothing and cannot grow or rot on disk.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from hub.broker_plan import LOOPBACK, STREAMS, BrokerPlan, BrokerProblem, choose, find_candidates
from sync.transport.notify import without_manager

logger = logging.getLogger(__name__)

READY_MAX_S = 30.0
"""Longest time from the start of the program to its first accepted connection."""

PROBE_WAIT_S = 0.05
PROBE_MAX_S = 2.0
STOP_MAX_S = 5.0
"""Time between SIGTERM and SIGKILL."""

RESTART_MIN_S = 0.5
RESTART_MAX_S = 30.0
STABLE_S = 30.0
"""A child that lived this long is restarted as fast as the first time."""

PROBE_EVERY_S = 30.0
DEAF_PROBES_MAX = 3
"""A child that accepts no connection this many times in a row is killed and replaced."""

# CONNECT: MQTT 3.1.1, clean session, keepalive 10 s, client id "probe" (sections 3.1 and 3.2).
_CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x0a\x00\x05probe"
_CONNACK_ACCEPTED = b"\x20\x02\x00\x00"
_DISCONNECT = b"\xe0\x00"

# Runs before the broker, in the new process: asks the kernel to kill it when the hub's thread that
# started it ends (PR_SET_PDEATHSIG is 1; SIGKILL, because a stopped process obeys nothing else),
# and gives up if the hub is gone already. A `preexec_fn` would do the same but may deadlock in a
# process with threads.
_BOUND_TO_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


async def accepts_mqtt(port: int) -> bool:
    """Tell whether an MQTT broker on loopback accepts a connection, by making one."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PROBE_MAX_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(_CONNECT)
            answer = await reader.readexactly(len(_CONNACK_ACCEPTED))
            writer.write(_DISCONNECT)
            await writer.drain()
    except (OSError, EOFError):  # a TimeoutError is an OSError
        return False
    else:
        return answer == _CONNACK_ACCEPTED
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class EmbeddedBroker:
    """The child. Either `run` it in a task, which also restarts it, or `async with` it.

    Args:
        directory: For its configuration, its log and its streams. Streams that a former run left
            there are deleted.
        port: TCP port on loopback; 0 takes a free one.
        plan: What to run; None looks for it.

    Raises:
        BrokerProblem: No broker is installed.
    """

    def __init__(
        self, directory: Path, *, port: int = 1883, plan: BrokerPlan | None = None
    ) -> None:
        self.plan = plan or choose(find_candidates())
        self.port = port
        """Where it listens; known for certain once it is ready."""
        self._directory = directory
        self._child: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        return None if self._child is None else self._child.pid

    async def ready(self) -> None:
        """Wait until it accepts MQTT connections."""
        await self._ready.wait()

    async def run(self) -> None:
        """Run the child, and a new one whenever it dies, until cancelled.

        Raises:
            BrokerProblem: It could not be started the first time: the port is taken, the
                directory cannot be written, or the program does not start.
        """
        loop = asyncio.get_running_loop()
        self._make_directory()
        failure_count = 0
        try:
            while True:
                started_at = loop.time()
                try:
                    await self._start()
                except BrokerProblem as problem:
                    if not failure_count:
                        raise
                    logger.warning("the embedded broker did not come back: %s", problem)
                    await self._stop_child()
                    self._make_directory()  # what it kept may be what stops it
                else:
                    await self._watch()
                failure_count = 1 if loop.time() - started_at >= STABLE_S else failure_count + 1
                await asyncio.sleep(min(RESTART_MAX_S, RESTART_MIN_S * 2 ** min(failure_count, 16)))
        finally:
            await self._stop_child()

    async def __aenter__(self) -> Self:
        """Start it, without watching it, and wait until it is ready."""
        self._make_directory()
        try:
            await self._start()
        except BaseException:  # raised again; a child must not outlive a start that failed
            await self._stop_child()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        await self._stop_child()

    async def _start(self) -> None:
        self.port = _check_port(self.port)
        if not os.access(self.plan.program, os.X_OK):
            raise BrokerProblem(f"{self.plan.program} is not a program that can be run")
        config = self._directory / f"{self.plan.kind.value}.conf"
        log = self._directory / "broker.log"
        try:
            config.write_text(self.plan.build_config(self.port, self._directory))
            with log.open("wb") as output:
                self._child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    _BOUND_TO_PARENT,
                    str(os.getpid()),
                    str(self.plan.program),
                    "-c",
                    str(config),
                    env=without_manager(os.environ),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # Its own session: a Ctrl-C in the terminal is for the hub, which stops it.
                    start_new_session=True,
                )
        except OSError as failure:
            raise BrokerProblem(
                f"{self.plan.kind.value} could not be started: {failure}"
            ) from failure
        await self._wait_until_ready(self._child)
        self._ready.set()
        logger.info(
            "embedded broker: %s on %s:%d, MQTT %s; %s",
            self.plan.kind.value,
            LOOPBACK,
            self.port,
            self.plan.versions,
            self.plan.good_for,
        )

    async def _wait_until_ready(self, child: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(READY_MAX_S):
                while not await accepts_mqtt(self.port):
                    if child.returncode is not None:
                        raise BrokerProblem(
                            f"{self.plan.kind.value} ended at once with code {child.returncode}: "
                            f"{self._last_words()}"
                        )
                    await asyncio.sleep(PROBE_WAIT_S)
        except TimeoutError:
            raise BrokerProblem(
                f"{self.plan.kind.value} accepted no connection on {LOOPBACK}:{self.port} within "
                f"{READY_MAX_S:.0f} s: {self._last_words()}"
            ) from None

    async def _watch(self) -> None:
        child = self._child
        if child is None:
            return
        deaf_count = 0
        while child.returncode is None:
            try:
                async with asyncio.timeout(PROBE_EVERY_S):
                    await child.wait()
            except TimeoutError:
                deaf_count = 0 if await accepts_mqtt(self.port) else deaf_count + 1
                if deaf_count == DEAF_PROBES_MAX:
                    with contextlib.suppress(ProcessLookupError):
                        child.kill()
        code = child.returncode
        self._ready.clear()
        self._child = None
        logger.warning(
            "the embedded broker ended with code %d, starting another: %s", code, self._last_words()
        )

    async def _stop_child(self) -> None:
        self._ready.clear()
        child, self._child = self._child, None
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        # Not `asyncio.timeout`: before Python 3.11.4 it does not end in a task that was cancelled,
        # and a hub that stops cancels this one.
        ended = asyncio.ensure_future(child.wait())
        await asyncio.wait({ended}, timeout=STOP_MAX_S)
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await ended

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._directory / STREAMS, ignore_errors=True)
        except OSError as failure:
            raise BrokerProblem(
                f"the broker's directory {self._directory} cannot be made: {failure}"
            ) from failure

    def _last_words(self) -> str:
        try:
            lines = (self._directory / "broker.log").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1][:300] if lines else "it said nothing"


def _check_port(port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        BrokerProblem: Another program listens there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        # As the broker does: a port that only old connections still linger on is free.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((LOOPBACK, port))
        except OSError as failure:
            raise BrokerProblem(
                f"port {port} on {LOOPBACK} cannot be used for the embedded broker "
                f"({failure.strerror}): stop the program that has it, choose another port, "
                "or name that program as the broker if it is one"
            ) from failure
        taken: int = trial.getsockname()[1]
        return taken
