"""The values inside documents: typed, validated, positional on the wire.

Owns one class per key prefix of `sync.documents` and the way to and from bytes.
A record read from a replica is hostile until it passed through here.
Fields are positional and are never reordered, retyped or removed; new ones are appended with a
default, and a reader ignores what it does not know yet.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from sync import documents

VALUE_BYTES_MAX = 4096
"""Longest record. The longest is a conflict, which holds a setting three times."""

SETTING_BYTES_MAX = 1300
"""Longest value of a setting, as UTF-8: a conflict holds three of them."""

DEFINITION_BYTES_MAX = 3500
"""Longest definition of one flag, as JSON."""

BUCKETS_MAX = 320
"""Buckets of one histogram: ten decades at 5 % each; what lies beyond is counted at its ends."""

WAIT_MAX_S = 31_536_000
"""Longest budget for waiting with a deployment: a year."""

OVERDUE = ("go", "give_up")
"""What a device can do when such a budget is used up."""

Text = Annotated[str, Meta(max_length=200)]
Token = Annotated[str, Meta(max_length=100)]
BootId = Annotated[bytes, Meta(min_length=6, max_length=6)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Milliseconds = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Clock = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Value = Annotated[str, Meta(max_length=2000)]
"""A setting's value: JSON text, so that every type an application uses survives unchanged."""


class BadRecord(ValueError):
    """A stored or received value is not what its key promises.

    Its writer is to blame; the document that holds it is unchanged, and every other value in it can
    still be read.
    """


class Record(msgspec.Struct, frozen=True, array_like=True, kw_only=False):
    """Base of every value in a document."""


class Ack(Record, frozen=True, array_like=True):
    """`a/<deployment>/<stage>`: the device reached a stage. Written once, never changed."""

    boot: BootId
    """First six bytes of the kernel's boot id."""
    boottime_ms: Milliseconds
    """CLOCK_BOOTTIME when the stage was reached: counts in suspend, starts at zero each boot."""
    wall_ms: Annotated[int, Meta(ge=-(2**53), le=2**53 - 1)]
    """UTC milliseconds by the device's own clock; a hint only."""
    sync: Annotated[int, Meta(ge=0, le=2)]
    """0 unknown, 1 not synchronised, 2 synchronised."""
    reason: Token = ""
    """Code from `sync.stages.Reason`; empty when there is nothing to explain."""
    detail: Text = ""
    """One line for a person."""


class Running(Record, frozen=True, array_like=True):
    """`v/<component>`: what runs now, as observed by a start that then was or was not healthy."""

    version: Token
    release: Digest
    """SHA-256 of the release's manifest; all zero when nothing was ever installed by the agent."""
    boot: BootId
    boottime_ms: Milliseconds
    healthy: bool
    """Whether the health check passed in this boot or start. Only then it counts as running."""
    deployment: Token = ""
    reason: Token = ""


class Fact(Record, frozen=True, array_like=True):
    """`s/<name>`: something that is so on the device: its class, labels, groups, agent version."""

    value: Value


class Local(Record, frozen=True, array_like=True):
    """`c/<key>`: what an application on the device set. None means that it took its value back."""

    clock: Clock
    """Hybrid logical clock of the write (`sync.hlc`)."""
    value: Value | None
    saw: Clock = 0
    """Clock of the operator's value that the device held when this was written; 0 for none."""
    writer: Token = ""


class Desired(Record, frozen=True, array_like=True):
    """`d/<key>`: what an operator wants. None means that the wish was taken back."""

    clock: Clock
    value: Value | None
    saw: Clock = 0
    """Clock of the device's own value that the hub held when this was written; 0 for none."""
    policy: Annotated[str, Meta(max_length=16)] = "latest"
    """`latest`, `operator` or `local`: who prevails when both sides have set a value."""
    writer: Token = ""


class Conflict(Record, frozen=True, array_like=True):
    """`x/<key>`: both sides set a value, neither knowing of the other's.

    Stays until one of them writes again knowing both.
    """

    clock: Clock
    local: Value | None
    desired: Value | None
    effective: Value | None
    winner: Annotated[str, Meta(max_length=16)]
    """`local` or `desired`; empty once settled."""
    local_clock: Clock = 0
    desired_clock: Clock = 0


class Waiting(Record, frozen=True, array_like=True):
    """`w/<deployment>`: the device holds a deployment and waits with it; why, and for how long.

    Written anew when the reason changes, and once more when the wait is over.
    """

    boot: BootId
    boottime_ms: Milliseconds
    """CLOCK_BOOTTIME in that boot when this wait began."""
    wall_ms: Annotated[int, Meta(ge=-(2**53), le=2**53 - 1)]
    """UTC milliseconds by the device's own clock when it began; a hint only."""
    reason: Token
    """Code from `sync.stages.Reason`; empty when it waits no more."""
    detail: Text = ""
    """One line for a person."""
    until_ms: Milliseconds = 0
    """UTC at which the wait ends by itself, by the time that the device believes; 0 if it does not
    know."""
    left_s: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """What was left of its budget when this was written."""
    overdue: Annotated[str, Meta(max_length=16)] = ""
    """What happens when the budget is used up: `go` or `give_up`."""


class Terms(Record, frozen=True, array_like=True):
    """`t/<deployment>`: an operator's own terms for waiting with one deployment.

    Stands in a group's document or a device's own; the one with the latest clock counts.
    """

    clock: Clock
    """Hybrid logical clock of the order."""
    is_now: bool = False
    """Do not wait, for windows, locks or load."""
    windows: Annotated[tuple[Annotated[str, Meta(max_length=100)], ...], Meta(max_length=16)] = ()
    """One of these must be open besides the device's own (`sync.calendar`); none for no matter."""
    budget_s: Annotated[int, Meta(ge=0, le=WAIT_MAX_S)] | None = None
    """How long a device may wait altogether; None for what it says itself."""
    overdue: Annotated[str, Meta(max_length=16)] = ""
    """What happens then: `go`, `give_up`, or empty for what the device says itself."""
    writer: Token = ""
    """Who ordered it."""
    why: Text = ""


class Deployment(Record, frozen=True, array_like=True):
    """`r/<deployment>`: the hub asks for one release. In a group document `where` says of whom."""

    order: Clock
    """Hybrid logical clock of the request: of all that apply to a device the latest counts."""
    component: Token
    version: Token
    manifest: Digest
    manifest_bytes: Annotated[int, Meta(ge=1, le=2**20)]
    where: Annotated[str, Meta(max_length=500)] = ""
    """Selector over the device's labels, `site=s7,class=pump`; empty means every device."""
    cancelled: bool = False
    expires_ms: Milliseconds = 0
    """Hub UTC milliseconds after which it must not be started any more; 0 for never."""


class Flag(Record, frozen=True, array_like=True):
    """`f/<flag>` in a group: a flag as operators defined it, in flagd's JSON (`sync.flags`)."""

    clock: Clock
    """Hybrid logical clock of the definition: of several groups' the latest counts."""
    definition: Annotated[str, Meta(max_length=DEFINITION_BYTES_MAX)] | None
    """One flag: state, variants, defaultVariant, targeting, metadata. None: it was taken away."""
    writer: Token = ""


class Kill(Record, frozen=True, array_like=True):
    """`k/<what>` in a group: `flag:<key>` or `deployment:<id>` is off, before anything is asked.

    Travels in the group's document, and beside it on a retained topic of its own, which is short.
    """

    clock: Clock
    """Hybrid logical clock of the order; the latest counts."""
    is_killed: bool
    """False takes the order back."""
    writer: Token = ""
    why: Text = ""


class Exposure(Record, frozen=True, array_like=True):
    """`e/<flag>`: what a flag came to on this device, written when that changes.

    `boot` and `boottime_ms` say when it was read first in that boot; a flag that is read no more
    keeps those of the last boot that read it.
    """

    boot: BootId
    boottime_ms: Milliseconds
    wall_ms: Annotated[int, Meta(ge=-(2**53), le=2**53 - 1)]
    variant: Token
    reason: Annotated[str, Meta(max_length=32)]
    """OpenFeature's: STATIC, DEFAULT, TARGETING_MATCH, SPLIT, DISABLED, STALE, ERROR."""
    clock: Clock = 0
    """Of the definition it was read from; 0 if there is none."""
    reader: Token = ""
    """Component and version of the application that read it, `app@1.4.0`; `agent@...` for ours."""
    variants_count: Annotated[int, Meta(ge=0, le=2**31)] = 1
    """How many different variants this device was shown since the definition came."""


class Obeyed(Record, frozen=True, array_like=True):
    """`q/<what>`: the device holds to an order of `k/<what>`, or to the end of a flag's lease."""

    boot: BootId
    boottime_ms: Milliseconds
    wall_ms: Annotated[int, Meta(ge=-(2**53), le=2**53 - 1)]
    sync: Annotated[int, Meta(ge=0, le=2)]
    clock: Clock
    """Of the order that it obeys; for a lease that of the flag's definition."""
    how: Annotated[str, Meta(max_length=16)]
    """`order`, `lease`, or `back` when the order was taken back."""
    detail: Text = ""


class Measure(Record, frozen=True, array_like=True):
    """`m/<metric>/<release>/<variant>` in telemetry: one series, cumulative and mergeable.

    `release` is `component@version` of what ran, `-` for the device itself; `variant` is
    `flag=variant` of the one experiment that was on, `-` for none. Of two records of one series
    under one `start` the one with the larger `count` is the later.
    """

    kind: Annotated[str, Meta(max_length=1)]
    """`c` counter, `g` gauge, `h` histogram. Never reuse one."""
    start: BootId
    """Names the series' beginning; another one starts from zero and does not replace this one."""
    count: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    """Observations; for a counter, calls."""
    total: float
    """Sum of values; for a gauge the last value."""
    least: float = 0.0
    most: float = 0.0
    zeros: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    """Observations of a histogram that are zero or below what its buckets tell apart."""
    scale: Annotated[int, Meta(ge=-10, le=20)] = 0
    first: Annotated[int, Meta(ge=-(2**20), le=2**20)] = 0
    """Index of the first bucket, as in OTLP's ExponentialHistogram."""
    buckets: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=2**53 - 1)], ...], Meta(max_length=BUCKETS_MAX)
    ] = ()
    boot: BootId = b"\0" * 6
    """When it was written: boot and CLOCK_BOOTTIME."""
    boottime_ms: Milliseconds = 0


class Event(Record, frozen=True, array_like=True):
    """`n/<slot>` in telemetry: something that went wrong and broke nothing, in a bounded ring."""

    number: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    """Of all events of this device; a gap tells that some were dropped."""
    boot: BootId
    boottime_ms: Milliseconds
    wall_ms: Annotated[int, Meta(ge=-(2**53), le=2**53 - 1)]
    code: Token
    detail: Text = ""
    release: Token = ""
    count: Annotated[int, Meta(ge=1, le=2**53 - 1)] = 1
    """How often it came in a row."""


class Case(Record, frozen=True, array_like=True):
    """`i/<intent>` in telemetry: something that was intended, and what it came to.

    Written by an application's `outcome` (intended and reached state) and `case` (who ended it).
    """

    boot: BootId
    boottime_ms: Milliseconds
    wall_ms: Annotated[int, Meta(ge=-(2**53), le=2**53 - 1)]
    intended: Token = ""
    reached: Token = ""
    """Empty while it is not known."""
    by: Annotated[str, Meta(max_length=16)] = ""
    """`automatic` or `human`; empty if nobody said."""
    release: Token = ""
    detail: Text = ""


KINDS: Mapping[str, type[Record]] = {
    documents.ACK: Ack,
    documents.VERSION: Running,
    documents.FACT: Fact,
    documents.LOCAL: Local,
    documents.CONFLICT: Conflict,
    documents.WAITING: Waiting,
    documents.DEPLOYMENT: Deployment,
    documents.DESIRED: Desired,
    documents.TERMS: Terms,
    documents.FLAG: Flag,
    documents.KILL: Kill,
    documents.EXPOSURE: Exposure,
    documents.OBEYED: Obeyed,
    documents.MEASURE: Measure,
    documents.EVENT: Event,
    documents.CASE: Case,
}

_DECODERS = {prefix: msgspec.msgpack.Decoder(kind) for prefix, kind in KINDS.items()}
_ENCODER = msgspec.msgpack.Encoder()

R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """Return the bytes of `record` as they are stored in a document."""
    return _ENCODER.encode(record)


def decode(key: str, value: bytes) -> Record:
    """Return the record stored under `key`.

    Raises:
        BadRecord: Unknown prefix, too long, or a field of the wrong type or range.
    """
    decoder = _DECODERS.get(key[:2])
    if decoder is None:
        raise BadRecord(f"no record is known for key {key[:32]!r}")
    if len(value) > VALUE_BYTES_MAX:
        raise BadRecord(f"{key[:64]}: {len(value)} bytes, at most {VALUE_BYTES_MAX} allowed")
    try:
        record: Record = decoder.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRecord(f"{key[:64]}: {str(error)[:200]}") from None
    return record


def decode_as(kind: type[R], key: str, value: bytes) -> R:
    """Return the record stored under `key`, which must be a `kind`.

    Raises:
        BadRecord: It is something else, or `decode` refuses it.
    """
    record = decode(key, value)
    if not isinstance(record, kind):
        raise BadRecord(f"{key[:64]} holds a {type(record).__name__}, not a {kind.__name__}")
    return record


def select(kind: type[R], prefix: str, values: Mapping[str, bytes]) -> dict[str, R]:
    """Return the readable records of one prefix, by the rest of their key.

    Unreadable ones are left out, so one bad value cannot hide the others.
    """
    found: dict[str, R] = {}
    for key, value in values.items():
        if key.startswith(prefix):
            try:
                found[key[len(prefix) :]] = decode_as(kind, key, value)
            except BadRecord:
                continue
    return found
