"""Flags on this device: reading them, what that leaves behind, and how long they hold.

Owns the operations behind the local socket and the writing of exposures and of what was obeyed.
What a flag comes to is `agent.deciding`'s, which orders there are is `agent.kills`'.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent import lease, obeying
from agent.clock import Clock
from agent.daytime import believed_utc_s
from agent.deciding import Decision, Held, decide, held
from agent.documents import Documents
from agent.exposures import READER, Exposures
from agent.facts import AGENT_VERSION
from agent.kills import Kills
from agent.local import BadRequest
from agent.log import say
from agent.settings import Settings
from agent.store import Store, StoreError
from sync import documents as names
from sync import records
from sync.flags import BadFlag, check_flag_key
from sync.records import Exposure, Flag, Obeyed, Running
from sync.targeting import TARGETING_KEY

logger = logging.getLogger(__name__)

KIND: Final = "silence"
"""Under which the hub's silence is stored; never reuse it."""

OWN_READER: Final = f"agent@{AGENT_VERSION}"

ASK_RATIO: Final = 0.5
"""So much of the shortest lease may pass before the device asks the hub for a word."""

KEEP_RATIO: Final = 0.25
"""So much of the shortest lease may pass unwritten: short leases cost writes."""

CONTEXT_MAX: Final = 50
"""Attributes that an application may add to what a flag's targeting can ask for."""


class Flags:
    """The flags of this device."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        documents: Documents,
        kills: Kills,
        clock: Clock,
        *,
        on_written: Callable[[], None],
    ) -> None:
        """`load` comes first; `on_written` is called when there is something to tell the hub."""
        self._settings = settings
        self._store = store
        self._documents = documents
        self._kills = kills
        self._clock = clock
        self._on_written = on_written
        self._exposures = Exposures()
        self._parsed: dict[str, tuple[Flag, Held]] = {}
        self._silence = lease.silence(0, clock.stamp())
        self._kept = self._silence
        self._is_kept = False
        self._looks = asyncio.Event()

    async def load(self) -> None:
        """Read how long the hub had been silent, and carry it on.

        Raises:
            StoreError: The store cannot be read.
        """
        stored = (await self._store.kept(KIND)).get(KIND)
        self._silence = self._kept = lease.restored(stored, self._clock.stamp())
        await self._keep()  # also without flags: one may come just before the power goes

    # Reading.

    def decide(
        self, key: str, reader: str = OWN_READER, context: Mapping[str, Any] | None = None
    ) -> Decision:
        """Return what a flag comes to now, and remember that it was read."""
        now = self._clock.stamp()
        found = decide(
            key,
            self.held().get(key),
            is_killed=key in self._kills.flags(),
            silent_ms=self._silence.at(now),
            context={**(context or {}), **self.context()},
            now_s=believed_utc_s(now, floor_s=0, hub_ms=self._documents.hub_now_ms(now)),
        )
        known = records.select(Exposure, names.EXPOSURE, self._documents.reported())
        if self._exposures.read(key, found, reader, known=known, now=now):
            self._on_written()
        return found

    def is_on(self, key: str, *, default: bool) -> bool:
        """Tell whether one of the agent's own features is on; `default` if nobody defined a flag.

        What is killed without ever having been defined is off.
        """
        found = self.decide(key)
        if isinstance(found.value, bool):
            return found.value
        return default and key not in self._kills.flags()

    def held(self) -> dict[str, Held]:
        """Return the flags that operators have defined, of several groups' the latest."""
        latest: dict[str, Flag] = {}
        for values in self._documents.wanted().values():
            for key, flag in records.select(Flag, names.FLAG, values).items():
                if key not in latest or latest[key].clock < flag.clock:
                    latest[key] = flag
        for gone in self._parsed.keys() - latest.keys():
            del self._parsed[gone]
        for key, flag in latest.items():
            known = self._parsed.get(key)
            if flag.definition is None:
                self._parsed.pop(key, None)
            elif known is None or known[0] != flag:
                self._parsed[key] = (flag, held(flag.definition, flag.clock))
        return {key: parsed for key, (_, parsed) in sorted(self._parsed.items())}

    def context(self) -> dict[str, Any]:
        """Return what the targeting of every flag may ask for."""
        running = records.select(Running, names.VERSION, self._documents.reported())
        return {
            **self._settings.labels,
            TARGETING_KEY: self._settings.device,
            "class": self._settings.device_class,
            "groups": list(self._settings.groups),
            "agent": AGENT_VERSION,
            "versions": {
                component: record.version
                for component, record in sorted(running.items())
                if record.healthy
            },
        }

    # The local socket.

    async def flag(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `flag`: what one flag comes to."""
        key, reader = request.get("key"), request.get("reader", "")
        context = request.get("context", {})
        if not isinstance(key, str):
            raise BadRequest('"flag" needs a "key"')
        if not isinstance(reader, str) or (reader and not READER.match(reader)):
            raise BadRequest('"reader" must be a name such as app@1.4.0')
        if not isinstance(context, dict) or len(context) > CONTEXT_MAX:
            raise BadRequest(f'"context" must be an object of at most {CONTEXT_MAX} attributes')
        try:
            found = self.decide(check_flag_key(key), reader, context)
        except BadFlag as error:
            raise BadRequest(str(error)) from None
        return {"key": key, **_row(found)}

    async def flags(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `flags`: every flag, its state, and how long the hub has been silent.

        Looking is not reading: nothing of it is told to the hub.
        """
        now = self._clock.stamp()
        silent_ms, killed, context = self._silence.at(now), self._kills.flags(), self.context()
        now_s = believed_utc_s(now, floor_s=0, hub_ms=self._documents.hub_now_ms(now))
        rows = []
        all_held = self.held()
        for key in sorted(all_held.keys() | killed):
            flag = all_held.get(key)
            found = decide(
                key,
                flag,
                is_killed=key in killed,
                silent_ms=silent_ms,
                context=context,
                now_s=now_s,
            )
            known = None if flag is None else flag.definition
            rows.append(
                {
                    "key": key,
                    **_row(found),
                    "lease_s": 0 if known is None else known.lease_s,
                    "killed": key in killed,
                }
            )
        return {"flags": rows, "silent_s": round(silent_ms / 1000, 1)}

    def snapshot(self) -> dict[str, Any]:
        """Return what another process needs to come to the same decisions, also without us."""
        self.held()
        return {
            "definitions": {
                key: {"definition": flag.definition, "clock": flag.clock}
                for key, (flag, _) in sorted(self._parsed.items())
            },
            "killed": sorted(self._kills.flags()),
            "context": self.context(),
            "silence": {
                "boot": self._kept.boot.hex(),
                "boottime_ms": self._kept.boottime_ms,
                "silent_ms": self._kept.silent_ms,
            },
        }

    # The lease.

    async def heard(self) -> bool:
        """A message came to this device itself; returns whether watchers should be told.

        A message may have waited in the broker, so what counts is when the hub sent it, as far as
        others of the last hour tell (`agent.daytime.HubTime`).
        """
        now = self._clock.stamp()
        hub_ms = self._documents.hub_now_ms(now)
        if hub_ms is None:
            return False
        age_ms = max(0, hub_ms - self._documents.word_sent_ms)
        before_ms = self._silence.at(now)
        if age_ms >= before_ms:
            return False
        self._silence = lease.silence(age_ms, now, self._within_ms())
        self._looks.set()
        if self._shortest_ms() is None or self._kept.at(now) - age_ms < self._within_ms():
            return False
        await self._keep()
        return True

    async def watch_lease(self, ask: Callable[[], Any]) -> None:
        """Ask the hub for a word in time, write its silence down, and tell when a lease has ended.

        `ask` is called, and awaited, when half of the shortest lease has passed.
        """
        asked_at_ms = 0
        while True:
            now = self._clock.stamp()
            silent_ms, shortest_ms = self._silence.at(now), self._shortest_ms()
            wait_s: float | None = None
            if shortest_ms is not None:
                if self._kept.at(now) - self._kept.silent_ms >= self._within_ms() or (
                    not self._is_kept
                ):
                    await self._keep()
                    self._on_written()  # who watches learns how long it has been
                if silent_ms < asked_at_ms:
                    asked_at_ms = 0
                if silent_ms >= max(ASK_RATIO * shortest_ms, 2 * asked_at_ms):
                    asked_at_ms = silent_ms
                    await ask()
                wait_s = self._next_look_s(silent_ms, shortest_ms, asked_at_ms)
            if self.owes():
                self._on_written()
            self._looks.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._looks.wait()
            except TimeoutError:
                continue

    def look(self) -> None:
        """Flags may have changed, and with them how long there is to wait."""
        self._looks.set()

    def _next_look_s(self, silent_ms: int, shortest_ms: int, asked_at_ms: int) -> float:
        ends = [
            1000 * each.definition.lease_s
            for each in self.held().values()
            if each.definition is not None
        ]
        marks = [*ends, round(max(ASK_RATIO * shortest_ms, 2 * asked_at_ms))]
        ahead = [mark - silent_ms for mark in marks if mark > silent_ms]
        return max(0.001, min([*ahead, self._within_ms()]) / 1000)

    def _shortest_ms(self) -> int | None:
        leases = [
            1000 * each.definition.lease_s
            for each in self.held().values()
            if each.definition is not None and each.definition.lease_s
        ]
        return min(leases, default=None)

    def _within_ms(self) -> int:
        shortest_ms = self._shortest_ms()
        if shortest_ms is None:
            return lease.WITHIN_MS
        return min(lease.WITHIN_MS, round(KEEP_RATIO * shortest_ms))

    async def _keep(self) -> None:
        """Write the silence down; a full disk is no reason to forget it in this start."""
        now = self._clock.stamp()
        self._silence = self._kept = lease.silence(self._silence.at(now), now, self._within_ms())
        try:
            await self._store.keep_values(KIND, {KIND: lease.encode(self._kept)})
            self._is_kept = True
        except StoreError as error:
            say(logger, "silence_not_stored", level=logging.WARNING, error=error)

    # What is told to the hub.

    def owes(self) -> bool:
        """Tell whether there is something that the hub was not told yet."""
        return bool(self._exposures.due() or self._obeyed())

    async def settle(self) -> None:
        """Write what was read and what is obeyed, durably; a full disk puts it off."""
        exposures, obeyed = self._exposures.due(), self._obeyed()
        entries = {names.EXPOSURE + key: records.encode(each) for key, each in exposures.items()}
        entries |= {names.OBEYED + what: records.encode(each) for what, each in obeyed.items()}
        try:
            await self._documents.write(entries)
        except StoreError as error:
            say(logger, "flags_not_told", level=logging.WARNING, error=error)
            return
        self._exposures.written(exposures)
        for what, record in obeyed.items():
            say(logger, "obeyed", what=what, how=record.how, detail=record.detail)

    def _obeyed(self) -> dict[str, Obeyed]:
        now = self._clock.stamp()
        return obeying.due(
            self._kills.orders(),
            self.held(),
            self._silence.at(now),
            stages=self._documents.stages,
            told=records.select(Obeyed, names.OBEYED, self._documents.reported()),
            now=now,
        )


def _row(found: Decision) -> dict[str, Any]:
    return {
        "value": found.value,
        "variant": found.variant,
        "reason": found.reason.value,
        "detail": found.detail,
    }
