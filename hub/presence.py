"""Births and deaths of devices: what a presence message says, and what it changes.

Owns the messages' form and the decision what counts. Never stores (`hub.store.presence`).

Rules: a death is believed only of the newest birth, because a broker may publish the will of an
older connection after the device came back. What is not known counts as absent: when the hub was
away itself, a device is known to be connected only once it was heard of again; and when a
connection dies, the device may have been gone since it was last heard, because a broker notices
only after one and a half keep-alive times and may then wait before it publishes the will.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

PRESENCE_BYTES_MAX: Final = 2048
"""Longest presence message that is looked at."""

WILL_DELAY_MS: Final = 10_000
"""Longest that a device asks the broker to wait with its will (`Link.will_delay_s`)."""


class BadPresence(ValueError):
    """The payload is no birth or death. Its sender is to blame; nothing was changed."""


class Presence(msgspec.Struct, frozen=True):
    """A birth, or the death that belongs to it. Fields that are not known here are ignored."""

    online: bool
    birth: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    """Number of the connection; each is used once, later ones are higher."""
    keepalive_s: Annotated[int, Meta(ge=1, le=3600)] = 33
    """How often the device at least shows the broker that it is there."""
    clean: bool = False
    """Of a death: the device said goodbye itself."""

    @property
    def grace_ms(self) -> int:
        """Return how late a death of this connection may be heard (MQTT 3.1.1, 3.1.2.10)."""
        return self.keepalive_s * 1500 + WILL_DELAY_MS


_DECODER = msgspec.json.Decoder(Presence)


def parse_presence(payload: bytes) -> Presence | None:
    """Return what a presence message says, None for an empty one, which only clears the broker.

    Raises:
        BadPresence: It is too long or says something else.
    """
    if not payload:
        return None
    if len(payload) > PRESENCE_BYTES_MAX:
        raise BadPresence(f"{len(payload)} bytes, at most {PRESENCE_BYTES_MAX} allowed")
    try:
        return _DECODER.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadPresence(str(error)[:200]) from None


def counts(said: Presence, *, known_birth: int | None) -> bool:
    """Tell whether a message is to be believed, given the newest birth known.

    A birth always is: after a device's disk was rolled back its numbers start lower again.
    """
    return said.online or known_birth is None or said.birth >= known_birth


def is_news(
    said: Presence, *, known: tuple[bool, int, int] | None, listening_since_ms: int
) -> bool:
    """Tell whether a message that counts belongs into the log.

    It does if it changes something, and if it is the first that is heard of the device since the
    hub has been listening.

    Args:
        said: The message.
        known: (online, birth, hub UTC when heard) as stored, None if nothing is.
        listening_since_ms: Hub UTC since when the hub has been connected without a break.
    """
    if known is None:
        return True
    is_online, birth, heard_ms = known
    return (is_online, birth) != (said.online, said.birth) or heard_ms < listening_since_ms


def gone_at_ms(said: Presence, *, grace_ms: int, last_heard_ms: int, now_ms: int) -> int:
    """Return since when the device of a death that is heard now may have been gone, hub UTC."""
    if said.clean:
        return now_ms
    return min(now_ms, max(last_heard_ms, now_ms - grace_ms))
