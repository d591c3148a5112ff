"""Flags through OpenFeature: what an application plugs into its SDK (extra `[openfeature]`).

Owns the provider. It is told of definitions, orders and the hub's silence over the agent's local
socket and evaluates in the application's own process, so that a flag costs no question and the
application keeps its flags, its kill orders and the end of its leases while the agent is away.
The agent itself never imports this.

    from openfeature import api
    from agent.openfeature import FieldfareProvider
    api.set_provider(FieldfareProvider(reader="app@1.4.0"))
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from agent.asking import LINE_BYTES_MAX, NoAgent, NoAnswer, answer_in, ask, connect
from agent.clock import Clock, SystemClock
from agent.daytime import believed_utc_s
from agent.deciding import Decision, Held, decide, held
from agent.lease import Silence
from sync.flags import Why

SOCKET: Final = Path("/var/lib/fieldfare/agent.sock")
READY_S: Final = 5.0
"""How long an application waits at its start for an agent to answer."""

AGAIN_FIRST_S: Final = 0.5
AGAIN_LONGEST_S: Final = 30.0

REPORTS_MAX: Final = 100
"""What was read and the agent does not know of yet; more is dropped."""

T = TypeVar("T", bound=FlagValueType | Sequence[FlagValueType] | Mapping[str, FlagValueType])


@dataclass(frozen=True, slots=True)
class Known:
    """What the agent told last."""

    texts: Mapping[str, tuple[str, int]]
    flags: Mapping[str, Held]
    killed: frozenset[str]
    context: Mapping[str, Any]
    silence: Silence


def known_from(answer: Mapping[str, Any], before: Known | None) -> Known:
    """Return what a line of the agent tells; definitions that have not changed are not read anew.

    Raises:
        ValueError, KeyError, TypeError: It is no such line.
    """
    texts = {
        key: (str(row["definition"]), int(row["clock"]))
        for key, row in answer["definitions"].items()
    }
    flags = {
        key: before.flags[key]
        if before is not None and before.texts.get(key) == text
        else held(*text)
        for key, text in texts.items()
    }
    told = answer["silence"]
    silent = Silence(
        bytes.fromhex(told["boot"]), int(told["boottime_ms"]), int(told["silent_ms"]), 0, 0
    )
    return Known(texts, flags, frozenset(answer["killed"]), answer["context"], silent)


def changed(before: Known | None, after: Known) -> list[str]:
    """Return the flags that may come to something else now."""
    if before is None:
        return sorted(after.texts)
    keys = before.texts.keys() | after.texts.keys()
    differ = {key for key in keys if before.texts.get(key) != after.texts.get(key)}
    return sorted(differ | (before.killed ^ after.killed))


class FieldfareProvider(AbstractProvider):
    """The flags of this device."""

    def __init__(
        self,
        path: Path = SOCKET,
        *,
        reader: str = "",
        ready_s: float = READY_S,
        clock: Clock | None = None,
    ) -> None:
        """Follow the agent that serves `path`; wait `ready_s` at most for it at the start.

        `reader` is the application's name and version, `app@1.4.0`; the hub shows who reads a flag.
        """
        super().__init__()
        self._path = path
        self._reader = reader
        self._ready_s = ready_s
        self._clock = clock or SystemClock()
        self._known: Known | None = None
        self._has_known = threading.Event()
        self._is_over = threading.Event()
        self._is_late = False
        """Whether the application began without an agent."""
        self._lock = threading.Lock()
        self._channels: set[socket.socket] = set()
        """Those that somebody reads from; shut down, they end the wait."""
        self._shown: set[tuple[str, int, str, str]] = set()
        self._reports: dict[tuple[str, int, str, str], dict[str, Any]] = {}
        self._has_reports = threading.Event()
        self._threads: list[threading.Thread] = []

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata("fieldfare")

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Begin to follow the agent; wait a moment for it to answer.

        Raises:
            ProviderNotReadyError: None did. It is followed as soon as there is one; until then
                every flag is what the application takes for its default.
        """
        del evaluation_context
        for work, name in ((self._follow, "flags"), (self._report, "readings")):
            thread = threading.Thread(target=work, name=f"fieldfare {name}", daemon=True)
            self._threads.append(thread)
            thread.start()
        if not self._has_known.wait(self._ready_s):
            self._is_late = True
            raise ProviderNotReadyError(f"no agent answers on {self._path}")

    def shutdown(self) -> None:
        """Stop following."""
        self._is_over.set()
        self._has_reports.set()
        with self._lock:
            for channel in self._channels:
                with contextlib.suppress(OSError):
                    channel.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    # Evaluation: no socket, no disk, no exception; an SDK logs each with a traceback.

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001 - OpenFeature's signature
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """Return what a boolean flag comes to."""
        return self._resolve(flag_key, default_value, evaluation_context, _boolean)

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        """Return what a flag of texts comes to."""
        return self._resolve(flag_key, default_value, evaluation_context, _string)

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[int]:
        """Return what a flag of whole numbers comes to."""
        return self._resolve(flag_key, default_value, evaluation_context, _integer)

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        """Return what a flag of numbers comes to."""
        return self._resolve(flag_key, default_value, evaluation_context, _float)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """Return what a flag of objects comes to."""
        return self._resolve(flag_key, default_value, evaluation_context, _object)

    def _resolve(
        self,
        key: str,
        default: T,
        asked: EvaluationContext | None,
        read: Callable[[Any], T | None],
    ) -> FlagResolutionDetails[T]:
        known = self._known
        if known is None:
            return _failed(default, ErrorCode.PROVIDER_NOT_READY, "no agent has answered yet")
        context = dict(asked.attributes) if asked is not None else {}
        now = self._clock.stamp()
        found = decide(
            key,
            known.flags.get(key),
            is_killed=key in known.killed,
            silent_ms=known.silence.at(now),
            context={**context, **known.context},
            now_s=believed_utc_s(now, floor_s=0, hub_ms=None),
        )
        self._note(key, found, context)
        if found.value is None:
            if found.reason is Why.ERROR:
                return _failed(default, ErrorCode.PARSE_ERROR, found.detail)
            return FlagResolutionDetails(default, reason=Reason(found.reason.value))
        value = read(found.value)
        if value is None:
            kind = type(found.value).__name__
            return _failed(default, ErrorCode.TYPE_MISMATCH, f"{key} holds a {kind}")
        flag = known.flags[key].definition
        return FlagResolutionDetails(
            value,
            variant=found.variant,
            reason=Reason(found.reason.value),
            flag_metadata={} if flag is None else flag.metadata,
        )

    def _note(self, key: str, found: Decision, context: Mapping[str, Any]) -> None:
        """Remember to tell the agent of the first time that a flag came to this."""
        mark = (key, found.clock, found.variant, found.reason.value)
        if mark in self._shown:
            return
        with self._lock:
            if mark in self._shown or len(self._reports) >= REPORTS_MAX:
                return
            if len(self._shown) >= 10 * REPORTS_MAX:
                self._shown.clear()
            self._shown.add(mark)
            self._reports[mark] = {
                "op": "flag",
                "key": key,
                "reader": self._reader,
                "context": {name: value for name, value in context.items() if _is_plain(value)},
            }
        self._has_reports.set()

    # Following.

    def _follow(self) -> None:
        wait_s = AGAIN_FIRST_S
        while not self._is_over.is_set():
            try:
                if self._watch():
                    wait_s = AGAIN_FIRST_S
            except (NoAgent, NoAnswer, OSError, ValueError, KeyError, TypeError, AttributeError):
                pass  # no agent, or none that we understand: what is known stays
            if self._known is not None and not self._is_over.is_set():
                self.emit_provider_stale(ProviderEventDetails(message="the agent is away"))
            self._is_over.wait(wait_s)
            wait_s = min(2 * wait_s, AGAIN_LONGEST_S)

    def _watch(self) -> bool:
        """Follow one connection to its end; returns whether it told anything."""
        has_told = False
        with self._connected() as channel, channel.makefile("rwb") as lines:
            channel.settimeout(None)
            lines.write(b'{"op":"watch","what":"flags"}\n')
            lines.flush()
            while line := lines.readline(LINE_BYTES_MAX):
                self._learn(answer_in(line), is_first=not has_told)
                has_told = True
        return has_told

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        """Give a connection to the agent, which `shutdown` ends.

        Raises:
            NoAgent: There is none, or this is over.
        """
        with connect(self._path) as channel:
            with self._lock:
                if self._is_over.is_set():
                    raise NoAgent("the application shuts down")
                self._channels.add(channel)
            try:
                yield channel
            finally:
                with self._lock:
                    self._channels.discard(channel)

    def _learn(self, answer: Mapping[str, Any], *, is_first: bool) -> None:
        before = self._known
        self._known = known_from(answer, before)
        self._has_known.set()
        if is_first and (self._is_late or before is not None):
            self.emit_provider_ready(ProviderEventDetails())
        keys = changed(before, self._known)
        if keys:
            self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=keys))

    def _report(self) -> None:
        """Let the agent evaluate what was read here, so that the hub learns of it."""
        wait_s = AGAIN_FIRST_S
        while not self._is_over.is_set():
            self._has_reports.wait()
            self._has_reports.clear()
            for mark, request in list(self._reports.items()):
                try:
                    with self._connected() as channel, channel.makefile("rwb") as lines:
                        ask(lines, request)
                except (NoAgent, NoAnswer):
                    self._has_reports.set()
                    self._is_over.wait(wait_s)
                    wait_s = min(2 * wait_s, AGAIN_LONGEST_S)
                    break
                wait_s = AGAIN_FIRST_S
                with self._lock:
                    self._reports.pop(mark, None)


def _failed(default: T, code: ErrorCode, message: str) -> FlagResolutionDetails[T]:
    return FlagResolutionDetails(
        default, reason=Reason.ERROR, error_code=code, error_message=message
    )


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _object(value: Any) -> Mapping[str, FlagValueType] | None:
    return value if isinstance(value, dict) else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int) or (isinstance(value, float) and value == value)  # noqa: PLR0124 - not a number
