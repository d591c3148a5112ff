import pytest

from sync.author import Author
from sync.documents import parse_document
from sync.follower import Followed, follow, have
from sync.gate import Refusal
from sync.messages import Diff, Fetch, Full, Have, Open, Refuse, Whole, vector_of
from sync.replica import ABSORBED_MAX, Holding, diff_of, digest_of, values_of
from sync.vector import encode_vector, tag_of

DEVICE = "d1"
OWN = parse_document("dev/d1")
DESIRED = parse_document("des/d1")
HUB_ID = 2**40 + (1 << 16)


def author_of(**values: str) -> Author:
    author = Author(None, client_id=1 << 16)
    author.write({f"s/{key}": value.encode() for key, value in values.items()})
    return author


def full_of(holding: Holding, name: str = "dev") -> Full:
    absorbed = [(epoch, encode_vector(seen)) for epoch, seen in holding.absorbed]
    return Full(name, holding.epoch, holding.state, absorbed)


def diff_to(holding: Holding, held: Holding) -> Diff:
    update = diff_of(holding, held.vector)
    return Diff("dev", holding.epoch, update, tag_of(holding.vector))


def said(followed: Followed) -> tuple[int, dict[int, int]]:
    """Return the epoch and the vector that the follower says it holds, having changed nothing."""
    assert followed.holding is None
    assert followed.changed == {}
    assert followed.offence is None
    assert isinstance(followed.reply, Have)
    return followed.reply.epoch, vector_of(followed.reply.vector)


def test_nothing_held_is_said_to_be_nothing() -> None:
    assert said(follow(OWN, None, Open("dev", 1, b"\0"), DEVICE)) == (0, {})


def test_a_first_whole_document_is_taken_and_confirmed() -> None:
    holding = author_of(x="1").holding()
    followed = follow(OWN, None, full_of(holding), DEVICE)
    assert followed.holding == holding
    assert followed.changed == {"s/x": b"1"}
    assert followed.reply == have(OWN, holding, DEVICE)


def test_a_diff_is_merged_and_confirmed() -> None:
    author = author_of(x="1")
    held = author.holding()
    author.write({"s/x": b"2", "s/y": b"3"})
    followed = follow(OWN, held, diff_to(author.holding(), held), DEVICE)
    assert followed.holding is not None
    assert followed.holding.vector == author.vector()
    assert values_of(followed.holding) == author.values()
    assert followed.changed == {"s/x": b"2", "s/y": b"3"}
    assert followed.reply == have(OWN, followed.holding, DEVICE)


def test_a_diff_that_says_nothing_new_changes_nothing() -> None:
    author = author_of(x="1")
    held = author.holding()
    author.write({"s/x": b"2"})
    diff = diff_to(author.holding(), held)
    merged = follow(OWN, held, diff, DEVICE).holding
    assert merged is not None
    assert said(follow(OWN, merged, diff, DEVICE)) == (1, author.vector())


def test_a_diff_over_a_gap_is_answered_with_what_is_held() -> None:
    author = author_of(x="1")
    held = author.holding()
    author.write({"s/y": b"2"})
    later = author.holding()
    author.write({"s/z": b"3"})
    assert said(follow(OWN, held, diff_to(author.holding(), later), DEVICE)) == (1, held.vector)


@pytest.mark.parametrize("epoch", [0, 2, 99])
def test_a_diff_of_another_epoch_is_answered_with_what_is_held(epoch: int) -> None:
    author = author_of(x="1")
    held = author.holding()
    author.write({"s/y": b"2"})
    diff = Diff("dev", epoch, diff_of(author.holding(), held.vector), tag_of(author.vector()))
    assert said(follow(OWN, held, diff, DEVICE)) == (1, held.vector)


def test_a_diff_to_nothing_held_is_answered_with_nothing() -> None:
    author = author_of(x="1")
    empty = Holding(1, b"", {})
    assert said(follow(OWN, None, diff_to(author.holding(), empty), DEVICE)) == (0, {})


def fork() -> tuple[Author, Holding]:
    """Return an author whose disk went back, and what a follower has of the writes it lost."""
    author = author_of(x="1")
    earlier = author.holding()
    author.write({"a/d1/D": b"lost"})
    held = author.holding()
    author = Author(earlier, client_id=2 << 16)
    author.write({"s/y": b"2"})
    return author, held


def test_two_histories_are_never_merged() -> None:
    """The diff continues both, and would give a state that its writer never had."""
    author, held = fork()
    base = {client: clock for client, clock in held.vector.items() if client != 2 << 16}
    diff = Diff("dev", 1, diff_of(author.holding(), base), tag_of(author.vector()))
    assert said(follow(OWN, held, diff, DEVICE)) == (1, held.vector)


def test_a_new_epoch_that_has_not_seen_all_we_hold_is_not_taken() -> None:
    author, held = fork()
    author.reset()
    assert said(follow(OWN, held, full_of(author.holding()), DEVICE)) == (1, held.vector)


def test_a_new_epoch_that_has_seen_all_we_hold_is_taken() -> None:
    author, held = fork()
    author.rebase(held, client_id=3 << 16)
    followed = follow(OWN, held, full_of(author.holding()), DEVICE)
    assert followed.holding == author.holding()
    assert values_of(followed.holding) == {"s/x": b"1", "s/y": b"2", "a/d1/D": b"lost"}


def test_an_epoch_that_has_seen_all_we_hold_is_taken_even_with_a_lower_number() -> None:
    """Somebody once put an absurd number here; the writer need not outbid it."""
    author, held = fork()
    absurd = Holding(2**53 - 1, held.state, held.vector)
    author.rebase(absurd, client_id=3 << 16)
    assert author.holding().epoch == 2
    assert follow(OWN, absurd, full_of(author.holding()), DEVICE).holding == author.holding()


def test_an_older_epoch_is_not_taken_again() -> None:
    author = author_of(x="1")
    old = author.holding()
    author.reset()
    assert said(follow(OWN, author.holding(), full_of(old), DEVICE)) == (2, author.vector())


def test_a_whole_document_of_the_same_epoch_is_taken_if_it_has_more() -> None:
    author = author_of(x="1")
    held = author.holding()
    author.write({"s/y": b"2"})
    assert follow(OWN, held, full_of(author.holding()), DEVICE).holding == author.holding()
    assert said(follow(OWN, author.holding(), full_of(held), DEVICE)) == (1, author.vector())
    assert said(follow(OWN, held, full_of(held), DEVICE)) == (1, held.vector)


def test_the_hub_alone_says_what_it_wants_so_its_newer_epoch_counts() -> None:
    hub = Author(None, client_id=HUB_ID)
    hub.write({"d/x": b"1"})
    held = hub.holding()
    hub = Author(None, client_id=HUB_ID + (1 << 16), first_epoch=2)
    hub.write({"d/y": b"2"})
    followed = follow(DESIRED, held, full_of(hub.holding(), "des"), DEVICE)
    assert followed.holding == hub.holding()
    assert followed.changed == {"d/x": None, "d/y": b"2"}


def test_only_as_many_epochs_taken_in_are_kept_as_a_writer_remembers() -> None:
    holding = author_of(x="1").holding()
    absorbed = [(epoch, b"\0") for epoch in range(16)]
    followed = follow(OWN, None, Full("dev", 20, holding.state, absorbed), DEVICE)
    assert followed.holding is not None
    assert followed.holding.absorbed == tuple((epoch, {}) for epoch in range(16 - ABSORBED_MAX, 16))


def test_a_digest_is_given_only_to_who_has_the_same_and_gives_one() -> None:
    author = author_of(x="1")
    held = author.holding()
    vector, digest = encode_vector(held.vector), digest_of(author.values())
    asked = follow(OWN, held, Open("dev", 1, vector, b"anything"), DEVICE).reply
    assert asked == have(OWN, held, DEVICE, digest)
    for message in (
        Open("dev", 1, vector),
        Open("dev", 2, vector, digest),
        Open("dev", 1, b"\0", digest),
    ):
        assert follow(OWN, held, message, DEVICE).reply == have(OWN, held, DEVICE)


def test_who_asks_for_everything_gets_it() -> None:
    held = author_of(x="1").holding()
    assert follow(OWN, held, Fetch("dev"), DEVICE).reply == Whole("dev", 1, held.state)
    assert follow(OWN, None, Fetch("dev"), DEVICE).reply == Whole("dev", 0, b"\0\0")


HELD = author_of(x="1").holding()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Open("dev", 1, b"\xff", b"digest"), Refusal.MALFORMED),
        (Diff("dev", 1, b"\xff", b"abcd"), Refusal.MALFORMED),
        (Full("dev", 2, b"\xff"), Refusal.MALFORMED),
        (Full("dev", 2, b"\0\0", [(1, b"\xff")]), Refusal.MALFORMED),
        (Full("dev", 2, b"\x01\x01\x05\x01\0\x01\0"), Refusal.BAD_REFERENCE),
        (
            Diff("dev", 1, b"\x01\x01\x80\x80\x80\x80\x80\x20\0\0\x01\0", b""),
            Refusal.FOREIGN_WRITER,
        ),
    ],
)
def test_what_cannot_be_honest_is_refused_counted_and_without_effect(
    message: Open | Diff | Full, expected: Refusal
) -> None:
    followed = follow(OWN, HELD, message, DEVICE)
    assert followed.holding is None
    assert followed.changed == {}
    assert followed.offence is not None
    assert followed.offence.refusal is expected
    assert followed.reply == Refuse("dev", message.epoch, expected.value)
