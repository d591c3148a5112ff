"""What the API asks about trust: one object that knows no HTTP.

Owns putting the notary's work into transactions.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from hub.audit import DONE, UNCHANGED, Act, Ledger, is_admin_acting
from hub.clock import Clock
from hub.errors import Clash, Forbidden
from hub.store.database import Connection, Database
from hub.trust import notary
from hub.trust.online import OnlineKeys

TIMESTAMP: Final = "timestamp.json"

FIRST_ROOT: Final = (
    "this hub has no root yet, and whoever hands in the first decides whom its devices believe: "
    "that needs the token of an admin"
)


@dataclass(frozen=True, slots=True)
class TrustDesk:
    """Trust of one hub."""

    database: Database
    clock: Clock
    keys: OnlineKeys
    ledger: Ledger
    _alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Keys that were made and are not offered yet must not be taken for former ones."""

    async def view(self) -> dict[str, Any]:
        """Return the public halves of the online keys, and what is served of each role."""

        def job(db: Connection) -> dict[str, Any]:
            return notary.view(db, self.keys) | {"now_ms": self.clock.now_ms()}

        # Writing, because the first look makes the keys.
        return await self.database.write(job)

    async def metadata(self, name: str) -> bytes:
        """Return metadata by the name under which it is served; the timestamp is kept fresh.

        Raises:
            NotFound: There is none.
        """
        now_ms = self.clock.now_ms()
        if name == TIMESTAMP and await self.database.read(lambda db: notary.is_due(db, now_ms)):
            await self.database.write(self._renew)
        return await self.database.read(lambda db: notary.find(db, name))

    async def root(self) -> bytes:
        """Return the newest root, which a device pins when it is enrolled.

        Raises:
            NotFound: There is none yet.
        """
        return await self.database.read(notary.newest_root)

    async def listed(self) -> frozenset[bytes]:
        """Return the digests of the manifests on the signed list."""
        return frozenset((await self.database.read(notary.listed)).values())

    async def hand_in(self, roots: Sequence[bytes], targets: bytes | None) -> dict[str, Any]:
        """Take what an operator has signed; all or nothing.

        Raises:
            Forbidden: It would be the first root of this hub, and no admin hands it in.
            WrongContent: It does not verify.
            Clash: There is no root, the list is older, or the hub lacks the keys.
        """
        now_ms = self.clock.now_ms()

        asked = {
            "roots_sha256": [sha256(each).hexdigest() for each in roots],
            "targets_sha256": None if targets is None else sha256(targets).hexdigest(),
        }
        act = Act("trust.hand_in", "signed metadata", asked)
        may_begin = is_admin_acting()

        def job(db: Connection) -> dict[str, Any]:
            if not notary.is_rooted(db) and not may_begin:
                raise Forbidden(FIRST_ROOT)
            before = notary.view(db, self.keys)
            notary.hand_in(db, self.keys, roots, targets, now_ms=now_ms)
            after = notary.view(db, self.keys)
            act.outcome = UNCHANGED if after == before else DONE
            return after

        async with self._alone:
            after = await self.ledger.write(act, job)
            await self.database.write(lambda db: notary.forget_former(db, self.keys))
        return after

    async def new_online_keys(self) -> dict[str, Any]:
        """Make new online keys and offer them; they sign once a root names them.

        Raises:
            OSError: The keys cannot be written; what was offered still is.
        """
        async with self._alone:
            public = await asyncio.to_thread(self.keys.make)
            asked = {role: key["keyid"] for role, key in public.items()}
            act = Act("trust.new_online_keys", "online keys", asked)
            now_ms = self.clock.now_ms()
            await self.ledger.write(act, lambda db: notary.offer(db, public, now_ms=now_ms))
            await asyncio.to_thread(self.keys.offer, public)
        return public

    def _renew(self, db: Connection) -> None:
        try:
            notary.renew(db, self.keys, now_ms=self.clock.now_ms())
        except Clash:
            # The old timestamp is still served: what devices know goes on being true.
            return
