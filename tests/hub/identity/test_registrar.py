from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from hub.errors import Clash, Forbidden, NotFound, Refusal, TooMany
from hub.identity import registrar as registrars
from hub.identity.ca import certificate_pem, new_authority
from hub.identity.enrolment import State
from hub.identity.registrar import Asked, Registrar, Standing
from hub.store import identity as store
from hub.store.database import Connection, Database, open_database
from tests.hub.identity.paper import (
    CA,
    DAY_MS,
    NONCE,
    NOW,
    NOW_MS,
    Key,
    csr_of,
    new_key,
    proof_of,
    registrar_of,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path)
    yield database
    database.close_now()


class Office:
    """A registrar over a real database."""

    def __init__(self, database: Database) -> None:
        self.crls: list[bytes] = []
        self.registrar: Registrar = registrar_of(crls=self.crls)
        self.database = database

    def ask(
        self,
        device: str,
        key: Key,
        secret: bytes | None = None,
        *,
        device_class: str = "pump",
        nonce: str = NONCE,
        now_ms: int = NOW_MS,
        source: str = "",
    ) -> Standing:
        asked = Asked(
            csr=csr_of(key, device),
            nonce=nonce,
            device_class=device_class,
            secret=secret,
            source=source,
        )
        return self.database.transact(lambda db: self.registrar.ask(db, asked, now_ms))

    def look(self, standing: Standing, nonce: str = NONCE, now_ms: int = NOW_MS) -> Standing:
        identity = standing.enrolment.id
        return self.database.transact(lambda db: self.registrar.look(db, identity, nonce, now_ms))

    def token(self, *, device: str = "", uses_count: int = 1, life_ms: int = DAY_MS) -> bytes:
        return self.database.transact(
            lambda db: self.registrar.new_claim(
                db,
                device_class="pump",
                device=device,
                uses_count=uses_count,
                life_ms=life_ms,
                now_ms=NOW_MS,
            )
        )[1]

    def renew(
        self, certificate: bytes, device: str, key: Key, *, by: Key | None = None, now_ms: int
    ) -> bytes:
        csr = csr_of(key, device)
        proof = proof_of(by or key, csr)
        return self.database.transact(
            lambda db: self.registrar.renew(db, certificate, csr, proof, now_ms)
        )

    def accept(self, name: str) -> None:
        self.database.transact(lambda db: self.registrar.accept(db, name, NOW_MS))

    def revoke(self, device: str) -> None:
        self.database.transact(lambda db: self.registrar.revoke(db, device, NOW_MS))

    def enrolled(self, device: str, key: Key) -> bytes:
        certificate = self.ask(device, key, self.token()).certificate
        assert certificate is not None
        return certificate


@pytest.fixture
def office(database: Database) -> Office:
    return Office(database)


def test_a_token_gives_a_certificate_at_once_and_is_spent(office: Office) -> None:
    secret = office.token()
    standing = office.ask("pump-1", new_key(), secret)
    assert standing.certificate is not None
    assert standing.enrolment.state is State.ISSUED
    certificate = x509.load_pem_x509_certificate(standing.certificate)
    assert certificate.subject.rfc4514_string() == "CN=pump-1"
    second = office.ask("pump-2", new_key(), secret)
    assert (second.enrolment.state, second.enrolment.reason) == (State.REFUSED, "token_spent")
    assert second.certificate is None


def test_a_lost_answer_costs_nothing_the_same_certificate_comes_again(office: Office) -> None:
    key, secret = new_key(), office.token()
    first = office.ask("pump-1", key, secret)
    assert office.ask("pump-1", key, secret).certificate == first.certificate
    assert office.look(first).certificate == first.certificate


@pytest.mark.parametrize(
    ("device", "device_class", "now_ms", "reason"),
    [
        ("pump-1", "valve", NOW_MS, "token_wrong_class"),
        ("pump-2", "pump", NOW_MS, "token_wrong_name"),
        ("pump-1", "pump", NOW_MS + DAY_MS, "token_expired"),
    ],
)
def test_a_token_counts_only_for_what_it_was_made_for(
    office: Office, device: str, device_class: str, now_ms: int, reason: str
) -> None:
    secret = office.token(device="pump-1")
    standing = office.ask(device, new_key(), secret, device_class=device_class, now_ms=now_ms)
    assert (standing.certificate, standing.enrolment.reason) == (None, reason)
    assert office.ask("pump-1", new_key(), secret).certificate is not None


def test_a_withdrawn_token_does_not_count(office: Office, database: Database) -> None:
    secret = office.token()
    (claim,) = database.transact(store.claims)
    database.transact(lambda db: office.registrar.withdraw(db, claim.id))
    assert office.ask("pump-1", new_key(), secret).enrolment.reason == "token_withdrawn"
    with pytest.raises(NotFound):
        database.transact(lambda db: office.registrar.withdraw(db, "c0"))


def test_no_secret_is_in_the_database(office: Office, database: Database, tmp_path: Path) -> None:
    secret = office.token()
    database.transact(lambda db: db.execute("SELECT 1"))
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert secret not in stored
    assert secret.hex().encode() not in stored


def test_without_a_token_a_device_waits_until_an_operator_accepts_it(office: Office) -> None:
    key = new_key()
    asked = office.ask("pump-1", key)
    assert (asked.enrolment.state, asked.certificate) == (State.WAITING, None)
    assert office.look(asked).enrolment.state is State.WAITING
    office.accept("pump-1")
    assert office.look(asked, now_ms=NOW_MS + 5).certificate is not None


def test_the_life_of_a_certificate_begins_when_the_device_comes_for_it(office: Office) -> None:
    asked = office.ask("pump-1", new_key())
    office.accept(asked.enrolment.id[:10])
    collected = office.look(asked, now_ms=NOW_MS + 80 * DAY_MS).certificate
    assert collected is not None
    certificate = x509.load_pem_x509_certificate(collected)
    assert certificate.not_valid_after_utc > NOW + office.registrar.life


def test_whoever_does_not_know_the_nonce_learns_nothing(office: Office) -> None:
    key = new_key()
    asked = office.ask("pump-1", key)
    with pytest.raises(NotFound):
        office.look(asked, nonce="cd" * 32)
    with pytest.raises(Clash, match="another nonce"):
        office.ask("pump-1", key, nonce="cd" * 32)


def test_a_refused_device_stays_refused_until_somebody_thinks_again(
    office: Office, database: Database
) -> None:
    key = new_key()
    asked = office.ask("pump-1", key)
    database.transact(lambda db: office.registrar.refuse(db, "pump-1", NOW_MS))
    assert office.ask("pump-1", key).enrolment.state is State.REFUSED
    office.accept("pump-1")
    assert office.look(asked).certificate is not None


def test_another_key_cannot_take_the_name_of_a_device_that_is_there(office: Office) -> None:
    office.enrolled("pump-1", new_key())
    thief = office.ask("pump-1", new_key(), office.token())
    assert (thief.certificate, thief.enrolment.reason) == (None, "name_taken")
    office.ask("pump-1", new_key())
    with pytest.raises(Clash, match="another key"):
        office.accept("pump-1")


def test_two_that_wait_under_one_name_are_told_apart_by_their_keys(office: Office) -> None:
    first = office.ask("pump-1", new_key())
    second = office.ask("pump-1", new_key())
    with pytest.raises(Clash, match="name one by id"):
        office.accept("pump-1")
    office.accept(second.enrolment.id)
    assert office.look(second).certificate is not None
    assert office.look(first).certificate is None


def test_after_a_revocation_the_name_is_free_for_a_new_key_and_the_old_one_is_out(
    office: Office,
) -> None:
    old = new_key()
    certificate = office.enrolled("pump-1", old)
    office.revoke("pump-1")
    with pytest.raises(Forbidden, match="revoked"):
        office.renew(certificate, "pump-1", old, now_ms=NOW_MS + 80 * DAY_MS)
    assert office.ask("pump-1", old, office.token()).certificate is None
    assert office.enrolled("pump-1", new_key())
    crl = x509.load_pem_x509_crl(office.crls[-1])
    serial = x509.load_pem_x509_certificate(certificate).serial_number
    assert [each.serial_number for each in crl] == [serial]


def test_revoking_a_device_revokes_every_certificate_that_it_holds(office: Office) -> None:
    key = new_key()
    first = office.enrolled("pump-1", key)
    second = office.renew(first, "pump-1", key, now_ms=NOW_MS + 60 * DAY_MS)
    assert second != first
    office.revoke("pump-1")
    serials = {x509.load_pem_x509_certificate(each).serial_number for each in (first, second)}
    assert {each.serial_number for each in x509.load_pem_x509_crl(office.crls[-1])} == serials


def test_a_certificate_renews_itself_before_and_after_its_end_within_the_grace(
    office: Office,
) -> None:
    key = new_key()
    first = office.enrolled("pump-1", key)
    assert office.renew(first, "pump-1", key, now_ms=NOW_MS + DAY_MS) == first
    second = office.renew(first, "pump-1", key, now_ms=NOW_MS + 60 * DAY_MS)
    third = office.renew(second, "pump-1", key, now_ms=NOW_MS + (60 + 90 + 364) * DAY_MS)
    until = x509.load_pem_x509_certificate(third).not_valid_after_utc
    assert (until - NOW).days == 60 + 90 + 364 + 90


def test_beyond_the_grace_somebody_has_to_decide_again_and_the_device_is_not_lost(
    office: Office,
) -> None:
    key = new_key()
    first = office.enrolled("pump-1", key)
    late_ms = NOW_MS + (90 + 366) * DAY_MS
    with pytest.raises(Forbidden, match="enrol again"):
        office.renew(first, "pump-1", key, now_ms=late_ms)
    assert office.ask("pump-1", key, now_ms=late_ms).enrolment.state is State.WAITING
    office.accept("pump-1")
    again = office.ask("pump-1", key, now_ms=late_ms).certificate
    assert again not in (None, first)


def test_only_the_key_of_the_certificate_renews_it(office: Office) -> None:
    key, thief = new_key(), new_key()
    certificate = office.enrolled("pump-1", key)
    late_ms = NOW_MS + 80 * DAY_MS
    with pytest.raises(Forbidden, match="not signed by the key"):
        office.renew(certificate, "pump-1", thief, now_ms=late_ms)
    with pytest.raises(Forbidden, match="another device"):
        office.renew(certificate, "pump-2", key, now_ms=late_ms)
    fresh = office.renew(certificate, "pump-1", thief, by=key, now_ms=late_ms)
    assert x509.load_pem_x509_certificate(fresh).public_key() == thief.public_key()
    with pytest.raises(Forbidden, match="belongs to nobody"):
        office.renew(certificate, "pump-1", key, now_ms=late_ms)


def test_a_certificate_of_another_authority_renews_nothing(office: Office) -> None:
    key = new_key()
    office.enrolled("pump-1", key)
    other = new_authority("fieldfare", now=NOW)
    forged = other.sign_device("pump-1", key.public_key(), now=NOW, life=office.registrar.life)
    pem = certificate_pem(forged)
    with pytest.raises(Forbidden, match="not made by this hub"):
        office.renew(pem, "pump-1", key, now_ms=NOW_MS + 80 * DAY_MS)
    with pytest.raises(Forbidden, match="another device"):
        office.renew(CA.pem(), "pump-1", key, now_ms=NOW_MS + 80 * DAY_MS)


def test_what_strangers_can_make_the_hub_keep_is_bounded(
    office: Office, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrars, "WAITING_MAX", 3)
    monkeypatch.setattr(registrars, "REFUSED_KEPT", 2)
    for number in range(3):
        office.ask(f"w-{number}", new_key())
    with pytest.raises(TooMany, match="use a claim token"):
        office.ask("w-3", new_key())
    for number in range(6):
        office.ask(f"r-{number}", new_key(), b"wrong")
    refused = database.transact(lambda db: store.count_in(db, State.REFUSED))
    assert refused <= 3
    assert office.ask("pump-1", new_key(), office.token()).certificate is not None


def test_one_network_does_not_fill_the_queue(
    office: Office, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrars, "WAITING_MAX", 5)
    monkeypatch.setattr(registrars, "WAITING_PER_SOURCE_MAX", 3)
    for number in range(3):
        office.ask(f"w-{number}", new_key(), source="192.0.2.7")
    with pytest.raises(TooMany, match="3 devices from there wait already"):
        office.ask("w-3", new_key(), source="192.0.2.7")
    assert office.ask("pump-1", new_key(), source="192.0.2.8").enrolment.state is State.WAITING


def test_all_that_wait_from_one_network_are_turned_away_at_once(
    office: Office, database: Database
) -> None:
    for number in range(4):
        office.ask(f"w-{number}", new_key(), source="192.0.2.7", now_ms=NOW_MS + number)
    mine = office.ask("pump-1", new_key(), source="192.0.2.8")

    def refuse(source: str | None, older_ms: int) -> int:
        return database.transact(
            lambda db: office.registrar.refuse_waiting(db, source, older_ms, NOW_MS + 10)
        )

    assert refuse("192.0.2.7", 8) == 3
    assert refuse("192.0.2.7", 0) == 1
    assert refuse("192.0.2.7", 0) == 0
    assert office.look(mine).enrolment.state is State.WAITING
    assert refuse(None, 0) == 1


def test_no_flood_of_wrong_tokens_makes_the_hub_forget_that_a_key_was_revoked(
    office: Office, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrars, "REFUSED_KEPT", 2)
    key = new_key()
    office.ask("pump-1", key, office.token())
    database.transact(lambda db: office.registrar.revoke(db, "pump-1", NOW_MS))
    for number in range(6):
        office.ask(f"r-{number}", new_key(), b"wrong", now_ms=NOW_MS + 1 + number)
    stood = office.ask("pump-1", key, office.token(), now_ms=NOW_MS + 10)
    assert (stood.enrolment.state, stood.enrolment.reason) == (State.REFUSED, "revoked")


def test_what_a_name_did_before_its_key_was_replaced_says_nothing_of_the_replacement(
    office: Office, database: Database
) -> None:
    def steps() -> tuple[int | None, int | None]:
        (course,) = database.transact(store.courses)
        return course.sync_ms, course.healthy_ms

    def note(statement: str, *values: object) -> None:
        database.transact(lambda db: db.execute(statement, values))

    office.ask("pump-1", new_key(), office.token())
    assert steps() == (None, None)
    note("INSERT INTO device VALUES (1, 'pump-1', ?, ?, 0)", NOW_MS + 5, NOW_MS + 5)
    note("INSERT INTO seen VALUES ('d1', 1, 'H', x'', ?)", NOW_MS + 9)
    assert steps() == (NOW_MS + 5, NOW_MS + 9)

    later_ms = NOW_MS + 1000
    database.transact(lambda db: office.registrar.revoke(db, "pump-1", later_ms))
    office.ask("pump-1", new_key(), office.token(), now_ms=later_ms)
    assert steps() == (None, None)
    note("INSERT INTO presence_log VALUES (1, 1, ?, 1, 1)", later_ms + 7)
    note("INSERT INTO seen VALUES ('d2', 1, 'H', x'', ?)", later_ms + 8)
    assert steps() == (later_ms + 7, later_ms + 8)


def test_who_waits_too_long_lapses_and_makes_room(
    office: Office, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrars, "WAITING_MAX", 1)
    old = office.ask("pump-1", new_key())
    late_ms = NOW_MS + registrars.WAITING_LIFE_MS + 1
    assert office.ask("pump-2", new_key(), now_ms=late_ms).enrolment.state is State.WAITING
    stood = office.look(old, now_ms=late_ms).enrolment
    assert (stood.state, stood.reason) == (State.REFUSED, "lapsed")


@pytest.mark.parametrize(
    ("nonce", "device_class"), [("", "pump"), ("AB" * 32, "pump"), (NONCE, ""), (NONCE, "a b")]
)
def test_a_request_out_of_form_is_refused_and_leaves_nothing(
    office: Office, database: Database, nonce: str, device_class: str
) -> None:
    with pytest.raises(Refusal):
        office.ask("pump-1", new_key(), nonce=nonce, device_class=device_class)
    assert database.transact(lambda db: store.latest(db, None, 10)) == []


@pytest.mark.parametrize("device", ["hub", "group", "kill", "Pump", "a/b", "+", "#"])
def test_no_certificate_can_name_what_is_no_device(office: Office, device: str) -> None:
    with pytest.raises(Refusal, match="cannot name a device"):
        office.ask(device, new_key(), office.token())


def test_expired_certificates_leave_the_table_when_the_device_gets_a_new_one(
    office: Office, database: Database
) -> None:
    key = new_key()
    certificate = office.enrolled("pump-1", key)
    for turn in range(1, 8):
        certificate = office.renew(certificate, "pump-1", key, now_ms=NOW_MS + turn * 60 * DAY_MS)

    def count(db: Connection) -> int:
        ((found,),) = db.execute("SELECT count(*) FROM certificate")
        return int(found)

    assert database.transact(count) == 2
