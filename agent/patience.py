"""Waiting with a deployment: asked before each act whether it may begin.

Owns the shell around `agent.deferral`: gathers the facts, keeps what was waited durable, and tells
the hub. Decides nothing, and holds nobody up: what has to wait is put aside, so that another
deployment can go on meanwhile.

Rule: what a wait is about is durable before it begins, and the stage `DEFERRED` with it. A restart
goes on waiting where it was; it neither begins the budget anew nor skips the wait.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from agent import waited as counts
from agent.clock import Clock
from agent.daytime import believed_utc_s, zone_named
from agent.deferral import (
    Busy,
    Decision,
    Facts,
    GiveUp,
    Go,
    Kind,
    Overdue,
    Phase,
    Policy,
    Wait,
    decide,
)
from agent.documents import Documents
from agent.inhibitors import Lock
from agent.log import say
from agent.settings import Settings
from agent.store import Store
from agent.strain import read_strain
from agent.threads import in_thread
from agent.waited import Waited
from firmware_hooks.contract import InstallerError
from sync import documents as names
from sync import records
from sync.calendar import BadCalendar, parse_windows
from sync.manifest import Manifest
from sync.records import Terms, Waiting
from sync.stages import Reason, Stage

logger = logging.getLogger(__name__)

KIND: Final = "deferral"
"""Under which waits are stored; never reuse it."""

NOTE_MS: Final = 300_000
"""How much of a wait a power cut may make forget."""

BUSY_MIN_S: Final = 1.0
"""An installer is not asked again sooner than that, whatever it says."""

MOVED_S: Final = 90
"""By how much the expected end has to move to be told anew."""


class PutAside(Exception):
    """The deployment has to wait. Nothing was changed; it is taken up again when it may go on."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What the last look at a waiting deployment has shown."""

    phase: Phase
    wait: Wait
    policy: Policy
    own: Policy
    """The same without what an operator said."""
    again_mono: float = 0.0
    """When it is looked at again, if nothing happens before."""


class Patience:
    """Lets acts begin when they may."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        documents: Documents,
        clock: Clock,
        *,
        locks: Callable[[], tuple[Lock, ...]] = tuple,
        on_written: Callable[[], None] = lambda: None,
        root: Path = Path("/"),
    ) -> None:
        """`load` comes first.

        `locks` are those that count now; below `root` lie the files about battery and load.
        """
        self._settings = settings
        self._store = store
        self._documents = documents
        self._clock = clock
        self._locks = locks
        self._on_written = on_written
        self._root = root
        self._own = policy_of(settings)
        self._waited: dict[str, Waited] = {}
        self._busy: dict[str, Busy] = {}
        self.looked: dict[str, Looked] = {}
        """What waits now, by deployment."""

    async def load(self) -> None:
        """Read what was waited before a restart."""
        stored = await self._store.kept(KIND)
        found = {name: counts.decode(value) for name, value in stored.items()}
        self._waited = {name: each for name, each in found.items() if each is not None}

    def waited(self, deployment: str) -> Waited | None:
        """Return what a deployment has waited, None if it never did."""
        return self._waited.get(deployment)

    def counted_s(self, deployment: str) -> float:
        """Return for how many seconds a deployment has waited altogether."""
        now = self._clock.stamp()
        held = self._waited.get(deployment, Waited())
        return held.counted_ms(now, self._hub_s()) / 1000

    def asked(self, deployment: str, detail: str, wait_s: float) -> None:
        """An installer asked to be called again later."""
        until_ms = self._clock.stamp().boottime_ms + round(max(BUSY_MIN_S, wait_s) * 1000)
        self._busy[deployment] = Busy(detail[:120], until_ms)

    async def leave(self, deployment: str, phase: Phase, manifest: Manifest | None = None) -> None:
        """Return if an act may begin now. `manifest` is the release's, once it is here.

        Raises:
            PutAside: It has to wait, and the wait is durable; `looked` says why.
            InstallerError: It has waited as long as it may.
            StoreError: The wait cannot be made durable.
        """
        own = self._own if manifest is None else as_released(self._own, manifest)
        policy, found = await self._decide(deployment, phase, own)
        match found:
            case Wait():
                await self._wait(deployment, Looked(phase, found, policy, own))
                raise PutAside(deployment)
            case GiveUp():
                await self._end(deployment, "")
                waited_s = round(self.counted_s(deployment))
                raise InstallerError(
                    Reason.DEFERRED_TOO_LONG,
                    f"it has waited for {waited_s} s: {found.detail}"[:200],
                )
            case Go():
                await self._end(deployment, _passed_over(found))

    async def still_waits(self, deployment: str) -> bool:
        """Look again at what was put aside; False if it is to be taken up.

        Raises:
            StoreError: The wait cannot be made durable.
        """
        looked = self.looked.get(deployment)
        if looked is None:
            return False
        policy, found = await self._decide(deployment, looked.phase, looked.own)
        if not isinstance(found, Wait):
            return False
        await self._wait(deployment, replace(looked, wait=found, policy=policy))
        return True

    def next_look_s(self) -> float | None:
        """Return in how many seconds to look again at what waits, None if nothing does."""
        again = [each.again_mono for each in self.looked.values()]
        return max(0.0, min(again) - self._clock.mono_s()) if again else None

    async def tidy(self, open_deployments: Collection[str]) -> None:
        """Forget waits with deployments that have ended or are gone, and tell the hub.

        Raises:
            StoreError: Not all of it was written; it is done another time.
        """
        told = records.select(Waiting, names.WAITING, self._documents.reported())
        for name in [*self.looked, *self._busy]:
            if name not in open_deployments:
                self.looked.pop(name, None)
                self._busy.pop(name, None)
        over = [name for name, each in told.items() if each.reason and name not in open_deployments]
        for name in over:
            await self._tell_over(name, told[name], "")
        gone = [name for name in self._waited if name not in open_deployments]
        if gone:
            await self._store.keep_values(KIND, dict.fromkeys(gone))
            for name in gone:
                del self._waited[name]

    # Parts.

    async def _wait(self, deployment: str, looked: Looked) -> None:
        now, hub_s = self._clock.stamp(), self._hub_s()
        held = self._waited.get(deployment, Waited())
        again_mono = self._clock.mono_s() + looked.wait.next_look_s
        self.looked[deployment] = replace(looked, again_mono=again_mono)
        is_new = not held.is_waiting
        if is_new or now.boot != held.boot or now.boottime_ms - held.from_ms >= NOTE_MS:
            held = held.begun(now, hub_s)
            await self._store.keep_values(KIND, {deployment: msgspec.msgpack.encode(held)})
            self._waited[deployment] = held
        await self._tell(deployment, held, looked.wait, looked.policy)

    async def _tell(self, deployment: str, held: Waited, wait: Wait, policy: Policy) -> None:
        """Record the stage, and why it waits now, if that is news."""
        boot, boottime_ms, wall_ms = held.since
        record = Waiting(
            boot,
            boottime_ms,
            wall_ms,
            wait.reason.value,
            wait.text[:200],
            until_ms=(wait.until_s or 0) * 1000,
            left_s=round(wait.left_s),
            overdue=policy.overdue.value,
        )
        known = self._told(deployment)
        if known is None or not known.reason or _is_news(known, record, wait):
            # The stage first: without it the record would explain nothing.
            await self._documents.acknowledge(
                deployment, Stage.DEFERRED, reason=record.reason, detail=record.detail
            )
            await self._documents.write({names.WAITING + deployment: records.encode(record)})
            say(
                logger,
                "waits",
                deployment=deployment,
                reason=record.reason,
                detail=record.detail,
                left_s=record.left_s,
            )
            self._on_written()

    async def _decide(self, deployment: str, phase: Phase, own: Policy) -> tuple[Policy, Decision]:
        policy = with_terms(own, terms_of(self._documents.wanted().values(), deployment))
        return policy, decide(policy, await self._facts(deployment), phase)

    async def _end(self, deployment: str, passed_over: str) -> None:
        self.looked.pop(deployment, None)
        self._busy.pop(deployment, None)
        held = self._waited.get(deployment)
        if held is not None and held.is_waiting:
            held = held.ended(self._clock.stamp(), self._hub_s())
            await self._store.keep_values(KIND, {deployment: msgspec.msgpack.encode(held)})
            self._waited[deployment] = held
        known = self._told(deployment)
        if known is not None and known.reason:
            await self._tell_over(deployment, known, passed_over)
        elif passed_over and known is None:
            now = self._clock.stamp()
            first = Waiting(now.boot, now.boottime_ms, now.wall_ms, "")
            await self._tell_over(deployment, first, passed_over)

    async def _tell_over(self, deployment: str, known: Waiting, passed_over: str) -> None:
        record = msgspec.structs.replace(
            known, reason="", detail=passed_over, until_ms=0, left_s=0, overdue=""
        )
        await self._documents.write({names.WAITING + deployment: records.encode(record)})
        say(logger, "waits_no_more", deployment=deployment, passed_over=passed_over)
        self._on_written()

    def _told(self, deployment: str) -> Waiting | None:
        key = names.WAITING + deployment
        return records.select(Waiting, key, self._documents.reported()).get("")

    async def _facts(self, deployment: str) -> Facts:
        strain = await in_thread(
            partial(read_strain, self._root, self._settings.install_dir), "strain"
        )
        now = self._clock.stamp()
        hub_ms = self._documents.hub_now_ms(now)
        return Facts(
            now=now,
            utc_s=believed_utc_s(now, floor_s=self._documents.hub_ms // 1000, hub_ms=hub_ms),
            strain=strain,
            locks=self._locks(),
            busy=self._busy.get(deployment),
            waited_s=self.counted_s(deployment),
        )

    def _hub_s(self) -> int | None:
        hub_ms = self._documents.hub_now_ms(self._clock.stamp())
        return None if hub_ms is None else hub_ms // 1000


def policy_of(settings: Settings) -> Policy:
    """Return what the device's settings ask for."""
    windows = parse_windows(settings.maintenance_windows)
    return Policy(
        windows=(windows,) if windows else (),
        zone=zone_named(settings.time_zone),
        window_from=Phase(settings.maintenance_from),
        window_left_s=settings.maintenance_left_s,
        battery_min_ratio=settings.battery_min_ratio,
        load_max_ratio=settings.load_max_ratio,
        free_min_bytes=settings.free_min_bytes,
        budget_s=settings.defer_budget_s,
        overdue=Overdue(settings.defer_overdue),
    )


def as_released(own: Policy, manifest: Manifest) -> Policy:
    """Return the policy of the device with what a release says about waiting."""
    return replace(
        own,
        budget_s=own.budget_s if manifest.defer_s is None else float(manifest.defer_s),
        overdue=Overdue(manifest.overdue) if manifest.overdue else own.overdue,
    )


def terms_of(held: Iterable[Mapping[str, bytes]], deployment: str) -> Terms | None:
    """Return the operator's latest terms for a deployment, None if there are none."""
    key = names.TERMS + deployment
    found: list[Terms] = []
    for values in held:
        if key in values:
            found += records.select(Terms, key, {key: values[key]}).values()
    return max(found, key=lambda terms: (terms.clock, terms.writer), default=None)


def with_terms(own: Policy, terms: Terms | None) -> Policy:
    """Return the policy for a deployment with an operator's terms.

    Windows are asked beside the device's own. One that this program cannot read never opens: a
    newer hub meant to hold the deployment back, and the budget still ends the wait.
    """
    if terms is None:
        return own
    windows = own.windows
    if terms.windows:
        try:
            windows = (*windows, parse_windows(terms.windows))
        except BadCalendar:
            windows = (*windows, ())
    overdue = own.overdue
    with contextlib.suppress(ValueError):
        overdue = Overdue(terms.overdue)
    return replace(
        own,
        windows=windows,
        overdue=overdue,
        budget_s=own.budget_s if terms.budget_s is None else float(terms.budget_s),
        is_now=terms.is_now,
    )


def _passed_over(found: Go) -> str:
    if not found.over:
        return ""
    return f"{found.because}, although {'; '.join(each.text for each in found.over)}"[:200]


def _is_news(known: Waiting, record: Waiting, wait: Wait) -> bool:
    """Tell whether what was told does not hold any more; figures that change all the time may."""
    if known.reason != record.reason or known.overdue != record.overdue:
        return True
    if abs(known.until_ms - record.until_ms) > MOVED_S * 1000:
        return True
    is_steady = all(each.kind not in _RESTLESS for each in wait.hindrances)
    return is_steady and known.detail != record.detail


_RESTLESS: Final = frozenset({Kind.BATTERY, Kind.LOAD, Kind.DISK})
"""Kinds whose words hold a figure that changes at each look."""
