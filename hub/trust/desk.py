"""What the API asks about trust: one object that knows no HTTP.

Owns putting the notary's work into transactions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from hub.audit import DONE, UNCHANGED, Act, Ledger
from hub.clock import Clock
from hub.errors import Clash
from hub.store.database import Connection, Database
from hub.trust import notary
from hub.trust.online import OnlineKeys

TIMESTAMP: Final = "timestamp.json"


@dataclass(frozen=True, slots=True)
class TrustDesk:
    """Trust of one hub."""

    database: Database
    clock: Clock
    keys: OnlineKeys
    ledger: Ledger

    async def view(self) -> dict[str, Any]:
        """Return the public halves of the online keys, and what is served of each role."""

        def job(db: Connection) -> dict[str, Any]:
            return notary.view(db, self.keys)

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
            WrongContent: It does not verify.
            Clash: There is no root, the list is older, or the hub lacks the keys.
        """
        now_ms = self.clock.now_ms()

        asked = {
            "roots_sha256": [sha256(each).hexdigest() for each in roots],
            "targets_sha256": None if targets is None else sha256(targets).hexdigest(),
        }
        act = Act("trust.hand_in", "signed metadata", asked)

        def job(db: Connection) -> dict[str, Any]:
            before = notary.view(db, self.keys)
            notary.hand_in(db, self.keys, roots, targets, now_ms=now_ms)
            after = notary.view(db, self.keys)
            act.outcome = UNCHANGED if after == before else DONE
            return after

        return await self.ledger.write(act, job)

    async def new_online_keys(self) -> dict[str, Any]:
        """Make new online keys; they sign once a root names them."""
        act = Act("trust.new_online_keys", "online keys", {})
        return await self.ledger.write(act, lambda _db: self.keys.renew())

    def _renew(self, db: Connection) -> None:
        try:
            notary.renew(db, self.keys, now_ms=self.clock.now_ms())
        except Clash:
            # The old timestamp is still served: what devices know goes on being true.
            return
