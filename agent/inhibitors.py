"""Locks of applications: what on this device asks that nothing be installed now.

Owns who holds a lock, why, and until when. Pure: the moment is an argument, and who stores and who
talks is elsewhere (`agent.holding`).

Rule: every lock ends by itself. Its end is counted by CLOCK_BOOTTIME in the boot in which it was
taken, so neither setting the wall clock nor a reboot keeps a lock that nobody needs any more.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from sync.stamps import Stamp

LOCKS_MAX: Final = 16
"""Half of the applications that may be connected, so that others can always ask why."""

OWNER_CHARACTERS_MAX: Final = 63
REASON_CHARACTERS_MAX: Final = 120

TTL_S: Final = 3600.0
"""How long a lock lasts if its owner does not say."""

TTL_MAX_S: Final = 86_400.0
"""Longest that an owner may ask for; it may ask again."""

RETURN_S: Final = 15.0
"""After a restart of the agent, applications whose lock ended with their connection have so long to
come back for it."""


class BadLock(ValueError):
    """The lock cannot be taken, kept or released; says why. Nothing was changed."""


class Lock(msgspec.Struct, frozen=True, array_like=True):
    """One lock. Stored; fields are only ever appended."""

    id: str
    owner: str
    """What holds it, in its own words."""
    reason: str
    boot: bytes
    since_ms: int
    """CLOCK_BOOTTIME."""
    until_ms: int
    """CLOCK_BOOTTIME."""
    is_lease: bool
    """Whether it outlives the connection over which it was taken."""
    uid: int
    """The user who took it, by the kernel's word."""

    def left_s(self, now: Stamp) -> float:
        """Return for how many seconds it still counts; 0 if it does not."""
        if self.boot != now.boot:
            return 0.0
        return max(0, self.until_ms - now.boottime_ms) / 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an application asks for."""

    owner: str
    reason: str
    ttl_s: float = TTL_S
    is_lease: bool = False
    id: str = ""
    """The lock that is to be kept longer; empty for a new one."""


class Inhibitors:
    """All locks."""

    def __init__(self, locks: Iterable[Lock] = ()) -> None:
        """Begin with `locks`."""
        self._locks = {lock.id: lock for lock in locks}

    def held(self, now: Stamp) -> tuple[Lock, ...]:
        """Return the locks that count now, the oldest first."""
        for lock in list(self._locks.values()):
            if not lock.left_s(now):
                del self._locks[lock.id]
        return tuple(sorted(self._locks.values(), key=lambda lock: (lock.since_ms, lock.id)))

    def take(self, wanted: Wanted, uid: int, now: Stamp) -> Lock:
        """Take a lock, or keep one that is held for longer; return it.

        Raises:
            BadLock: The request makes no sense, or there are too many locks.
        """
        _check(wanted)
        held = {lock.id: lock for lock in self.held(now)}
        until_ms = now.boottime_ms + round(wanted.ttl_s * 1000)
        if wanted.id:
            kept = self._theirs(wanted.id, uid, held)
            lock = msgspec.structs.replace(kept, until_ms=until_ms, reason=wanted.reason)
        else:
            if len(held) >= LOCKS_MAX:
                raise BadLock(f"there are {len(held)} locks already, and no room for another")
            lock = Lock(
                secrets.token_hex(6),
                wanted.owner,
                wanted.reason,
                now.boot,
                now.boottime_ms,
                until_ms,
                wanted.is_lease,
                uid,
            )
        self._locks[lock.id] = lock
        return lock

    def release(self, lock_id: str, uid: int, now: Stamp) -> Lock:
        """Release a lock and return it.

        Raises:
            BadLock: It is not held (any more), or another user's.
        """
        lock = self._theirs(lock_id, uid, {lock.id: lock for lock in self.held(now)})
        del self._locks[lock.id]
        return lock

    def hang_up(self, lock_ids: Iterable[str]) -> bool:
        """Release what ends with the connection over which it was taken; True if anything was."""
        gone = [
            lock_id
            for lock_id in lock_ids
            if (lock := self._locks.get(lock_id)) is not None and not lock.is_lease
        ]
        for lock_id in gone:
            del self._locks[lock_id]
        return bool(gone)

    @staticmethod
    def _theirs(lock_id: str, uid: int, held: dict[str, Lock]) -> Lock:
        lock = held.get(lock_id)
        if lock is None:
            raise BadLock(f"no lock {lock_id[:40]!r} is held: it has ended, or was released")
        if uid not in (0, lock.uid):
            raise BadLock(f"the lock {lock_id[:40]!r} is held by user {lock.uid}")
        return lock


def after_restart(locks: Iterable[Lock], now: Stamp) -> list[Lock]:
    """Return which of the stored locks count after the agent was started anew, and how long."""
    kept = []
    for lock in locks:
        left_s = lock.left_s(now)
        if left_s and not lock.is_lease:
            left_s = min(left_s, RETURN_S)
        if left_s:
            until_ms = now.boottime_ms + round(left_s * 1000)
            kept.append(msgspec.structs.replace(lock, until_ms=until_ms))
    return kept


def _check(wanted: Wanted) -> None:
    for name, text, longest in (
        ("owner", wanted.owner, OWNER_CHARACTERS_MAX),
        ("reason", wanted.reason, REASON_CHARACTERS_MAX),
    ):
        if not text.strip() or len(text) > longest or not text.isprintable():
            raise BadLock(f'"{name}" must be 1 to {longest} printable characters')
    if not 0 < wanted.ttl_s <= TTL_MAX_S:
        raise BadLock(f'"ttl_s" must be above 0 and at most {TTL_MAX_S:g}; ask again to keep it')
