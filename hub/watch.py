"""The watch over who is connected: presence messages become rows, and open or end conversations.

Owns the way of such a message. Runs on the writer's thread inside a transaction; `hub.presence`
decides what a message means.
"""

from collections.abc import Callable, Mapping

from hub.conversations import Conversations
from hub.offences import Offence, Offences
from hub.presence import BadPresence, counts, gone_at_ms, is_news, parse_presence
from hub.store import presence
from hub.store.database import Connection
from hub.store.presence import Known

Register = Callable[[Connection, str, int, float], int | None]
"""Registers a device at a time (hub UTC, monotonic) and gives its number, None if it may not."""


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
        register: Register,
        now_ms: int,
        now_mono: float,
    ) -> Known | None:
        """Take one presence message; return what is known of the device now if it changed."""
        try:
            said = parse_presence(payload)
        except BadPresence as error:
            self._offences.add(device, Offence.BAD_PRESENCE, str(error), now_mono)
            return None
        if said is None:
            return None
        before = known.get(device)
        if before is None or isinstance(before, int):
            n = before if before is not None else register(connection, device, now_ms, now_mono)
            if n is None:
                return None
            earlier = None
        else:
            n = before.n
            if not counts(said, known_birth=before.birth):
                return None
            earlier = (before.is_online, before.birth, before.heard_ms)
        grace_ms = said.grace_ms
        logged_ms: int | None = None
        if is_news(said, known=earlier, listening_since_ms=self._listening_since_ms):
            logged_ms = now_ms
            if not said.online and isinstance(before, Known):
                logged_ms = gone_at_ms(
                    said,
                    grace_ms=before.grace_ms,
                    last_heard_ms=before.last_heard_ms,
                    now_ms=now_ms,
                )
        now_known = Known(n, said.online, said.birth, now_ms, grace_ms, now_ms)
        presence.save(connection, now_known, logged_ms=logged_ms)
        if not said.online:
            self._conversations.end([device])
        return now_known
