"""From the tables to what the outcomes are computed from: the course of a deployment on a device.

Owns that translation, the presence that is credited, and how long a connected device may take.
Never counts or judges (`hub.outcomes`).

Evidence of delivery is what a device's state vector covers and what the device acknowledged. That
the broker took a message is passed on as a stage, and nothing is built on it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from hub.anchors import contacts_in
from hub.outcomes.durations import Span, reachable_handshake_latency
from hub.outcomes.observations import DeviceCourse, DeviceStage, Receipt, Waiting, stamp_of
from hub.outcomes.presence import PresenceChange
from hub.outcomes.survival import quantile
from hub.projection import decode_ack
from hub.shown import shown
from hub.store import deployments, journal, presence, queries
from hub.store.database import Connection
from hub.store.deployments import ALL, Deployed, Targeted
from hub.store.journal import Seen
from sync.contacts import Contacts, interval_of
from sync.stages import DEVICE_STAGES, Stage, stage_of
from sync.stamps import Stamp

BASELINE_DEPLOYMENTS = 3
BASELINE_DEVICES_MAX = 500
"""Devices of each earlier deployment that are looked at for what is usual."""


def courses_of(
    connection: Connection,
    deployed: Deployed,
    *,
    now_ms: int,
    n: int | None = None,
    limit: int = -1,
) -> list[DeviceCourse]:
    """Return the course of a deployment on every device of its list, or on one."""
    by_device: dict[int, dict[Stage, int]] = defaultdict(dict)
    for device, stage, at_ms, _ in deployments.load_stages(connection, deployed.id):
        by_device[device][Stage(stage)] = at_ms
    stages: dict[int, list[Seen]] = defaultdict(list)
    for seen in journal.load(connection, deployed.id, n):
        stages[seen.device].append(seen)
    log: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    for device, at_ms, is_online in queries.presence_log(connection, deployed.id, n):
        log[device].append((at_ms, is_online))
    listening = presence.load_listening(connection)
    heard = queries.last_heard(connection, deployed.id, n)
    contacts = queries.contacts_of(connection, deployed.id, n)
    waits = queries.waits(connection, deployed.id, n)
    running = queries.versions_of_component(connection, deployed.component)
    found = []
    for each in deployments.targeted(connection, deployed.id, device=n, limit=limit):
        now, wait = running.get(each.n), waits.get(each.n)
        known = contacts_in(contacts.get(each.n)) if stages[each.n] else Contacts()
        found.append(
            DeviceCourse(
                device=each.device,
                hub_stages=_hub_stages(by_device[ALL], by_device.get(each.n, {}), stages[each.n]),
                device_stages=_device_stages(stages[each.n]),
                receipts=_receipts(each),
                presence=credited(log[each.n], listening, heard=_heard(each, heard), now_ms=now_ms),
                contacts=known,
                superseded_at_ms=each.superseded_ms,
                cancelled_at_ms=deployed.cancelled_ms,
                expires_ms=deployed.expires_ms,
                waiting=_waiting(wait, known, now_ms),
                passed_over=shown(wait.detail) if wait is not None and not wait.reason else "",
                runs=now.release == deployed.release if now is not None and now.healthy else None,
            )
        )
    return found


def credited(
    log: Iterable[tuple[int, bool]],
    listening: Sequence[tuple[int, int | None]],
    *,
    heard: tuple[int, int],
    now_ms: int,
) -> tuple[PresenceChange, ...]:
    """Return the presence that counts: what was logged, cut where the hub could not know of it.

    That is where the hub was not connected itself, and lately: a device that is gone looks
    connected until its death is heard, so of a connection that lasts the time since the device was
    last heard counts only once it is older than that.

    Args:
        log: (hub UTC, online) of one device, in order.
        listening: (from, until) of the hub's own connections, in order; None while one lasts.
        heard: When the device was last heard, and how late its death may be heard.
        now_ms: Hub UTC of the look.
    """
    changes = [PresenceChange(at_ms, online) for at_ms, online in log]
    if any(change.online for change in changes):
        first_ms = changes[0].at_ms
        changes += [
            PresenceChange(until_ms, online=False)
            for _, until_ms in listening
            if until_ms is not None and until_ms >= first_ms
        ]
        # A change and the end of the hub's own connection in one millisecond: absent comes last.
        changes.sort(key=lambda change: (change.at_ms, not change.online))
        heard_ms, grace_ms = heard
        certain_ms = max(heard_ms, now_ms - grace_ms, changes[-1].at_ms)
        if changes[-1].online and certain_ms < now_ms:
            changes.append(PresenceChange(certain_ms, online=False))
            changes.append(PresenceChange(now_ms, online=True))
    return tuple(changes)


def patience_ms(
    connection: Connection, deployed: Deployed, *, silence_s: float, now_ms: int
) -> int:
    """Return how long a connected device may take before it counts as silent.

    The larger of the setting and the 99th percentile of what connected devices took to take the
    deployments before this one.
    """
    baseline: list[Span] = []
    for earlier in deployments.before(connection, deployed, BASELINE_DEPLOYMENTS):
        for course in courses_of(connection, earlier, now_ms=now_ms, limit=BASELINE_DEVICES_MAX):
            span = reachable_handshake_latency(course, now_ms)
            if span is not None:
                baseline.append(span)
    usual = quantile(baseline, 0.99)
    longest_ms = usual.hi_ms if usual.hi_ms is not None else usual.lo_ms
    return max(round(silence_s * 1000), longest_ms or 0)


def _hub_stages(
    of_all: Mapping[Stage, int], of_device: Mapping[Stage, int], stages: Iterable[Seen]
) -> dict[Stage, int]:
    held = {**of_all, **of_device}
    for seen in stages:
        if stage_of(seen.stage) is Stage.ACKNOWLEDGED:
            held[Stage.ACK_SEEN] = seen.seen_at_ms
    return held


def _device_stages(stages: Iterable[Seen]) -> dict[Stage, DeviceStage]:
    held = {}
    for seen in stages:
        stage = stage_of(seen.stage)
        if stage in DEVICE_STAGES:
            ack = decode_ack(seen.record)
            held[stage] = DeviceStage(
                stamp_of(ack), seen.seen_at_ms, shown(ack.reason), shown(ack.detail)
            )
    return held


def _waiting(wait: queries.Waits | None, contacts: Contacts, now_ms: int) -> Waiting | None:
    if wait is None or not wait.reason:
        return None
    stamp = Stamp(wait.boot, wait.boottime_ms, wait.wall_ms)
    return Waiting(
        reason=shown(wait.reason),
        detail=shown(wait.detail),
        since=interval_of(stamp, contacts, seen_at_ms=now_ms),
        until_ms=wait.until_ms or None,
        left_s=wait.left_s,
        overdue=shown(wait.overdue),
    )


def _heard(targeted: Targeted, heard: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
    """Return when a device was last heard, its receipts included, and how late its death may be."""
    heard_ms, grace_ms = heard.get(targeted.n, (0, 0))
    return max(heard_ms, targeted.covered_ms or 0, targeted.missed_ms or 0), grace_ms


def _receipts(targeted: Targeted) -> tuple[Receipt, ...]:
    found = []
    if targeted.missed_ms is not None:
        found.append(Receipt(targeted.missed_ms, covers=False, sent_lo_ms=targeted.missed_sent_ms))
    if targeted.covered_ms is not None:
        found.append(Receipt(targeted.covered_ms, covers=True))
    return tuple(found)
