from collections.abc import Mapping
from random import Random

import pytest

from sync.author import Author
from sync.documents import DocumentName, parse_document
from sync.gate import Refusal, Refused
from sync.messages import (
    BadFrame,
    Diff,
    Fetch,
    Full,
    Have,
    Message,
    Open,
    Refuse,
    Whole,
)
from sync.moves import Move, Peer, Role, next_move
from sync.replica import DOCUMENT_BYTES_MAX, EPOCH_LEAP_MAX, Holding, digest_of, fresh, values_of
from sync.session import (
    REFUSED_PAUSE_S,
    SILENT_TRIES_MAX,
    UPHEAVAL_WINDOW_S,
    UPHEAVALS_MAX,
    Retry,
    Session,
    Step,
)
from sync.vector import encode_vector, tag_of

DEVICE = "d1"
OWN = parse_document("dev/d1")
DESIRED = parse_document("des/d1")
HUB_ID = 2**40 + (1 << 16)


class Pen:
    """An author with a shelf that always holds what it wrote, and a session to a follower."""

    def __init__(self, document: DocumentName = OWN, *, client_id: int = 1 << 16) -> None:
        self.document = document
        self.client_id = client_id
        self.author: Author | None = None
        self.session = Session(DEVICE, sends={document: Role.AUTHOR}, random=Random(1))

    def shelf(self, document: DocumentName) -> Holding | None:
        assert document == self.document
        return self.author.holding() if self.author is not None else None

    @property
    def holding(self) -> Holding:
        assert self.author is not None
        return self.author.holding()

    def write(self, **values: str) -> None:
        if self.author is None:
            self.author = Author(None, client_id=self.client_id)
        self.author.write({f"s/{key}": value.encode() for key, value in values.items()})

    def restart(self) -> None:
        self.client_id += 1 << 16
        self.author = Author(self.holding, client_id=self.client_id)

    def opened(self, now: float = 0.0) -> list[Message]:
        return self.session.opened(self.shelf, now).send

    def changed(self, now: float = 0.0) -> list[Message]:
        return self.session.changed(self.document, self.shelf, now).send

    def hears(self, message: Message, now: float = 0.0) -> Step:
        return self.session.receive(message, self.shelf, now)

    def hears_have(self, holding: Holding | None, now: float = 0.0, digest: bytes = b"") -> Step:
        return self.hears(have_of(self.document, holding, digest), now)

    def settle(self) -> None:
        """Open, and let the follower say that it has everything."""
        self.opened()
        assert self.hears_have(self.holding).send == []
        assert self.session.is_settled(self.document, self.shelf)


def have_of(document: DocumentName, holding: Holding | None, digest: bytes = b"") -> Have:
    epoch, vector = (holding.epoch, holding.vector) if holding is not None else (0, {})
    return Have(document.kind.value, epoch, encode_vector(vector), digest)


@pytest.fixture
def pen() -> Pen:
    pen = Pen()
    pen.write(x="1")
    return pen


# ------------------------------------------------------------------------------ the author's side
def test_an_author_begins_by_asking(pen: Pen) -> None:
    holding = pen.holding
    digest = digest_of({"s/x": b"1"})
    assert pen.opened() == [Open("dev", 1, encode_vector(holding.vector), digest)]
    assert not pen.session.is_settled(OWN, pen.shelf)


def test_a_follower_that_has_nothing_is_sent_everything(pen: Pen) -> None:
    pen.opened()
    assert pen.hears_have(None).send == [Full("dev", 1, pen.holding.state)]


def test_a_follower_that_has_everything_is_sent_nothing(pen: Pen) -> None:
    pen.settle()
    assert pen.session.wake_mono() is None


def test_a_follower_that_lacks_something_is_sent_that(pen: Pen) -> None:
    earlier = pen.holding
    pen.write(y="2")
    pen.opened()
    (message,) = pen.hears_have(earlier).send
    assert isinstance(message, Diff)
    assert message.result == tag_of(pen.holding.vector)
    assert len(message.update) < 30


def test_writes_made_while_an_answer_is_outstanding_share_the_next_diff(pen: Pen) -> None:
    pen.settle()
    first = pen.holding
    pen.write(y="2")
    assert len(pen.changed()) == 1
    for number in range(5):
        pen.write(z=str(number))
        assert pen.changed() == []
    after_first = Holding(1, b"", {1 << 16: first.vector[1 << 16] + 1})
    (message,) = pen.hears_have(after_first).send
    assert isinstance(message, Diff)
    assert message.result == tag_of(pen.holding.vector)


def test_what_goes_unanswered_is_said_again_and_then_asked_about(pen: Pen) -> None:
    pen.settle()
    pen.write(y="2")
    said: list[Message] = pen.changed()
    while len(said) < SILENT_TRIES_MAX + 1:
        wake = pen.session.wake_mono()
        assert wake is not None
        assert pen.session.due(pen.shelf, wake - 0.001).send == []
        said += pen.session.due(pen.shelf, wake).send
    assert [type(message) for message in said] == [Diff] * SILENT_TRIES_MAX + [Open]


def test_the_waits_grow_to_a_limit_and_are_never_all_alike() -> None:
    retry = Retry(first_s=5, longest_s=300)
    waits = [retry.delay_s(attempt, Random(attempt)) for attempt in range(40)]
    assert 2.5 <= waits[0] <= 5
    assert all(150 <= wait <= 300 for wait in waits[6:])
    assert len(set(waits)) == len(waits)


def test_nothing_is_due_while_the_line_is_down(pen: Pen) -> None:
    pen.opened()
    pen.session.closed()
    assert pen.session.wake_mono() is None
    pen.write(y="2")
    assert pen.changed() == []
    assert pen.session.due(pen.shelf, 1e9).send == []


def test_a_new_connection_begins_anew(pen: Pen) -> None:
    pen.settle()
    pen.session.closed()
    assert [type(message) for message in pen.opened()] == [Open]


def test_a_follower_that_says_the_same_again_is_not_answered_until_it_is_time(pen: Pen) -> None:
    """Otherwise two sides that cannot agree would answer each other at line speed."""
    earlier = pen.holding
    pen.write(y="2")
    pen.opened()
    assert len(pen.hears_have(earlier).send) == 1
    assert pen.hears_have(earlier).send == []


def test_what_a_follower_holds_is_passed_on_as_a_receipt(pen: Pen) -> None:
    pen.opened()
    assert pen.hears_have(pen.holding).heard == {OWN: Peer(1, pen.holding.vector)}


def rolled_back(pen: Pen) -> Holding:
    """Let the disk of `pen` go back, and return what a follower has of the writes it lost."""
    earlier = pen.holding
    pen.write(lost="1")
    theirs = pen.holding
    pen.author = Author(earlier, client_id=pen.client_id)
    pen.restart()
    pen.write(y="2")
    return theirs


def test_a_device_fetches_what_it_has_lost_and_takes_it_in(pen: Pen) -> None:
    theirs = rolled_back(pen)
    pen.opened()
    assert pen.hears_have(theirs).send == [Fetch("dev")]
    step = pen.hears(Whole("dev", theirs.epoch, theirs.state))
    assert step.rebase == {OWN: theirs}
    assert pen.author is not None
    pen.author.rebase(theirs, client_id=9 << 16)
    (message,) = pen.changed()
    assert isinstance(message, Full)
    assert (1, encode_vector(theirs.vector)) in message.absorbed


def test_a_whole_document_that_nobody_asked_for_is_ignored(pen: Pen) -> None:
    pen.settle()
    step = pen.hears(Whole("dev", 7, pen.holding.state))
    assert (step.rebase, step.send, step.offence) == ({}, [], None)


def test_a_device_whose_disk_is_empty_asks_all_the_same(pen: Pen) -> None:
    theirs = pen.holding
    blank = Pen()
    (message,) = blank.opened()
    assert isinstance(message, Open)
    assert blank.hears_have(None).send == []
    assert blank.session.is_settled(OWN, blank.shelf)
    assert blank.hears_have(theirs).send == [Fetch("dev")]
    assert blank.hears(Whole("dev", 1, theirs.state)).rebase == {OWN: theirs}


def test_a_hub_starts_anew_above_what_a_device_holds_and_it_does_not() -> None:
    pen = Pen(DESIRED, client_id=HUB_ID)
    pen.write(x="1")
    theirs = rolled_back(pen)
    pen.opened()
    step = pen.hears_have(theirs)
    assert (step.reset, step.send) == ({DESIRED: 1}, [])
    assert pen.author is not None
    pen.author.reset(above=1)
    assert [type(message) for message in pen.changed()] == [Full]


def test_a_hub_that_was_set_up_anew_takes_back_what_a_device_still_obeys() -> None:
    before = Pen(DESIRED, client_id=HUB_ID)
    before.write(x="1")
    blank = Pen(DESIRED, client_id=HUB_ID + (1 << 16))
    blank.opened()
    assert blank.hears_have(before.holding).reset == {DESIRED: 1}


def test_equal_vectors_over_different_contents_are_noticed_by_their_digest(pen: Pen) -> None:
    pen.opened()
    assert pen.hears_have(pen.holding, digest=b"another").send == [Fetch("dev")]
    assert not pen.session.is_settled(OWN, pen.shelf)
    hub = Pen(DESIRED, client_id=HUB_ID)
    hub.write(x="1")
    hub.opened()
    assert hub.hears_have(hub.holding, digest=b"another").reset == {DESIRED: 1}


def test_a_difference_once_noticed_is_not_forgotten_over_a_statement_without_digest(
    pen: Pen,
) -> None:
    pen.opened()
    pen.hears_have(pen.holding, digest=b"another")
    pen.hears_have(pen.holding)
    wake = pen.session.wake_mono()
    assert wake is not None
    assert pen.session.due(pen.shelf, wake).send == [Fetch("dev")]


def test_a_refused_document_is_started_anew_once_and_then_left_alone_for_a_while(pen: Pen) -> None:
    pen.opened()
    pen.hears_have(None)
    assert pen.hears(Refuse("dev", 1, "engine")).reset == {OWN: 1}
    assert pen.author is not None
    pen.author.reset(above=1)
    assert [type(message) for message in pen.changed()] == [Open]
    assert pen.hears(Refuse("dev", 2, "engine")).reset == {}
    assert pen.session.wake_mono() == REFUSED_PAUSE_S


def test_a_refusal_of_what_has_been_replaced_since_is_ignored(pen: Pen) -> None:
    pen.settle()
    assert pen.author is not None
    pen.author.reset()
    assert pen.hears(Refuse("dev", 1, "engine")).reset == {}


def test_a_peer_cannot_make_an_author_begin_epochs_without_end(pen: Pen) -> None:
    hub = Pen(DESIRED, client_id=HUB_ID)
    hub.write(x="1")
    author = hub.author
    assert author is not None

    def play(now: float) -> int:
        resets = 0
        for number in range(3 * UPHEAVALS_MAX):
            liar = Holding(author.epoch, b"", {HUB_ID + 7: number + 1})
            for above in hub.hears_have(liar, now).reset.values():
                author.reset(above=above)
                resets += 1
        return resets

    hub.opened()
    assert play(0.0) == UPHEAVALS_MAX
    assert play(UPHEAVAL_WINDOW_S) == UPHEAVALS_MAX
    theirs = rolled_back(pen)
    pen.opened()
    rebases = 0
    for _ in range(3 * UPHEAVALS_MAX):
        pen.session.opened(pen.shelf, 0.0)
        pen.hears_have(theirs)
        rebases += len(pen.hears(Whole("dev", 1, theirs.state)).rebase)
    assert rebases == UPHEAVALS_MAX


def test_an_epoch_that_cannot_be_is_declared_taken_in_and_not_outbid() -> None:
    hub = Pen(DESIRED, client_id=HUB_ID)
    hub.write(x="1")
    lie = Holding(hub.holding.epoch + EPOCH_LEAP_MAX + 1, b"", {HUB_ID: 3})
    hub.opened()
    step = hub.hears_have(lie)
    assert step.reset == {}
    (message,) = step.send
    assert isinstance(message, Full)
    assert (lie.epoch, encode_vector(lie.vector)) in message.absorbed


# ------------------------------------------------------------------------------ the follower's side
class Shelf:
    """A follower with a session."""

    def __init__(self, *, follows: DocumentName = OWN) -> None:
        self.holdings: dict[DocumentName, Holding] = {}
        self.session = Session(DEVICE, sends={}, follows=[follows])

    def hears(self, message: Message) -> Step:
        return self.session.receive(message, self.holdings.get, 0.0)


def test_a_follower_says_unasked_what_it_holds() -> None:
    shelf = Shelf()
    assert shelf.session.opened(shelf.holdings.get, 0.0).send == [Have("dev", 0, b"\0")]


def test_what_is_to_be_stored_comes_with_the_reply_that_promises_it(pen: Pen) -> None:
    step = Shelf().hears(Full("dev", 1, pen.holding.state))
    assert step.store[OWN].holding == pen.holding
    assert step.send == [have_of(OWN, pen.holding)]
    assert step.offence is None


@pytest.mark.parametrize("name", ["dev/d2", "des", "des/d1", "grp/all", "tel"])
@pytest.mark.parametrize("kind", [Open, Full, Diff, Fetch, Have, Whole, Refuse])
def test_nobody_speaks_for_another(name: str, kind: type[Message], pen: Pen) -> None:
    vector, state = encode_vector(pen.holding.vector), pen.holding.state
    messages: Mapping[type[Message], Message] = {
        Open: Open(name, 1, vector),
        Full: Full(name, 1, state),
        Diff: Diff(name, 1, state, tag_of(pen.holding.vector)),
        Fetch: Fetch(name),
        Have: Have(name, 1, vector),
        Whole: Whole(name, 1, state),
        Refuse: Refuse(name, 1, "engine"),
    }
    step = Shelf().hears(messages[kind])
    assert (step.store, step.send, step.rebase, step.reset) == ({}, [], {}, {})
    about_another = name == "dev/d2" or kind in {Open, Full, Diff, Fetch}
    if about_another:
        assert isinstance(step.offence, Refused)
        assert step.offence.refusal is Refusal.FOREIGN_WRITER
        assert step.heard == {}


def test_a_receipt_for_a_group_is_heard_though_it_went_out_by_another_road() -> None:
    group = parse_document("grp/all")
    step = Shelf().hears(Have("grp/all", 3, encode_vector({HUB_ID: 4})))
    assert step.heard == {group: Peer(3, {HUB_ID: 4})}


def test_an_offence_is_named_and_leaves_nothing_behind(pen: Pen) -> None:
    shelf = Shelf()
    step = shelf.hears(Full("dev", 1, b"\xff"))
    assert isinstance(step.offence, Refused)
    assert step.send == [Refuse("dev", 1, "malformed")]
    assert step.store[OWN].holding is None
    pen.opened()
    for message in (Have("dev", 1, b"\xff"), Have("dev/A", 1, b"\0"), Fetch("xyz")):
        before = pen.session.wake_mono()
        heard = pen.hears(message)
        assert isinstance(heard.offence, BadFrame)
        assert (heard.send, heard.heard, pen.session.wake_mono()) == ([], {}, before)


def large_state() -> bytes:
    return fresh({f"s/{n}": bytes(4000) for n in range(30)}, client_id=7).state()


@pytest.mark.parametrize(
    ("update", "refusal"),
    [
        (b"\xff", Refusal.MALFORMED),
        (b"\x01\x01\x05\x01\0\x01\0", Refusal.BAD_REFERENCE),
        (large_state(), Refusal.TOO_LARGE),
    ],
)
def test_a_whole_document_that_cannot_be_honest_is_not_taken_in(
    update: bytes, refusal: Refusal, pen: Pen
) -> None:
    assert len(large_state()) > DOCUMENT_BYTES_MAX
    theirs = rolled_back(pen)
    pen.opened()
    pen.hears_have(theirs)
    step = pen.hears(Whole("dev", 1, update))
    assert step.rebase == {}
    assert isinstance(step.offence, Refused)
    assert step.offence.refusal is refusal
    assert pen.hears(Whole("dev", 1, theirs.state)).rebase == {OWN: theirs}


# ------------------------------------------------------------------------------ carriers
class Hub:
    """One of two hubs that pass a device's document on to each other."""

    def __init__(self, holding: Holding | None = None) -> None:
        self.holdings = {OWN: holding} if holding is not None else {}
        self.session = Session(DEVICE, sends={OWN: Role.CARRIER}, follows=[OWN])

    def hears(self, message: Message) -> list[Message]:
        step = self.session.receive(message, self.holdings.get, 0.0)
        assert step.offence is None
        for document, followed in step.store.items():
            if followed.holding is not None:
                self.holdings[document] = followed.holding
        return step.send

    def takes(self, holding: Holding) -> list[Message]:
        """Store what came from the device itself."""
        self.holdings[OWN] = holding
        return self.session.changed(OWN, self.holdings.get, 0.0).send


def talk(one: Hub, other: Hub, to_other: list[Message], to_one: list[Message]) -> None:
    for _ in range(20):
        if not to_other and not to_one:
            return
        answers_one = [answer for message in to_other for answer in other.hears(message)]
        answers_other = [answer for message in to_one for answer in one.hears(message)]
        to_one, to_other = answers_one, answers_other
    raise AssertionError("they never stop talking")


def meet(one: Hub, other: Hub) -> None:
    opened = [hub.session.opened(hub.holdings.get, 0.0).send for hub in (one, other)]
    talk(one, other, *opened)


def test_two_hubs_end_with_the_same_whoever_had_more(pen: Pen) -> None:
    earlier = pen.holding
    pen.write(y="2")
    for first, second in ((earlier, pen.holding), (pen.holding, earlier), (None, earlier)):
        one, other = Hub(first), Hub(second)
        meet(one, other)
        assert one.holdings[OWN].vector == other.holdings[OWN].vector
        assert values_of(one.holdings[OWN]) == values_of(other.holdings[OWN])


def test_hubs_with_nothing_have_nothing_to_say_to_each_other() -> None:
    one, other = Hub(), Hub()
    meet(one, other)
    assert one.holdings == other.holdings == {}


def test_hubs_that_differ_leave_it_to_the_writer_and_go_on_when_it_is_settled(pen: Pen) -> None:
    lost = rolled_back(pen)
    one, other = Hub(lost), Hub(pen.holding)
    meet(one, other)
    assert one.holdings[OWN] == lost
    assert other.holdings[OWN] == pen.holding
    assert pen.author is not None
    pen.author.rebase(lost, client_id=9 << 16)
    talk(one, other, one.takes(pen.holding), other.takes(pen.holding))
    assert pen.author is not None
    pen.write(z="3")
    talk(one, other, one.takes(pen.holding), [])
    assert other.holdings[OWN].vector == pen.holding.vector


# ------------------------------------------------------------------------------ the decision
def test_every_move_follows_from_what_the_peer_holds() -> None:
    own = Holding(5, b"", {7: 3}, ((4, {6: 9}),))
    moves: list[tuple[Peer | None, Move]] = [
        (None, Move.OPEN),
        (Peer(5, {7: 3}), Move.REST),
        (Peer(5, {7: 1}), Move.DIFF),
        (Peer(5, {}), Move.DIFF),
        (Peer(0, {}), Move.FULL),
        (Peer(4, {6: 8}), Move.FULL),
        (Peer(4, {6: 10}), Move.FETCH),
        (Peer(3, {1: 1}), Move.FETCH),
        (Peer(5, {7: 4}), Move.FETCH),
        (Peer(6, {8: 1}), Move.FETCH),
    ]
    for peer, move in moves:
        assert next_move(OWN, own, peer, Role.AUTHOR) is move, peer
        carried = Move.WAIT if move is Move.FETCH else move
        assert next_move(OWN, own, peer, Role.CARRIER) is carried, peer


def test_a_hub_needs_nothing_back_from_those_it_tells() -> None:
    own = Holding(5, b"", {7: 3})
    assert next_move(DESIRED, own, Peer(4, {6: 10}), Role.AUTHOR) is Move.FULL
    assert next_move(DESIRED, own, Peer(5, {7: 4}), Role.AUTHOR) is Move.RESET
    assert next_move(DESIRED, own, Peer(6, {8: 1}), Role.AUTHOR) is Move.RESET
