"""Hostile enrolment requests: mutants of good ones, against a registrar over a real database.

Run it by hand: `python -m tests.hub.identity.hostile --cases 100000 --seed 1`. It prints counts as
JSON; any exception but a refusal ends it with a traceback, and so does a certificate for a key that
was not proven.
"""

import argparse
import base64
import contextlib
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hub.errors import Refusal
from hub.identity.enrolment import State
from hub.identity.registrar import Asked, Registrar
from hub.store import identity as store
from hub.store.database import Connection, Database, open_database
from tests.hub.identity.paper import DAY_MS, NOW_MS, csr_of, new_key, proof_of, registrar_of


class Attack:
    """Good requests, and what becomes of them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._database: Database = open_database(folder)
        self._registrar: Registrar = registrar_of()
        self._keys = [new_key() for _ in range(4)]
        self._csrs = [csr_of(key, f"pump-{n}") for n, key in enumerate(self._keys)]
        self._proven = {_spki(csr) for csr in self._csrs}
        owner = new_key()
        self._proven.add(_spki(csr_of(owner, "owner")))
        self._owner_csr = csr_of(owner, "owner")
        self._owner_proof = proof_of(owner, self._owner_csr)

        def enrol(db: Connection) -> bytes:
            claim = self._registrar.new_claim(
                db, device_class="pump", device="", uses_count=1, life_ms=DAY_MS, now_ms=NOW_MS
            )
            asked = Asked(
                csr=self._owner_csr, nonce="ab" * 32, device_class="pump", secret=claim[1]
            )
            standing = self._registrar.ask(db, asked, NOW_MS)
            assert standing.certificate is not None
            return standing.certificate

        self._owner_certificate = self._database.transact(enrol)

    def run(self, cases: int) -> None:
        # All in one transaction that is never ended well: the disk is not what is tested.
        class Enough(Exception):
            pass

        def job(db: Connection) -> None:
            for _ in range(cases):
                self.counts[self._case(db)] += 1
            self.counts["issued rows"] = store.count_in(db, State.ISSUED)
            raise Enough

        with contextlib.suppress(Enough):
            self._database.transact(job)
        self._database.close_now()

    def _case(self, db: Connection) -> str:
        try:
            if self.random.random() < 0.5:
                return self._ask(db)
            return self._renew(db)
        except Refusal as refusal:
            if "\n" in str(refusal):
                raise AssertionError(refusal) from refusal
            return f"refused {refusal.status}"

    def _ask(self, db: Connection) -> str:
        csr = self._mutate(self.random.choice(self._csrs))
        secret = self.random.choice((None, self.random.randbytes(24)))
        nonce = self.random.choice(("ab" * 32, "cd" * 32, "zz", ""))
        device_class = self.random.choice(("pump", "", "p" * 64, "a b"))
        asked = Asked(csr=csr, nonce=nonce, device_class=device_class, secret=secret)
        standing = self._registrar.ask(db, asked, NOW_MS)
        # Nobody has a token that counts, and no operator has decided.
        assert standing.certificate is None
        assert _spki(csr) in self._proven
        return standing.enrolment.state.value

    def _renew(self, db: Connection) -> str:
        certificate, csr, proof = self._owner_certificate, self._owner_csr, self._owner_proof
        # One of the three is wrong, so that the checks behind the first are reached as well.
        wrong = self.random.randrange(3)
        if wrong == 0:
            certificate = self._mutate(certificate)
        elif wrong == 1:
            csr = self._mutate(csr)
        else:
            proof = self._flip(proof)
        now_ms = NOW_MS + self.random.choice((1, 80, 200)) * DAY_MS
        fresh = self._registrar.renew(db, certificate, csr, proof, now_ms)
        assert _key_of(fresh) in self._proven
        return "renewed"

    def _mutate(self, pem: bytes) -> bytes:
        roll = self.random.random()
        if roll < 0.1:
            return pem
        if roll < 0.2:
            return self._flip(pem)
        if roll < 0.25:
            return self.random.randbytes(self.random.randrange(6000))
        lines = pem.strip().splitlines()
        der = bytearray(base64.b64decode(b"".join(lines[1:-1])))
        for _ in range(self.random.choice((1, 1, 2, 8))):
            self._mutate_der(der)
        body = base64.encodebytes(bytes(der))
        return lines[0] + b"\n" + body + lines[-1] + b"\n"

    def _mutate_der(self, der: bytearray) -> None:
        if not der:
            return
        at = self.random.randrange(len(der))
        act = self.random.randrange(5)
        if act == 0:
            der[at] ^= 1 << self.random.randrange(8)
        elif act == 1:
            der[at] = self.random.choice((0x00, 0x30, 0x31, 0x03, 0x80, 0x84, 0xFF))
        elif act == 2:
            del der[at : at + self.random.randrange(1, 40)]
        elif act == 3:
            start = self.random.randrange(len(der))
            der[at:at] = der[start : start + self.random.randrange(1, 40)]
        else:
            der[at:at] = self.random.randbytes(self.random.randrange(1, 200))

    def _flip(self, raw: bytes) -> bytes:
        changed = bytearray(raw)
        changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)


def _spki(csr: bytes) -> bytes:
    return x509.load_pem_x509_csr(csr).public_key().public_bytes(*_FORM)


def _key_of(certificate: bytes) -> bytes:
    return x509.load_pem_x509_certificate(certificate).public_key().public_bytes(*_FORM)


_FORM = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def attack(cases: int, seed: int) -> dict[str, int]:
    """Run so many cases and return what became of them."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        attacker = Attack(seed, Path(folder))
        attacker.run(cases)
    return dict(attacker.counts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(json.dumps(attack(given.cases, given.seed)))  # noqa: T201 - what it is run for
