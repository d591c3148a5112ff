"""The follower's part: what to do with a message about a document that the other side writes.

Owns one pure decision, `follow`. Never stores or sends: what it returns must be made durable before
its reply goes out, because the reply is the promise that it is.
A follower never merges two histories. It moves along one, or to a newer epoch whose writer has seen
everything it holds, or it says what it has and waits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sync.documents import DocumentName, Side
from sync.gate import Gap, Refusal, Refused, admit
from sync.messages import (
    BadFrame,
    Diff,
    Fetch,
    Full,
    Have,
    Open,
    Refuse,
    Whole,
    name_on_line,
    vector_of,
)
from sync.replica import (
    Absorbed,
    Applied,
    Holding,
    absorbed_with,
    adopt,
    digest_of,
    is_absorbed,
    merge,
    values_of,
)
from sync.vector import Vector, covers, encode_vector, tag_of


@dataclass(frozen=True, slots=True)
class Followed:
    """What a message led to."""

    reply: Have | Whole | Refuse
    holding: Holding | None = None
    """The new holding, to be made durable before `reply` is sent; None if nothing changed."""
    changed: Mapping[str, bytes | None] = field(default_factory=dict)
    """Live values that differ from before; None where one is gone."""
    offence: Refused | None = None
    """What the sender did wrong, to be counted against it."""


def follow(
    document: DocumentName, held: Holding | None, message: Open | Diff | Full | Fetch, device: str
) -> Followed:
    """Return what follows from `message` about `document`, of which `held` is held.

    `device` is the device on the line. Nothing is ever raised for what the message contains.
    """
    try:
        match message:
            case Open():
                return Followed(_answer_open(document, held, message, device))
            case Diff():
                return _diff(document, held, message, device)
            case Full():
                return _full(document, held, message, device)
            case Fetch():
                state = held.state if held is not None else b"\0\0"
                epoch = held.epoch if held is not None else 0
                return Followed(Whole(name_on_line(document, device), epoch, state))
    except Gap:
        return Followed(have(document, held, device))
    except BadFrame as error:
        refused = Refused(Refusal.MALFORMED, str(error))
    except Refused as error:
        refused = error
    epoch = 0 if isinstance(message, Fetch) else message.epoch
    refuse = Refuse(name_on_line(document, device), epoch, refused.refusal.value)
    return Followed(refuse, offence=refused)


def have(document: DocumentName, held: Holding | None, device: str, digest: bytes = b"") -> Have:
    """Return the statement of what is held of `document`."""
    name = name_on_line(document, device)
    if held is None:
        return Have(name, 0, encode_vector({}), digest)
    return Have(name, held.epoch, encode_vector(held.vector), digest)


def _answer_open(document: DocumentName, held: Holding | None, message: Open, device: str) -> Have:
    if held is None or not message.digest:
        return have(document, held, device)
    if held.epoch != message.epoch or held.vector != vector_of(message.vector):
        return have(document, held, device)
    return have(document, held, device, digest_of(values_of(held)))


def _diff(document: DocumentName, held: Holding | None, message: Diff, device: str) -> Followed:
    if held is None or held.epoch != message.epoch:
        return Followed(have(document, held, device))
    admission = admit(message.update, held.vector, document.writer)
    if admission.forecast == held.vector or tag_of(admission.forecast) != message.result:
        return Followed(have(document, held, device))
    applied = merge(held, message.update, admission)
    return _stored(document, applied, device)


def _full(document: DocumentName, held: Holding | None, message: Full, device: str) -> Followed:
    try:
        admission = admit(message.update, {}, document.writer)
    except Gap as gap:  # a whole document lacks nothing
        raise Refused(Refusal.BAD_REFERENCE, str(gap)) from None
    absorbed = absorbed_with((), *((epoch, vector_of(seen)) for epoch, seen in message.absorbed))
    if not _may_adopt(document, held, message.epoch, admission.forecast, absorbed):
        return Followed(have(document, held, device))
    applied = adopt(held, message.epoch, message.update, admission, absorbed)
    return _stored(document, applied, device)


def _may_adopt(
    document: DocumentName,
    held: Holding | None,
    epoch: int,
    vector: Vector,
    absorbed: Absorbed,
) -> bool:
    if held is None:
        return True
    if epoch == held.epoch:
        return vector != held.vector and covers(vector, held.vector)
    # What a device reported is not to be lost: its writer must have seen all we hold. The hub alone
    # says what it wants, so its newer epoch simply counts. Whose epoch is higher decides nothing
    # else: it may be a lie that a writer must not have to outbid.
    is_newer = epoch > held.epoch and document.writer is Side.HUB
    return is_newer or is_absorbed(absorbed, held.epoch, held.vector)


def _stored(document: DocumentName, applied: Applied, device: str) -> Followed:
    return Followed(have(document, applied.holding, device), applied.holding, applied.changed)
