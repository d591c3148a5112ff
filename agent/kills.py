"""Orders that something is off, from documents and from their own short topic.

Owns which order counts, and that an order which came by the topic alone outlives a restart: it is
on the disk before it is obeyed. What to do about one is decided where it matters: `agent.deciding`
for flags, `agent.work` for deployments.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from agent.documents import Documents
from agent.log import say
from agent.store import Store
from sync import documents as names
from sync import records
from sync.records import Clock, Kill, Text

logger = logging.getLogger(__name__)

KIND: Final = "kill"
"""Under which orders of the topic are stored; never reuse it."""

PAYLOAD_BYTES_MAX: Final = 16 * 1024
ORDERS_MAX: Final = 400
"""Orders of one list, and of all lists that no document holds as well."""

FLAG: Final = "flag:"
DEPLOYMENT: Final = "deployment:"

_Order = tuple[Annotated[str, Meta(max_length=100)], Clock, bool, Text]


class _List(msgspec.Struct, array_like=True):
    version: Annotated[int, Meta(ge=1, le=1)]
    sent_ms: int
    orders: Annotated[tuple[_Order, ...], Meta(max_length=ORDERS_MAX)]


class BadOrders(ValueError):
    """A list of orders cannot be read; its sender is to blame. What was known stays."""


def read_orders(payload: bytes) -> dict[str, Kill]:
    """Return the orders of one list. An empty payload, a list taken away, holds none.

    Raises:
        BadOrders: It is too long, or no such list.
    """
    if not payload:
        return {}
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BadOrders(f"{len(payload)} bytes of orders, at most {PAYLOAD_BYTES_MAX} allowed")
    try:
        told = msgspec.msgpack.decode(payload, type=_List)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadOrders(f"no list of orders: {str(error)[:120]}") from None
    found: dict[str, Kill] = {}
    for what, clock, is_killed, why in told.orders:
        if what.startswith((FLAG, DEPLOYMENT)):
            found[what] = later(found.get(what), Kill(clock, is_killed, why=why))
    return found


def later(one: Kill | None, other: Kill) -> Kill:
    """Return the order that counts: the later; of two at once the one that switches off."""
    if one is None or (other.clock, other.is_killed) > (one.clock, one.is_killed):
        return other
    return one


class Kills:
    """The orders that this device knows."""

    def __init__(
        self, store: Store, documents: Documents, *, on_changed: Callable[[], None]
    ) -> None:
        """`load` comes first; `on_changed` is called when the topic brought something new."""
        self._store = store
        self._documents = documents
        self._on_changed = on_changed
        self._told: dict[str, Kill] = {}
        self._stored: Mapping[str, Kill] = {}
        """What of it is on the disk: less than is obeyed, after there was no room."""

    async def load(self) -> None:
        """Read what the topic brought before a restart.

        Raises:
            StoreError: The store cannot be read.
        """
        stored = await self._store.kept(KIND)
        self._told = records.select(
            Kill, names.KILL, {names.KILL + what: value for what, value in stored.items()}
        )
        self._stored = self._told

    async def take(self, payload: bytes) -> None:
        """Take a list of the topic: store what is new, then obey it.

        Raises:
            StoreError: There is no room. It is obeyed for now: to be off is the safe side.
        """
        try:
            heard = read_orders(payload)
        except BadOrders as error:
            say(logger, "kill_orders_refused", level=logging.WARNING, error=error)
            return
        known = self.orders()
        new = {what: kill for what, kill in heard.items() if later(known.get(what), kill) is kill}
        told = self._without_known() | new
        while len(told) > ORDERS_MAX:  # what was taken back goes first, then the oldest
            del told[min(told, key=lambda what: (told[what].is_killed, told[what].clock))]
        changes: dict[str, bytes | None] = dict.fromkeys(self._stored.keys() - told.keys())
        changes |= {
            what: records.encode(kill)
            for what, kill in told.items()
            if self._stored.get(what) != kill
        }
        if not new and not any(changes.values()):
            return  # nothing but tidying, which can wait
        try:
            await self._store.keep_values(KIND, changes)
            self._stored = told
        finally:
            self._told = told
            for what, kill in new.items():
                say(logger, "kill_order", what=what, is_killed=kill.is_killed, why=kill.why)
            self._on_changed()

    def orders(self) -> dict[str, Kill]:
        """Return the order that counts, by what it is about."""
        found = dict(self._told)
        for values in self._documents.wanted().values():
            for what, kill in records.select(Kill, names.KILL, values).items():
                found[what] = later(found.get(what), kill)
        return found

    def flags(self) -> set[str]:
        """Return the flags that are off."""
        return self._off(FLAG)

    def deployments(self) -> set[str]:
        """Return the deployments that are off."""
        return self._off(DEPLOYMENT)

    def _off(self, prefix: str) -> set[str]:
        return {
            what[len(prefix) :]
            for what, kill in self.orders().items()
            if kill.is_killed and what.startswith(prefix)
        }

    def _without_known(self) -> dict[str, Kill]:
        """Return what the topic brought and no document holds by now."""
        held: dict[str, Kill] = {}
        for values in self._documents.wanted().values():
            for what, kill in records.select(Kill, names.KILL, values).items():
                held[what] = later(held.get(what), kill)
        return {
            what: kill
            for what, kill in self._told.items()
            if what not in held or held[what].clock < kill.clock
        }
