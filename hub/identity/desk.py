"""Where devices and operators come about identities: one transaction each, and a bound on asking.

Owns the order of an operation and the limits on strangers. The policy is the registrar's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from hub.audit import DONE, UNCHANGED, Act, Ledger
from hub.clock import Clock
from hub.errors import TooMany
from hub.flood import Flood, network_of
from hub.identity.claims import Claim
from hub.identity.enrolment import Enrolment, State
from hub.identity.registrar import Asked, Registrar, Standing
from hub.identity.requests import holds_key
from hub.outcomes.provisioning import Provisioning, provisioning
from hub.store import identity as store
from hub.store.database import Connection, Database
from hub.store.identity import Identity
from sync.enrolment import ClaimToken

T = TypeVar("T")
D = TypeVar("D", Enrolment, Identity)

RATE_PER_S: Final = 5.0
BURST_COUNT: Final = 200
"""From one address. A workshop with hundreds of devices behind one router must not be turned
away."""

STRANGERS_PER_S: Final = 50.0
STRANGERS_BURST_COUNT: Final = 1000
"""From all addresses together, of those who enrol; each request costs about a millisecond."""

RENEWALS_PER_S: Final = 500.0
RENEWALS_BURST_COUNT: Final = 5000
"""Of those who renew, apart from the others: a flood of strangers lets no certificate expire."""

EVERYBODY: Final = ""

LIST_MAX: Final = 1000

TOO_MANY: Final = "too many requests about enrolment come from there: try later"


@dataclass(slots=True, kw_only=True)
class Desk:
    """What can be asked about identities."""

    registrar: Registrar
    database: Database
    clock: Clock
    address: str
    """`host:port` where devices reach the hub; part of every claim token."""
    ledger: Ledger
    """What operators decide goes through it."""
    _each: Flood = field(
        default_factory=lambda: Flood(rate_per_s=RATE_PER_S, burst_count=BURST_COUNT)
    )
    _strangers: Flood = field(
        default_factory=lambda: Flood(rate_per_s=STRANGERS_PER_S, burst_count=STRANGERS_BURST_COUNT)
    )
    _renewals: Flood = field(
        default_factory=lambda: Flood(rate_per_s=RENEWALS_PER_S, burst_count=RENEWALS_BURST_COUNT)
    )

    # ------------------------------------------------------------------------- for devices
    async def ask(self, asked: Asked, peer: str) -> Standing:
        """Take a request for enrolment from the address `peer`.

        Raises:
            Refusal: As `Registrar.ask`, or it is asked too often.
        """
        self._count(peer, self._strangers)
        known = replace(asked, source=network_of(peer))
        return await self._write(lambda db, now_ms: self.registrar.ask(db, known, now_ms))

    async def look(self, identity: str, nonce: str, peer: str) -> Standing:
        """Return how an enrolment stands; as `Registrar.look`."""
        self._count(peer, self._strangers)
        return await self._write(
            lambda db, now_ms: self.registrar.look(db, identity, nonce, now_ms)
        )

    async def renew(self, certificate: bytes, csr: bytes, proof: bytes, peer: str) -> bytes:
        """Return a new certificate; as `Registrar.renew`."""
        self._count(peer, self._renewals)
        return await self._write(
            lambda db, now_ms: self.registrar.renew(db, certificate, csr, proof, now_ms)
        )

    async def counts(self, device: str, der: bytes) -> bool:
        """Tell whether a certificate (DER) that `ssl` has verified is that of a live identity.

        The name does not suffice: a certificate that was revoked must not count again because a
        replacement was enrolled under the name.
        """
        known = await self.database.read(lambda db: store.load_identity(db, device))
        if known is None or known.revoked_ms is not None:
            return False
        return holds_key(der, known.key_digest)

    # ----------------------------------------------------------------------- for operators
    async def new_claim(
        self, *, device_class: str, device: str, uses_count: int, life_s: float
    ) -> tuple[Claim, str]:
        """Return a new claim token and its text, which is shown once and kept nowhere."""
        now_ms = self.clock.now_ms()
        asked = {
            "device_class": device_class,
            "device": device,
            "uses": uses_count,
            "expires_s": life_s,
        }
        act = Act("claim.create", "", asked)

        def job(db: Connection) -> tuple[Claim, bytes]:
            made = self.registrar.new_claim(
                db,
                device_class=device_class,
                device=device,
                uses_count=uses_count,
                life_ms=int(life_s * 1000),
                now_ms=now_ms,
            )
            act.object = made[0].id
            return made

        claim, secret = await self.ledger.write(act, job)
        fingerprint = self.registrar.authority.fingerprint
        token = ClaimToken(address=self.address, fingerprint=fingerprint, secret=secret)
        return claim, token.text()

    async def withdraw(self, claim: str) -> None:
        """Let a token not be used any more."""
        act = Act("claim.withdraw", claim, {})
        await self.ledger.write(act, lambda db: self.registrar.withdraw(db, claim))

    async def claims(self) -> list[Claim]:
        """Return all tokens, newest first."""
        return await self.database.read(store.claims)

    async def enrolments(self, state: State | None) -> list[Enrolment]:
        """Return the newest enrolments, newest first."""
        return await self.database.read(lambda db: store.latest(db, state, LIST_MAX))

    async def accept(self, name: str) -> Enrolment:
        """Let a device that waits come for its certificate."""
        return await self._decide("enrolment.accept", name, self.registrar.accept)

    async def refuse(self, name: str) -> Enrolment:
        """Turn a device away that has no certificate yet."""
        return await self._decide("enrolment.refuse", name, self.registrar.refuse)

    async def refuse_waiting(self, source: str | None, older_than_s: float) -> int:
        """Turn away all devices that wait, from one network or for so long; return how many."""
        now_ms = self.clock.now_ms()
        network = None if source is None else network_of(source.partition("/")[0])
        act = Act("enrolment.refuse", "all that wait", {"from": network, "older_s": older_than_s})

        def job(db: Connection) -> int:
            count = self.registrar.refuse_waiting(db, network, int(older_than_s * 1000), now_ms)
            act.outcome = DONE if count else UNCHANGED
            return count

        return await self.ledger.write(act, job)

    async def revoke(self, device: str) -> Identity:
        """Let a device not speak any more."""
        return await self._decide("device.revoke", device, self.registrar.revoke)

    async def funnel(self) -> Provisioning:
        """Return where devices drop off while they are provisioned."""
        now_ms = self.clock.now_ms()
        return provisioning(await self.database.read(store.courses), now_ms=now_ms)

    # -------------------------------------------------------------------------------------
    def _count(self, peer: str, everybody: Flood) -> None:
        now_mono = self.clock.mono_s()
        source = network_of(peer)
        self._each.forget(now_mono)
        # Whoever alone asks too much is turned away before the bound of all is touched. While all
        # together are too many, no further sources are remembered.
        if self._each.is_over(source, now_mono) or not everybody.admits(EVERYBODY, 1.0, now_mono):
            raise TooMany(TOO_MANY)
        self._each.charge(source, 1.0, now_mono)

    async def _decide(
        self, action: str, name: str, decide: Callable[[Connection, str, int], D]
    ) -> D:
        now_ms = self.clock.now_ms()
        act = Act(action, name, {"name": name})

        def job(db: Connection) -> D:
            decided = decide(db, name, now_ms)
            act.object = decided.device
            return decided

        return await self.ledger.write(act, job)

    async def _write(self, job: Callable[[Connection, int], T]) -> T:
        now_ms = self.clock.now_ms()
        return await self.database.write(lambda db: job(db, now_ms))
