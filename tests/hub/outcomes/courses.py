"""Courses to judge, told in seconds after the operator's request."""

from collections.abc import Mapping
from typing import Any

from hub.outcomes.observations import DeviceCourse, DeviceStage, Receipt, Waiting
from hub.outcomes.presence import PresenceChange
from sync.contacts import Contacts
from sync.stages import Stage
from sync.stamps import Interval, Stamp

ZERO_MS = 1_800_000_000_000
"""Hub UTC of the request."""

BOOT = b"boot-1"
BOOTTIME_MS = 500_000
"""What the device's clock showed at the request."""

LATENCY_MS = 100

PATIENCE_MS = 60_000

WAY = (Stage.DELIVERED, Stage.VERIFIED, Stage.APPLIED, Stage.HEALTHY, Stage.ACKNOWLEDGED)


def at(after_s: float) -> int:
    """Return hub UTC of a moment."""
    return ZERO_MS + round(after_s * 1000)


def said(after_s: float, reason: str = "", detail: str = "", *, wall_ms: int = 0) -> DeviceStage:
    """Return a stage that the device reached then and told the hub within the latency."""
    stamp = Stamp(BOOT, BOOTTIME_MS + round(after_s * 1000), wall_ms)
    return DeviceStage(stamp, at(after_s) + LATENCY_MS, reason, detail)


def contacts_at(*after_s: float) -> Contacts:
    """Return contacts with the device at these moments, each way within the latency."""
    contacts = Contacts()
    for moment_s in after_s:
        boottime_ms = BOOTTIME_MS + round(moment_s * 1000)
        contacts = contacts.heard(
            boot=BOOT,
            sent_ms=boottime_ms,
            received_ms=at(moment_s) + LATENCY_MS,
            anchor=(at(moment_s) - LATENCY_MS, boottime_ms),
        )
    return contacts


def online(*spans_s: tuple[float, float | None]) -> tuple[PresenceChange, ...]:
    """Return the log of a device that was connected from and to these moments."""
    changes: list[PresenceChange] = []
    for from_s, to_s in spans_s:
        changes.append(PresenceChange(at(from_s), online=True))
        if to_s is not None:
            changes.append(PresenceChange(at(to_s), online=False))
    return tuple(changes)


def course(
    device: str = "pump-7", stages: Mapping[Stage, DeviceStage] | None = None, **changes: Any
) -> DeviceCourse:
    """Return a deployment that was accepted after 1 s and published after 2 s."""
    fields: dict[str, Any] = {
        "device": device,
        "hub_stages": {
            Stage.REQUESTED: at(0),
            Stage.ACCEPTED: at(1),
            Stage.PUBLISHED: at(2),
        },
        "device_stages": stages or {},
        "presence": online((-100, None)),
        "contacts": contacts_at(0, 5, 10, 15, 20),
    }
    return DeviceCourse(**(fields | changes))


def waiting(since_s: float = 5, **changes: Any) -> Waiting:
    """Return a wait that began then, for a lock."""
    fields: dict[str, Any] = {
        "reason": "inhibited",
        "detail": "backup holds a lock: it runs",
        "since": Interval(at(since_s) - LATENCY_MS, at(since_s) + LATENCY_MS),
        "until_ms": None,
        "left_s": 60,
        "overdue": "give_up",
    }
    return Waiting(**(fields | changes))


def finished(device: str = "pump-7", first_s: float = 4, **changes: Any) -> DeviceCourse:
    """Return a course up to the acknowledgement, a stage every two seconds."""
    stages = {stage: said(first_s + 2 * step) for step, stage in enumerate(WAY)}
    return course(device, stages, **changes)


def rolled_back(device: str = "pump-7", reason: str = "health_failed") -> DeviceCourse:
    """Return a course that was undone after it was applied."""
    stages = {stage: said(4 + 2 * step) for step, stage in enumerate(WAY[:3])}
    return course(device, stages | {Stage.ROLLED_BACK: said(12, reason)})


def lacking(received_s: float, sent_s: float | None = None) -> Receipt:
    """Return a state vector without the deployment."""
    return Receipt(at(received_s), covers=False, sent_lo_ms=None if sent_s is None else at(sent_s))


def covering(received_s: float) -> Receipt:
    """Return a state vector with the deployment."""
    return Receipt(at(received_s), covers=True)
