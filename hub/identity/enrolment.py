"""The life of one enrolment: which state follows what, as data.

Owns states, events and the table between them. Pure; who may cause an event is decided elsewhere.

An enrolment belongs to one key. It is asked for, is accepted by a claim token or by an operator or
waits for one, and then a certificate is issued when the device comes for it, not before, so that
its life does not begin while nobody has it.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where an enrolment stands. Values travel and are stored; never reuse one."""

    ASKED = "asked"
    """Heard of and nothing decided; lasts no longer than a transaction."""
    WAITING = "waiting"
    """An operator has to say."""
    ACCEPTED = "accepted"
    """The device may come for its certificate."""
    REFUSED = "refused"
    ISSUED = "issued"


class Event(StrEnum):
    """What can happen to an enrolment."""

    CLAIM = "claim"
    """The device showed a token that counts."""
    DISCLAIM = "disclaim"
    """The device showed a token that does not count."""
    WAIT = "wait"
    """The device showed no token."""
    ACCEPT = "accept"
    REFUSE = "refuse"
    ISSUE = "issue"
    """The device came for its certificate."""
    LAPSE = "lapse"
    """Nobody decided for too long, or there are too many."""


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.ASKED, Event.CLAIM): State.ACCEPTED,
    (State.ASKED, Event.DISCLAIM): State.REFUSED,
    (State.ASKED, Event.WAIT): State.WAITING,
    (State.WAITING, Event.CLAIM): State.ACCEPTED,
    # A wrong token does not take away the place in the queue: a typing error must not cost it.
    (State.WAITING, Event.DISCLAIM): State.WAITING,
    (State.WAITING, Event.WAIT): State.WAITING,
    (State.WAITING, Event.ACCEPT): State.ACCEPTED,
    (State.WAITING, Event.REFUSE): State.REFUSED,
    (State.WAITING, Event.LAPSE): State.REFUSED,
    (State.ACCEPTED, Event.CLAIM): State.ACCEPTED,
    (State.ACCEPTED, Event.DISCLAIM): State.ACCEPTED,
    (State.ACCEPTED, Event.WAIT): State.ACCEPTED,
    (State.ACCEPTED, Event.ACCEPT): State.ACCEPTED,
    (State.ACCEPTED, Event.REFUSE): State.REFUSED,
    (State.ACCEPTED, Event.ISSUE): State.ISSUED,
    # A token that counts, or an operator, may think again; asking once more changes nothing.
    (State.REFUSED, Event.CLAIM): State.ACCEPTED,
    (State.REFUSED, Event.DISCLAIM): State.REFUSED,
    (State.REFUSED, Event.WAIT): State.REFUSED,
    (State.REFUSED, Event.ACCEPT): State.ACCEPTED,
    (State.REFUSED, Event.REFUSE): State.REFUSED,
    # The answer with the certificate may have been lost, so coming again is fine.
    (State.ISSUED, Event.CLAIM): State.ISSUED,
    (State.ISSUED, Event.DISCLAIM): State.ISSUED,
    (State.ISSUED, Event.WAIT): State.ISSUED,
    (State.ISSUED, Event.ACCEPT): State.ISSUED,
    (State.ISSUED, Event.ISSUE): State.ISSUED,
    (State.ISSUED, Event.REFUSE): State.REFUSED,
}
"""What follows what. A pair that is missing cannot happen, or is refused to whoever tries."""


class WrongMoment(ValueError):
    """The event is not possible in the state; the enrolment is as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """One key that wants to belong, and what became of it. Times are hub UTC."""

    id: str
    """First half of the SHA-256 of the public key, in hex; the device shows the same."""
    device: str
    device_class: str
    csr: bytes
    nonce_hash: bytes
    state: State
    asked_ms: int
    accepted_ms: int | None = None
    issued_ms: int | None = None
    ended_ms: int | None = None
    """When it was refused."""
    reason: str = ""
    """Why it was refused; a code."""
    claim: str = ""
    """Id of the token that it came with."""
    source: str = ""
    """Network from which it was asked for first; empty if that is not known."""


def after(enrolment: Enrolment, event: Event, *, now_ms: int, reason: str = "") -> Enrolment:
    """Return the enrolment after an event; the first time of each step stays.

    Raises:
        WrongMoment: The event is not possible now.
    """
    state = TRANSITIONS.get((enrolment.state, event))
    if state is None:
        raise WrongMoment(
            f"enrolment {enrolment.id} is {enrolment.state}: {event} is not possible now"
        )
    if state is enrolment.state:
        return enrolment
    if state is State.REFUSED:
        return replace(enrolment, state=state, ended_ms=now_ms, reason=reason)
    changed = replace(enrolment, state=state, ended_ms=None, reason="")
    if state is State.ACCEPTED:
        return replace(changed, accepted_ms=enrolment.accepted_ms or now_ms)
    if state is State.ISSUED:
        return replace(changed, issued_ms=enrolment.issued_ms or now_ms)
    return changed
