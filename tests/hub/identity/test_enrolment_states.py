"""Any order of events: a certificate only after an acceptance, one key for a name, bounded rows."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hub.errors import Refusal
from hub.identity.enrolment import TRANSITIONS, Enrolment, Event, State, WrongMoment, after
from hub.identity.registrar import Asked, Standing
from hub.store import identity as store
from hub.store.database import open_database
from tests.hub.identity.paper import DAY_MS, NOW_MS, csr_of, new_key, proof_of, registrar_of

KEYS = [new_key() for _ in range(4)]
DEVICES = ("pump-1", "pump-2")
CSRS = {(n, device): csr_of(key, device) for n, key in enumerate(KEYS) for device in DEVICES}

keys = st.integers(0, len(KEYS) - 1)
devices = st.sampled_from(DEVICES)


def enrolment(state: State) -> Enrolment:
    return Enrolment(
        id="a" * 32,
        device="pump-1",
        device_class="pump",
        csr=b"",
        nonce_hash=b"",
        state=state,
        asked_ms=1,
    )


def test_every_state_can_be_reached_and_nothing_leads_back_to_asking() -> None:
    reached = {State.ASKED} | set(TRANSITIONS.values())
    assert reached == set(State)
    assert State.ASKED not in TRANSITIONS.values()


def test_only_an_acceptance_leads_to_a_certificate() -> None:
    before = {start for (start, _), end in TRANSITIONS.items() if end is State.ISSUED}
    assert before == {State.ACCEPTED, State.ISSUED}
    into = {event for (_, event), end in TRANSITIONS.items() if end is State.ACCEPTED}
    assert {
        event
        for (start, event), end in TRANSITIONS.items()
        if end is State.ACCEPTED and start is not State.ACCEPTED
    } == {Event.CLAIM, Event.ACCEPT}
    assert Event.REFUSE not in into


def test_what_is_not_in_the_table_is_refused_and_changes_nothing() -> None:
    for state in State:
        for event in Event:
            if (state, event) in TRANSITIONS:
                continue
            try:
                after(enrolment(state), event, now_ms=5)
            except WrongMoment:
                continue
            raise AssertionError((state, event))


def test_the_first_time_of_each_step_stays() -> None:
    accepted = after(enrolment(State.WAITING), Event.ACCEPT, now_ms=5)
    refused = after(accepted, Event.REFUSE, now_ms=6, reason="refused")
    again = after(refused, Event.ACCEPT, now_ms=7)
    assert (again.accepted_ms, again.ended_ms, again.reason) == (5, None, "")
    assert (refused.ended_ms, refused.reason) == (6, "refused")


class Enrolling(RuleBasedStateMachine):
    """Devices, operators and thieves in any order, against the real tables."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="ff-")
        self.database = open_database(Path(self.folder.name))
        self.crls: list[bytes] = []
        self.registrar = registrar_of(crls=self.crls)
        self.now_ms = NOW_MS
        self.allowed: set[tuple[int, str]] = set()
        """Keys and names that a token or an operator let in, and nobody refused since."""
        self.last: dict[tuple[int, str], Standing] = {}

    def teardown(self) -> None:
        self.database.close_now()
        self.folder.cleanup()

    def _ask(self, key: int, device: str, secret: bytes | None) -> Standing | None:
        asked = Asked(
            csr=CSRS[key, device], nonce=f"{key}" * 64, device_class="pump", secret=secret
        )
        try:
            standing = self.database.transact(lambda db: self.registrar.ask(db, asked, self.now_ms))
        except Refusal:
            return None
        self.last[key, device] = standing
        return standing

    @rule(key=keys, device=devices)
    def ask_without_a_token(self, key: int, device: str) -> None:
        standing = self._ask(key, device, None)
        if standing is not None and standing.certificate is not None:
            assert (key, device) in self.allowed

    @rule(key=keys, device=devices, good=st.booleans())
    def ask_with_a_token(self, key: int, device: str, good: bool) -> None:
        secret = b"x" * 24
        if good:
            secret = self.database.transact(
                lambda db: self.registrar.new_claim(
                    db,
                    device_class="pump",
                    device=device,
                    uses_count=1,
                    life_ms=DAY_MS,
                    now_ms=self.now_ms,
                )
            )[1]
        standing = self._ask(key, device, secret)
        if standing is None or standing.certificate is None:
            return
        assert good or (key, device) in self.allowed
        self.allowed.add((key, device))

    @rule(key=keys, device=devices)
    def accept(self, key: int, device: str) -> None:
        standing = self.last.get((key, device))
        if standing is None:
            return
        identity = standing.enrolment.id
        try:
            found = self.database.transact(
                lambda db: self.registrar.accept(db, identity, self.now_ms)
            )
        except Refusal:
            return
        self.allowed.add((key, found.device))

    @rule(device=devices)
    def revoke(self, device: str) -> None:
        try:
            known = self.database.transact(
                lambda db: self.registrar.revoke(db, device, self.now_ms)
            )
        except Refusal:
            return
        assert known.device == device
        self.allowed = {each for each in self.allowed if each[1] != device}

    @precondition(lambda self: self.last)
    @rule(key=keys, device=devices, days=st.integers(0, 200))
    def renew(self, key: int, device: str, days: int) -> None:
        standing = self.last.get((key, device))
        if standing is None or standing.certificate is None:
            return
        self.now_ms += days * DAY_MS
        csr = CSRS[key, device]
        proof, certificate = proof_of(KEYS[key], csr), standing.certificate
        try:
            self.database.transact(
                lambda db: self.registrar.renew(db, certificate, csr, proof, self.now_ms)
            )
        except Refusal:
            return
        assert (key, device) in self.allowed

    @invariant()
    def one_key_holds_a_name(self) -> None:
        def holders(db: object) -> list[tuple[str, int]]:
            rows = db.execute(  # type: ignore[attr-defined]
                "SELECT device, count(*) FROM enrolment WHERE state = 'issued' GROUP BY device"
            )
            return list(rows)

        assert all(count == 1 for _, count in self.database.transact(holders))
        live = self.database.transact(lambda db: store.live_of(db, DEVICES))
        assert live <= {device for _, device in self.allowed}


TestEnrolling = Enrolling.TestCase
TestEnrolling.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
