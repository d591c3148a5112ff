"""The stage ladder: what can happen to a deployment on a device, in which order, by whose clock.

Owns the names, wire codes, clocks and order of stages, the table of what may follow what, and the
reason codes. Decides and does nothing else: no clock, no files.
A stage is reached once; whoever reaches it records it durably before acting on it.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType


class Clock(StrEnum):
    """Whose clock stamps a stage."""

    HUB = "hub"
    DEVICE = "device"


class Stage(StrEnum):
    """The stages of a deployment and its ends. Values are stored and shown; never reuse one."""

    REQUESTED = "requested"
    """The operator's wish is stored on the hub."""
    ACCEPTED = "accepted"
    """The hub has promised, durably, to bring it to this device."""
    PUBLISHED = "published"
    """The hub handed it to the broker. Proves nothing about the device."""
    BROKER_ACKED = "broker_acked"
    """The broker took it. Proves nothing about the device either."""
    DELIVERED = "delivered"
    """The device holds it durably."""
    VERIFIED = "verified"
    """Manifest and artifacts are there and are what they claim to be."""
    APPLIED = "applied"
    """The release was switched to and runs on trial."""
    HEALTHY = "healthy"
    """Running, it passed its health check."""
    ACKNOWLEDGED = "acknowledged"
    """The device committed to it and wrote down that it is done."""
    ACK_SEEN = "ack_seen"
    """The hub holds that acknowledgement durably."""
    ROLLED_BACK = "rolled_back"
    """It was switched to, was not good, and the device went back."""
    FAILED = "failed"
    """It was given up; the reason says where."""
    DEFERRED = "deferred"
    """The device waits with it. The one end that can still be left."""
    SUPERSEDED = "superseded"
    """A later deployment took its place before it was applied."""
    EXPIRED = "expired"
    """Its time to start ran out."""
    CANCELLED = "cancelled"
    """The operator took it back before it was applied."""


LADDER: tuple[Stage, ...] = (
    Stage.REQUESTED,
    Stage.ACCEPTED,
    Stage.PUBLISHED,
    Stage.BROKER_ACKED,
    Stage.DELIVERED,
    Stage.VERIFIED,
    Stage.APPLIED,
    Stage.HEALTHY,
    Stage.ACKNOWLEDGED,
    Stage.ACK_SEEN,
)
"""The way up, in order."""

ENDS: tuple[Stage, ...] = (
    Stage.ROLLED_BACK,
    Stage.FAILED,
    Stage.SUPERSEDED,
    Stage.EXPIRED,
    Stage.CANCELLED,
    Stage.DEFERRED,
)
"""The ways out. If a device claims several, the first of these counts."""

# Stored on devices and transmitted in keys; never reuse one.
CODES: Mapping[Stage, str] = MappingProxyType(
    {
        Stage.REQUESTED: "R",
        Stage.ACCEPTED: "A",
        Stage.PUBLISHED: "P",
        Stage.BROKER_ACKED: "Q",
        Stage.DELIVERED: "D",
        Stage.VERIFIED: "V",
        Stage.APPLIED: "I",
        Stage.HEALTHY: "H",
        Stage.ACKNOWLEDGED: "K",
        Stage.ACK_SEEN: "Z",
        Stage.ROLLED_BACK: "B",
        Stage.FAILED: "F",
        Stage.DEFERRED: "W",
        Stage.SUPERSEDED: "S",
        Stage.EXPIRED: "E",
        Stage.CANCELLED: "C",
    }
)
"""One ASCII letter for each stage."""

_STAGES = {code: stage for stage, code in CODES.items()}

HUB_STAGES: frozenset[Stage] = frozenset(
    {
        Stage.REQUESTED,
        Stage.ACCEPTED,
        Stage.PUBLISHED,
        Stage.BROKER_ACKED,
        Stage.ACK_SEEN,
    }
)

DEVICE_STAGES: frozenset[Stage] = frozenset(Stage) - HUB_STAGES
"""What a device may acknowledge."""

_WITHDRAWN = frozenset({Stage.SUPERSEDED, Stage.EXPIRED, Stage.CANCELLED})

# From VERIFIED on, the switch may have been begun when the power went, so ROLLED_BACK follows it
# too. After APPLIED a deployment can no longer be withdrawn: it is proven good, or undone.
FOLLOWS: Mapping[Stage, frozenset[Stage]] = MappingProxyType(
    {
        Stage.REQUESTED: frozenset({Stage.ACCEPTED}),
        Stage.ACCEPTED: frozenset({Stage.PUBLISHED, Stage.DELIVERED}) | _WITHDRAWN,
        Stage.PUBLISHED: frozenset({Stage.BROKER_ACKED, Stage.DELIVERED}) | _WITHDRAWN,
        Stage.BROKER_ACKED: frozenset({Stage.DELIVERED}) | _WITHDRAWN,
        # HEALTHY follows at once where the device runs this very release already.
        Stage.DELIVERED: frozenset({Stage.VERIFIED, Stage.HEALTHY, Stage.DEFERRED, Stage.FAILED})
        | _WITHDRAWN,
        Stage.VERIFIED: frozenset({Stage.APPLIED, Stage.ROLLED_BACK, Stage.DEFERRED, Stage.FAILED})
        | _WITHDRAWN,
        Stage.APPLIED: frozenset({Stage.HEALTHY, Stage.ROLLED_BACK, Stage.FAILED}),
        Stage.HEALTHY: frozenset({Stage.ACKNOWLEDGED}),
        Stage.ACKNOWLEDGED: frozenset({Stage.ACK_SEEN}),
        Stage.ACK_SEEN: frozenset(),
        Stage.ROLLED_BACK: frozenset(),
        Stage.FAILED: frozenset(),
        Stage.DEFERRED: frozenset({Stage.VERIFIED, Stage.APPLIED, Stage.FAILED}) | _WITHDRAWN,
        Stage.SUPERSEDED: frozenset(),
        Stage.EXPIRED: frozenset(),
        Stage.CANCELLED: frozenset(),
    }
)
"""What may come next. A stage that nothing may follow is final."""


def code_of(stage: Stage) -> str:
    """Return the letter of `stage` as it stands in keys."""
    return CODES[stage]


def stage_of(code: str) -> Stage | None:
    """Return the stage with this letter; None for one that only a newer program can know."""
    return _STAGES.get(code)


def clock_of(stage: Stage) -> Clock:
    """Return whose clock stamps `stage`."""
    return Clock.HUB if stage in HUB_STAGES else Clock.DEVICE


def order(stage: Stage) -> int:
    """Return the position of `stage`: first the ladder from 0, then the ends."""
    return _ORDER[stage]


_ORDER = {stage: position for position, stage in enumerate(LADDER + ENDS)}


def is_end(stage: Stage) -> bool:
    """Tell whether `stage` is a way out of the ladder."""
    return stage in ENDS


def is_final(stage: Stage) -> bool:
    """Tell whether the device is done with a deployment at `stage`, well or badly."""
    return stage is Stage.ACKNOWLEDGED or not FOLLOWS[stage]


def after(stage: Stage | None) -> frozenset[Stage]:
    """Return the stages that may follow `stage`; after None, the first of each clock."""
    if stage is None:
        return frozenset({Stage.REQUESTED, Stage.DELIVERED})
    return FOLLOWS[stage]


def allows(recorded: Collection[Stage], stage: Stage) -> bool:
    """Tell whether `stage` may be recorded, given what is recorded already.

    A stage is recorded once, after one that it may follow, and never after a final one (`ACK_SEEN`
    after `ACKNOWLEDGED` apart).
    """
    if stage in recorded:
        return False
    if stage in after(None):
        return not any(is_end(earlier) for earlier in recorded)
    if any(is_final(earlier) and stage not in FOLLOWS[earlier] for earlier in recorded):
        return False
    return any(stage in FOLLOWS[earlier] for earlier in recorded)


def furthest(recorded: Collection[Stage]) -> Stage | None:
    """Return the highest rung of the ladder reached; ends do not count. None if there is none."""
    rungs = [stage for stage in recorded if not is_end(stage)]
    return max(rungs, key=order, default=None)


def end_of(recorded: Collection[Stage]) -> Stage | None:
    """Return the end that a deployment came to, None while it is under way or was acknowledged.

    `DEFERRED` counts only while nothing came after it.
    """
    for end in ENDS:
        if end in recorded:
            if end is Stage.DEFERRED and set(recorded) & {
                Stage.APPLIED,
                Stage.HEALTHY,
                Stage.ACKNOWLEDGED,
            }:
                return None
            return end
    return None


class Reason(StrEnum):
    """Why a stage came out as it did. Values are stored on devices; never reuse one."""

    OK = ""
    ALREADY_RUNNING = "already_running"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    BELOW_THRESHOLD = "below_threshold"
    BOOT_LOOP = "boot_loop"
    BUSY = "busy"
    CANCELLED = "cancelled"
    CLOCK_UNKNOWN = "clock_unknown"
    CRASH_LOOP = "crash_loop"
    DEFERRED_TOO_LONG = "deferred_too_long"
    DIGEST_MISMATCH = "digest_mismatch"
    DOWNGRADE = "downgrade"
    DOWNLOAD_FAILED = "download_failed"
    ENDLESS = "endless"
    EXPIRED = "expired"
    FELL_BACK = "fell_back"
    FORBIDDEN_VERSION = "forbidden_version"
    FREEZE = "freeze"
    HEALTH_FAILED = "health_failed"
    HEALTH_TIMED_OUT = "health_timed_out"
    HIGH_LOAD = "high_load"
    HOOK_TIMED_OUT = "hook_timed_out"
    INCOMPATIBLE = "incompatible"
    INCONSISTENT = "inconsistent"
    INHIBITED = "inhibited"
    INSTALLER_FAILED = "installer_failed"
    INTERNAL = "internal"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    LOW_BATTERY = "low_battery"
    MANIFEST_INVALID = "manifest_invalid"
    METADATA_INVALID = "metadata_invalid"
    MIX_AND_MATCH = "mix_and_match"
    NO_ROOT = "no_root"
    NO_SPACE = "no_space"
    NOT_FOUND = "not_found"
    OUTSIDE_WINDOW = "outside_window"
    REQUIREMENT_UNMET = "requirement_unmet"
    ROLLBACK = "rollback"
    ROLLBACK_FAILED = "rollback_failed"
    ROLLED_BACK_OK = "rolled_back_ok"
    SLOW = "slow"
    STALE = "stale"
    SUPERSEDED = "superseded"
    TOO_LARGE = "too_large"
    UNKNOWN_INSTALLER = "unknown_installer"
    UNREACHABLE = "unreachable"
    UNSIGNED = "unsigned"
    WRONG_LENGTH = "wrong_length"


SENTENCES: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.OK: "Nothing to explain.",
        Reason.ALREADY_RUNNING: "The device runs this release already.",
        Reason.ATTEMPTS_EXHAUSTED: "Every attempt that the device allows itself has failed.",
        Reason.BELOW_THRESHOLD: "Metadata was signed by fewer keys than its role needs.",
        Reason.BOOT_LOOP: "The device started again and again while the release was tried.",
        Reason.BUSY: "Something on the device asked to wait.",
        Reason.CANCELLED: "An operator took the deployment back.",
        Reason.CLOCK_UNKNOWN: "The device has maintenance windows and does not know the time.",
        Reason.CRASH_LOOP: "The application ended again and again while the release was tried.",
        Reason.DEFERRED_TOO_LONG: "The device put it off for as long as it may.",
        Reason.DIGEST_MISMATCH: "A file that arrived is not the one the manifest names.",
        Reason.DOWNGRADE: "The release is older than the oldest that may run here.",
        Reason.DOWNLOAD_FAILED: "A file could not be fetched completely.",
        Reason.ENDLESS: "A file went on beyond its announced or allowed length.",
        Reason.EXPIRED: "The time to start it had run out.",
        Reason.FELL_BACK: "The device started what ran before instead of the release.",
        Reason.FORBIDDEN_VERSION: "The device runs a version that the release forbids.",
        Reason.FREEZE: "The source has nothing newer than metadata that has run out.",
        Reason.HEALTH_FAILED: "The health check failed.",
        Reason.HEALTH_TIMED_OUT: "The health check gave no answer in time.",
        Reason.HIGH_LOAD: "The device has too much to do.",
        Reason.HOOK_TIMED_OUT: "A program that takes part in the install did not end in time.",
        Reason.INCOMPATIBLE: "The release is not made for this device.",
        Reason.INCONSISTENT: "Parts of two releases are on the device; a person has to look.",
        Reason.INHIBITED: "An application on the device holds a lock.",
        Reason.INSTALLER_FAILED: "The installer reported a failure.",
        Reason.INTERNAL: "The agent itself has a fault; its journal says more.",
        Reason.INTERRUPTED: "The power or the agent went away in the middle.",
        Reason.KILLED: "An operator killed the deployment while the device tried it.",
        Reason.LOW_BATTERY: "The battery is too low.",
        Reason.MANIFEST_INVALID: "The manifest cannot be read or contradicts itself.",
        Reason.METADATA_INVALID: "What was offered as signed metadata is none.",
        Reason.MIX_AND_MATCH: "Signed metadata of different moments was offered as one.",
        Reason.NOT_FOUND: "The hub no longer has a file that the release needs.",
        Reason.NO_ROOT: "The device was never told whom to trust: no root is pinned on it.",
        Reason.NO_SPACE: "There is not enough room on the device.",
        Reason.OUTSIDE_WINDOW: "No maintenance window is open.",
        Reason.REQUIREMENT_UNMET: "The device does not run what the release builds on.",
        Reason.ROLLBACK: "Older metadata was offered than the device has seen before.",
        Reason.ROLLBACK_FAILED: "The release that ran before could not be restored.",
        Reason.ROLLED_BACK_OK: "The release that ran before runs again and is healthy.",
        Reason.SLOW: "Something came so slowly that it would never have ended.",
        Reason.STALE: "The newest metadata there is had run out too long ago.",
        Reason.SUPERSEDED: "A later deployment took its place.",
        Reason.TOO_LARGE: "A file is larger than the device accepts.",
        Reason.UNKNOWN_INSTALLER: "The device has no installer of the kind the release asks for.",
        Reason.UNREACHABLE: "The hub could not be reached.",
        Reason.UNSIGNED: "Nobody whom the device trusts has signed the release.",
        Reason.WRONG_LENGTH: "A file has another length than was signed.",
    }
)
"""One sentence for people for each reason."""


def explain(code: str) -> str:
    """Return the sentence for a reason code; for one that is not known here, the code itself."""
    try:
        return SENTENCES[Reason(code)]
    except ValueError:
        return f"The device gave the reason {code[:100]!r}, which this program does not know."
