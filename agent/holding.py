"""Locks over the local socket: applications take, keep and release them, and list all.

Owns the operations, and that locks outlive a restart of the agent in the same boot. What a lock is
and when it ends is `agent.inhibitors`.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from agent.clock import Clock
from agent.inhibitors import TTL_S, BadLock, Inhibitors, Lock, Wanted, after_restart
from agent.local import BadRequest, Client
from agent.log import say
from agent.store import Store, StoreError

logger = logging.getLogger(__name__)

KIND: Final = "lock"
"""Under which locks are stored; never reuse it."""


class Holding:
    """The locks of this device."""

    def __init__(self, store: Store, clock: Clock, *, on_changed: Callable[[], None]) -> None:
        """`load` comes first; `on_changed` is called when a lock was taken or released."""
        self._store = store
        self._clock = clock
        self._on_changed = on_changed
        self._locks = Inhibitors()
        self._of_client: dict[Client, set[str]] = {}

    async def load(self) -> None:
        """Read the locks that were held before a restart of the agent, and forget those of boots.

        Raises:
            StoreError: The store cannot be read or written.
        """
        stored = await self._store.kept(KIND)
        found = [lock for each in stored.values() if (lock := _decode(each)) is not None]
        kept = {lock.id: lock for lock in after_restart(found, self._clock.stamp())}
        self._locks = Inhibitors(kept.values())
        await self._store.keep_values(KIND, {name: None for name in stored if name not in kept})

    def held(self) -> tuple[Lock, ...]:
        """Return the locks that count now."""
        return self._locks.held(self._clock.stamp())

    async def inhibit(self, request: Mapping[str, Any], client: Client) -> dict[str, Any]:
        """Answer `inhibit`: take a lock, or keep one longer."""
        wanted = _wanted(request)
        try:
            lock = self._locks.take(wanted, client.uid, self._clock.stamp())
        except BadLock as error:
            raise BadRequest(str(error)) from None
        if not lock.is_lease:
            held = self._of_client.setdefault(client, set())
            held.add(lock.id)
            client.holds = partial(self._holds, client)
            client.hung_up = partial(self._hung_up, client)
        await self._store_locks({lock.id: msgspec.msgpack.encode(lock)})
        say(logger, "lock_taken", lock=lock.id, owner=lock.owner, reason=lock.reason)
        self._on_changed()
        return self._row(lock)

    async def release(self, request: Mapping[str, Any], client: Client) -> dict[str, Any]:
        """Answer `release`: let go of a lock."""
        lock_id = request.get("lock")
        if not isinstance(lock_id, str):
            raise BadRequest('"release" needs a "lock"')
        try:
            lock = self._locks.release(lock_id, client.uid, self._clock.stamp())
        except BadLock as error:
            raise BadRequest(str(error)) from None
        await self._released([lock.id], "released")
        return {"lock": lock.id, "owner": lock.owner}

    async def inhibitors(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `inhibitors`: every lock that counts now."""
        return {"locks": self.rows()}

    def rows(self) -> list[dict[str, Any]]:
        """Return every lock that counts now, the oldest first."""
        return [self._row(lock) for lock in self.held()]

    def _row(self, lock: Lock) -> dict[str, Any]:
        now = self._clock.stamp()
        return {
            "lock": lock.id,
            "owner": lock.owner,
            "reason": lock.reason,
            "lease": lock.is_lease,
            "uid": lock.uid,
            "held_s": round((now.boottime_ms - lock.since_ms) / 1000, 1),
            "ends_in_s": round(lock.left_s(now), 1),
        }

    def _holds(self, client: Client) -> bool:
        ours = self._of_client.get(client, set())
        return any(lock.id in ours for lock in self.held())

    async def _hung_up(self, client: Client) -> None:
        ours = self._of_client.pop(client, set())
        if self._locks.hang_up(ours):
            await self._released(ours, "hung up")

    async def _released(self, lock_ids: Any, how: str) -> None:
        await self._store_locks(dict.fromkeys(lock_ids))
        say(logger, "lock_released", locks=",".join(sorted(lock_ids)), how=how)
        self._on_changed()

    async def _store_locks(self, values: Mapping[str, bytes | None]) -> None:
        """Store a change; a lock counts while this agent runs even if there is no room for it."""
        try:
            await self._store.keep_values(KIND, values)
        except StoreError as error:
            say(logger, "lock_not_stored", level=logging.WARNING, error=error)


def _wanted(request: Mapping[str, Any]) -> Wanted:
    owner, reason, lock_id = (request.get(name, "") for name in ("owner", "reason", "lock"))
    ttl_s, is_lease = request.get("ttl_s", TTL_S), request.get("lease", False)
    if not (isinstance(owner, str) and isinstance(reason, str) and isinstance(lock_id, str)):
        raise BadRequest('"owner", "reason" and "lock" must be text')
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float):
        raise BadRequest('"ttl_s" must be a number of seconds')
    if not isinstance(is_lease, bool):
        raise BadRequest('"lease" must be true or false')
    return Wanted(owner, reason, float(ttl_s), is_lease, lock_id)


def _decode(stored: bytes) -> Lock | None:
    try:
        return msgspec.msgpack.decode(stored, type=Lock)
    except (msgspec.MsgspecError, ValueError):
        return None
