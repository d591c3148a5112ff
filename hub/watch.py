"""The watch over who is connected: presence messages become rows, and open or end conversations.

Owns the way of such a message. Runs on the writer's thread inside a transaction; `hub.presence`
decides what a message means.
"""

from collections.abc import Mapping

from hub.clock import Now
from hub.conversations import Conversations
from hub.offences import Offence, Offences
from hub.presence import (
    BadPresence,
    Presence,
    counts,
    gone_at_ms,
    is_news,
    parse_presence,
)
from hub.store import presence
from hub.store.database import Connection
from hub.store.presence import Known


class Stranger:
    """The device is not registered yet; register it and take its message again."""


STRANGER = Stranger()


class Watch:
    """What the hub knows of presence since it last connected."""

    def __init__(self, conversations: Conversations, offences: Offences) -> None:
        self._conversations = conversations
        self._offences = offences
        self._listening_since_ms = 0

    def begin(self, connection: Connection, now_ms: int) -> None:
        """The hub is connected to the broker: from now on it hears births and deaths."""
        presence.begin_listening(connection, now_ms)
        self._listening_since_ms = now_ms

    def end(self, connection: Connection, now_ms: int) -> None:
        """The hub lost the broker: until it is back nothing is known of anybody."""
        presence.end_listening(connection, now_ms)
        self._conversations.end_all()

    def take(
        self,
        connection: Connection,
        device: str,
        payload: bytes,
        known: Mapping[str, Known | int],
        now: Now,
    ) -> Known | Stranger | None:
        """Take one presence message; return what is known of the device if that changed."""
        try:
            said = parse_presence(payload)
        except BadPresence as error:
            self._offences.add(device, Offence.BAD_PRESENCE, str(error), now.mono_s)
            return None
        if said is None:
            return None
        before = known.get(device)
        if before is None:
            return STRANGER
        if isinstance(before, int):
            n = before
            logged_ms: int | None = now.ms
        elif not counts(said, known_birth=before.birth):
            return None
        else:
            n, logged_ms = before.n, self._logged_ms(said, before, now)
            if logged_ms is None and before.heard_ms <= now.ms:
                # Told again, as a broker does with what it retains. That proves nothing about now:
                # the device may be gone, and the broker not know it yet.
                return None
        found = Known(n, said.online, said.birth, now.ms, said.grace_ms, now.ms)
        presence.save(connection, found, logged_ms=logged_ms)
        if not said.online:
            self._conversations.end([device])
        return found

    def _logged_ms(self, said: Presence, before: Known, now: Now) -> int | None:
        """Return when the log should say that it happened, None if it is no news."""
        earlier = (before.is_online, before.birth, before.heard_ms)
        if not is_news(said, known=earlier, listening_since_ms=self._listening_since_ms):
            return None
        if said.online:
            return now.ms
        return gone_at_ms(
            said,
            grace_ms=before.grace_ms,
            last_heard_ms=before.last_heard_ms,
            now_ms=now.ms,
        )
