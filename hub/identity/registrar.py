"""Who gets a certificate: the way of an enrolment, a renewal and a revocation through the store.

Owns the order and the policy. Every method that changes something runs in a transaction that the
caller gives, on the writer's thread; nothing here opens a socket or reads a clock.

Rules: one device has one key. Another key of the same name is refused until an operator has
revoked the first, so a claim token for any device never takes over one that is there. What
strangers can make the hub keep is bounded.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hub.errors import Clash, Forbidden, NotFound, Refusal, TooMany
from hub.identity.ca import Authority, Revoked, certificate_pem, milliseconds, utc
from hub.identity.claims import Claim, problem_of, spend
from hub.identity.enrolment import Enrolment, Event, State, WrongMoment, after
from hub.identity.requests import (
    BadRequest,
    CertificateRequest,
    check_renewal,
    key_digest,
    names_of,
    read_certificate,
    read_request,
)
from hub.store import identity as store
from hub.store.database import Connection
from hub.store.identity import Identity
from sync.documents import BadName
from sync.enrolment import CLASS_PATTERN, NONCE_HEX, SECRET_BYTES, secret_hash
from sync.topics import check_device

WAITING_MAX: Final = 1000
"""Enrolments that wait for an operator. Whoever has a token needs no place among them."""

WAITING_PER_SOURCE_MAX: Final = 300
"""Of them from one network: a workshop, but not the whole queue."""

WAITING_LIFE_MS: Final = 30 * 86_400_000
"""After this an enrolment that nobody decided about lapses."""

REFUSED_KEPT: Final = 1000
LISTED_MAX: Final = WAITING_MAX + REFUSED_KEPT
"""Enrolments of one name that are looked at; there cannot be many more."""

CLAIMS_MAX: Final = 10_000
CLAIM_KEPT_MS: Final = 30 * 86_400_000
"""Tokens are listed this long after they expired."""

RENEWED_FROM_RATIO: Final = 0.5
"""Part of a certificate's life before which a renewal is answered with the same certificate."""

TAKEN: Final = "name_taken"
LAPSED: Final = "lapsed"
REVOKED: Final = "revoked"
REFUSED: Final = "refused"

HINTS: Final = {
    "token_unknown": "the hub does not know this claim token: ask for a new one",
    "token_expired": "the claim token has expired: ask for a new one",
    "token_spent": "the claim token was used as often as it may be: ask for a new one",
    "token_withdrawn": "the claim token was withdrawn: ask for a new one",
    "token_wrong_class": "the claim token is for another device class",
    "token_wrong_name": "the claim token is for a device of another name",
    TAKEN: "a device of this name has enrolled with another key: choose another name, or let an "
    "operator revoke the other first (fieldfare enroll revoke)",
    LAPSED: "nobody decided about this enrolment for too long: let an operator accept it, or use "
    "a claim token",
    REVOKED: "an operator has revoked this device",
    REFUSED: "an operator has refused this device",
}
"""What to do about each reason for a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a device asks for."""

    csr: bytes
    """PEM."""
    nonce: str
    """What proves later that the enrolment is its own; 64 hex digits."""
    device_class: str
    secret: bytes | None = None
    """Of its claim token, if it has one."""
    source: str = ""
    """Network from which it asks."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an enrolment stands, for the device that asked."""

    enrolment: Enrolment
    certificate: bytes | None
    """PEM, once it is issued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """The authority, and how long its certificates live."""

    authority: Authority
    life: timedelta
    """Of a device's certificate."""
    grace: timedelta
    """How long after its end a certificate can still be renewed."""
    on_revoked: Callable[[bytes], None]
    """Takes the new list of revoked certificates (PEM)."""

    # ------------------------------------------------------------------------- for devices
    def ask(self, db: Connection, asked: Asked, now_ms: int) -> Standing:
        """Take a request for enrolment; asking again with the same key and nonce is fine.

        Raises:
            Refusal: The request makes no sense, or there are too many.
        """
        request = _request(asked.csr)
        if not NONCE_HEX.match(asked.nonce):
            raise Refusal("the nonce must be 64 hex digits in lower case")
        if not CLASS_PATTERN.match(asked.device_class):
            raise Refusal("device_class must have 1 to 63 of letters, digits, '.', '_', '-'")
        identity = enrolment_id(request.key_digest)
        found = store.load_enrolment(db, identity)
        if found is None:
            found = self._begin(db, identity, request, asked, now_ms)
        elif not compare_digest(found.nonce_hash, _nonce_hash(asked.nonce)):
            raise Clash(
                "this key has asked before with another nonce: let the device make a new key"
            )
        elif (found.device, found.device_class) != (request.device, asked.device_class):
            found = self._rename(found, request, asked, now_ms)
        stood = self._decide(db, found, asked.secret, now_ms)
        return self._answer(db, stood, now_ms)

    def look(self, db: Connection, identity: str, nonce: str, now_ms: int) -> Standing:
        """Return how an enrolment stands, and the certificate if it was accepted meanwhile.

        Raises:
            NotFound: There is none of this id, or the nonce is not that of its device.
        """
        found = store.load_enrolment(db, identity)
        if found is None or not compare_digest(found.nonce_hash, _nonce_hash(nonce)):
            raise NotFound("there is no such enrolment here: ask again")
        return self._answer(db, found, now_ms)

    def renew(
        self, db: Connection, certificate_pem_: bytes, csr: bytes, proof: bytes, now_ms: int
    ) -> bytes:
        """Return a new certificate (PEM) for the device that proves to hold the old one's key.

        The old one may have expired, up to the grace. One that has most of its life before it is
        given back as it is, so a lost answer, or a device in a loop, costs nothing.

        Raises:
            Refusal: The request makes no sense.
            Forbidden: The certificate is none of ours, was revoked, or expired too long ago.
        """
        request = _request(csr)
        certificate = _read(certificate_pem_)
        if not self.authority.signed(certificate):
            raise Forbidden("this certificate was not made by this hub: enrol again")
        _checked(certificate, request, proof)
        device = names_of(certificate)[0]
        known = store.load_identity(db, device)
        if known is None or key_digest(certificate.public_key()) != known.key_digest:
            raise Forbidden("this certificate belongs to nobody here: enrol again")
        if known.revoked_ms is not None:
            raise Forbidden(HINTS[REVOKED])
        if self._is_over(known, now_ms):
            days = self.grace.days
            raise Forbidden(f"the certificate expired more than {days} days ago: enrol again")
        used_ms = now_ms - known.not_before_ms
        is_fresh = used_ms < RENEWED_FROM_RATIO * (known.not_after_ms - known.not_before_ms)
        if is_fresh and request.key_digest == known.key_digest:
            return known.certificate
        return self._sign(
            db, device, known.device_class, known.enrolment, request, now_ms
        ).certificate

    # ----------------------------------------------------------------------- for operators
    def new_claim(
        self,
        db: Connection,
        *,
        device_class: str,
        device: str,
        uses_count: int,
        life_ms: int,
        now_ms: int,
    ) -> tuple[Claim, bytes]:
        """Return a new token and its secret, which is kept nowhere.

        Raises:
            Refusal: A value is out of bounds.
        """
        if not CLASS_PATTERN.match(device_class):
            raise Refusal("device_class must have 1 to 63 of letters, digits, '.', '_', '-'")
        if device:
            _device(device)
            if uses_count != 1:
                raise Refusal("a token for one device can be used once")
        store.drop_claims(db, now_ms - CLAIM_KEPT_MS)
        if len(store.claims(db)) >= CLAIMS_MAX:
            raise TooMany(f"there are {CLAIMS_MAX} claim tokens; wait until some have expired")
        secret = secrets.token_bytes(SECRET_BYTES)
        claim = Claim(
            id=f"c{secrets.token_hex(4)}",
            secret_hash=secret_hash(secret),
            device_class=device_class,
            device=device,
            uses_count=uses_count,
            spent_count=0,
            created_ms=now_ms,
            expires_ms=now_ms + life_ms,
        )
        store.save_claim(db, claim)
        return claim, secret

    def withdraw(self, db: Connection, claim: str) -> None:
        """Let a token not be used any more.

        Raises:
            NotFound: There is none of this id.
        """
        for each in store.claims(db):
            if each.id == claim:
                store.save_claim(db, replace(each, is_withdrawn=True))
                return
        raise NotFound(f"there is no claim token {claim[:40]!r}")

    def accept(self, db: Connection, name: str, now_ms: int) -> Enrolment:
        """Let a device that waits come for its certificate; `name` is its id, or the device's.

        Raises:
            NotFound: Nothing of this name waits.
            Clash: Several do, or another key has the device's name.
        """
        found = self._one(db, name, (State.WAITING, State.REFUSED, State.ACCEPTED))
        if self._is_taken(db, found.device, found):
            raise Clash(HINTS[TAKEN])
        return self._change(db, found, Event.ACCEPT, now_ms)

    def refuse(self, db: Connection, name: str, now_ms: int) -> Enrolment:
        """Turn a device away that has no certificate yet.

        Raises:
            NotFound: Nothing of this name waits.
            Clash: Several do.
        """
        found = self._one(db, name, (State.WAITING, State.ACCEPTED, State.REFUSED))
        return self._change(db, found, Event.REFUSE, now_ms, REFUSED)

    def refuse_waiting(
        self, db: Connection, source: str | None, older_than_ms: int, now_ms: int
    ) -> int:
        """Turn away all that wait for longer than that, from one network if one is named.

        Returns:
            How many they were.
        """
        found = store.waiting(db, source, now_ms - older_than_ms + 1)
        for each in found:
            self._change(db, each, Event.REFUSE, now_ms, REFUSED)
        return len(found)

    def revoke(self, db: Connection, device: str, now_ms: int) -> Identity:
        """Let a device not speak any more; it may enrol anew, with a new key.

        Raises:
            NotFound: No device of this name has enrolled.
        """
        known = store.load_identity(db, device)
        if known is None:
            raise NotFound(f"no device called {device[:64]!r} has enrolled")
        store.revoke(db, device, now_ms)
        # What was accepted and not yet fetched under this name would undo it.
        for each in store.named(db, device, LISTED_MAX):
            if each.device == device and each.state in (State.ISSUED, State.ACCEPTED):
                self._change(db, each, Event.REFUSE, now_ms, REVOKED)
        self.on_revoked(self.crl(db, now_ms))
        return known

    def crl(self, db: Connection, now_ms: int) -> bytes:
        """Return the list of revoked certificates (PEM) as of now."""
        listed = [Revoked(serial, utc(at_ms)) for serial, at_ms in store.revoked(db, now_ms)]
        crl = self.authority.sign_crl(listed, now=utc(now_ms))
        return crl_pem(crl)

    # ---------------------------------------------------------------------------- the way
    def _begin(
        self,
        db: Connection,
        identity: str,
        request: CertificateRequest,
        asked: Asked,
        now_ms: int,
    ) -> Enrolment:
        for each in store.waiting(db, None, now_ms - WAITING_LIFE_MS):
            self._change(db, each, Event.LAPSE, now_ms, LAPSED)
        store.keep_refused(db, REFUSED_KEPT)
        return Enrolment(
            id=identity,
            device=request.device,
            device_class=asked.device_class,
            csr=request.der,
            nonce_hash=_nonce_hash(asked.nonce),
            state=State.ASKED,
            asked_ms=now_ms,
            source=asked.source,
        )

    def _rename(
        self, found: Enrolment, request: CertificateRequest, asked: Asked, now_ms: int
    ) -> Enrolment:
        """The same key asks under another name: what was decided was decided about the other."""
        if found.state is State.ISSUED or found.reason == REVOKED:
            raise Clash(f"this key belongs to {found.device}: let the device make a new key")
        return replace(
            found,
            device=request.device,
            device_class=asked.device_class,
            csr=request.der,
            state=State.ASKED,
            asked_ms=now_ms,
            accepted_ms=None,
            claim="",
        )

    def _decide(
        self, db: Connection, found: Enrolment, secret: bytes | None, now_ms: int
    ) -> Enrolment:
        if found.state is State.ISSUED:
            known = store.load_identity(db, found.device)
            if known is None or not self._is_over(known, now_ms):
                return found
            # Nothing is left that could be renewed, so somebody has to decide anew.
            found = replace(found, state=State.ASKED, accepted_ms=None, issued_ms=None)
        if secret is not None:
            return self._claim(db, found, secret, now_ms)
        if found.state is State.ASKED:
            self._check_queue(db, found.source)
        return self._change(db, found, Event.WAIT, now_ms)

    def _check_queue(self, db: Connection, source: str) -> None:
        for count, limit, whose in (
            (store.count_waiting(db, source), WAITING_PER_SOURCE_MAX, " from there"),
            (store.count_in(db, State.WAITING), WAITING_MAX, ""),
        ):
            if count >= limit:
                raise TooMany(
                    f"{limit} devices{whose} wait already: let an operator decide about them, or "
                    "use a claim token"
                )

    def _claim(self, db: Connection, found: Enrolment, secret: bytes, now_ms: int) -> Enrolment:
        if found.state is State.ACCEPTED or found.reason == REVOKED:
            return found  # a key that was revoked stays so, whatever token it finds
        claim = store.load_claim(db, secret_hash(secret))
        problem = problem_of(
            claim, device=found.device, device_class=found.device_class, now_ms=now_ms
        )
        if problem is not None or claim is None:
            return self._change(db, found, Event.DISCLAIM, now_ms, str(problem))
        if self._is_taken(db, found.device, found):
            return self._change(db, found, Event.DISCLAIM, now_ms, TAKEN)
        store.save_claim(db, spend(claim))
        return self._change(db, replace(found, claim=claim.id), Event.CLAIM, now_ms)

    def _answer(self, db: Connection, found: Enrolment, now_ms: int) -> Standing:
        """Issue what was accepted, and return how it stands."""
        if found.state is State.ISSUED:
            known = store.load_identity(db, found.device)
            return Standing(found, None if known is None else known.certificate)
        if found.state is not State.ACCEPTED:
            return Standing(found, None)
        if self._is_taken(db, found.device, found):
            return Standing(self._change(db, found, Event.REFUSE, now_ms, TAKEN), None)
        request = _request(x509_pem(found.csr))
        known = self._sign(db, found.device, found.device_class, found.id, request, now_ms)
        issued = self._change(db, found, Event.ISSUE, now_ms)
        return Standing(issued, known.certificate)

    def _sign(
        self,
        db: Connection,
        device: str,
        device_class: str,
        enrolment: str,
        request: CertificateRequest,
        now_ms: int,
    ) -> Identity:
        certificate = self.authority.sign_device(
            device, request.public_key, now=utc(now_ms), life=self.life
        )
        known = Identity(
            device=device,
            device_class=device_class,
            enrolment=enrolment,
            key_digest=request.key_digest,
            certificate=certificate_pem(certificate),
            not_before_ms=now_ms,
            not_after_ms=milliseconds(certificate.not_valid_after_utc),
            revoked_ms=None,
        )
        store.save_identity(db, known)
        store.save_certificate(
            db,
            certificate.serial_number,
            device,
            not_after_ms=known.not_after_ms,
            now_ms=now_ms,
        )
        return known

    def _change(
        self, db: Connection, found: Enrolment, event: Event, now_ms: int, reason: str = ""
    ) -> Enrolment:
        try:
            changed = after(found, event, now_ms=now_ms, reason=reason)
        except WrongMoment as error:
            raise Clash(str(error)) from None
        store.save_enrolment(db, changed)
        return changed

    def _is_over(self, known: Identity, now_ms: int) -> bool:
        return now_ms > known.not_after_ms + self.grace / timedelta(milliseconds=1)

    def _is_taken(self, db: Connection, device: str, by: Enrolment) -> bool:
        known = store.load_identity(db, device)
        return known is not None and known.revoked_ms is None and known.enrolment != by.id

    def _one(self, db: Connection, name: str, states: tuple[State, ...]) -> Enrolment:
        found = (
            [each for each in store.named(db, name, LISTED_MAX) if each.state in states]
            if name
            else []
        )
        waiting = [each for each in found if each.state is State.WAITING]
        chosen = waiting or found[:1]
        if not chosen:
            raise NotFound(
                f"no enrolment called {name[:64]!r} waits; `fieldfare enroll list` shows all"
            )
        if len(chosen) > 1:
            ids = ", ".join(each.id[:12] for each in chosen[:5])
            raise Clash(f"{len(chosen)} enrolments are called {name[:64]!r}: name one by id: {ids}")
        return chosen[0]


def enrolment_id(key_sha256: bytes) -> str:
    """Return the id of the enrolment of a key."""
    return key_sha256[:16].hex()


def x509_pem(csr_der: bytes) -> bytes:
    """Return a stored request as `read_request` takes it."""
    return x509.load_der_x509_csr(csr_der).public_bytes(Encoding.PEM)


def crl_pem(crl: x509.CertificateRevocationList) -> bytes:
    """Return a list of revoked certificates as brokers read it."""
    return crl.public_bytes(Encoding.PEM)


def _nonce_hash(nonce: str) -> bytes:
    return sha256(nonce.encode()).digest()


def _request(csr: bytes) -> CertificateRequest:
    try:
        return read_request(csr)
    except BadRequest as error:
        raise Refusal(str(error)) from None


def _read(certificate: bytes) -> x509.Certificate:
    try:
        return read_certificate(certificate)
    except BadRequest as error:
        raise Refusal(str(error)) from None


def _checked(certificate: x509.Certificate, request: CertificateRequest, proof: bytes) -> None:
    try:
        check_renewal(certificate, request, proof)
    except BadRequest as error:
        raise Forbidden(str(error)) from None


def _device(device: str) -> str:
    try:
        return check_device(device)
    except BadName as error:
        raise Refusal(str(error)) from None
