import pytest

from sync.author import CLIENT_IDS_MAX, TAKEN_BYTES_MAX, WRITES_PER_GENERATION, Author, Upkeep
from sync.client_ids import client_id
from sync.documents import Side
from sync.gate import Refused
from sync.replica import EPOCH_LEAP_MAX, Holding, Replica, fresh, is_absorbed, values_of


def id_of(start: int) -> int:
    return client_id(Side.DEVICE, start, 5)


def new(**options: object) -> Author:
    return Author(None, client_id=id_of(1), **options)  # type: ignore[arg-type]


def test_a_new_document_is_empty_and_in_its_first_epoch() -> None:
    author = new()
    assert author.values() == {}
    assert author.holding().epoch == 1
    assert author.holding().vector == {}
    assert new(first_epoch=77).holding().epoch == 77


def test_a_write_returns_the_update_that_brings_a_log_up_to_date() -> None:
    author = new()
    replica = Replica(client_id=1)
    for entries in ({"s/x": b"1"}, {"s/y": b"2", "s/x": b"3"}):
        replica.apply(author.write(entries))
    assert replica.values() == author.values() == {"s/x": b"3", "s/y": b"2"}


def test_a_write_out_of_bounds_changes_nothing() -> None:
    author = new()
    author.write({"s/x": b"1"})
    before = author.holding()
    with pytest.raises(ValueError, match="must be bytes"):
        author.write({"s/x": b"2", "s/y": bytes(5000)})
    assert (author.values(), author.vector()) == ({"s/x": b"1"}, before.vector)


def test_an_author_goes_on_from_what_was_stored_under_its_new_id() -> None:
    author = new()
    author.write({"s/x": b"1"})
    author = Author(author.holding(), client_id=id_of(2))
    author.write({"s/x": b"2"})
    assert author.values() == {"s/x": b"2"}
    assert set(author.vector()) == {id_of(1), id_of(2)}


def test_a_document_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(Refused):
        Author(Holding(1, b"\xff\xff", {}), client_id=id_of(1))


def test_many_writes_leave_a_small_document_in_the_same_epoch() -> None:
    author = new()
    sizes_bytes = []
    for number in range(5 * WRITES_PER_GENERATION):
        author.write({f"s/{number % 7}": b"%d" % number})
        author.upkeep()
        sizes_bytes.append(len(author.holding().state))
    assert max(sizes_bytes) < 7 * 40 + 8 * WRITES_PER_GENERATION
    assert author.holding().epoch == 1
    assert len(author.values()) == 7


def test_many_starts_with_few_writes_each_leave_a_small_document_as_well() -> None:
    author = new()
    sizes_bytes = []
    for start in range(2, 60):
        author = Author(author.holding(), client_id=id_of(start))
        for number in range(WRITES_PER_GENERATION // 4):
            author.write({f"s/{number % 7}": b"%d" % number})
            author.upkeep()
        sizes_bytes.append(len(author.holding().state))
    assert max(sizes_bytes) < 7 * 40 + 8 * WRITES_PER_GENERATION + 60 * 20


def test_after_many_starts_a_new_epoch_gives_their_ids_back() -> None:
    author = new()
    for start in range(2, CLIENT_IDS_MAX + 10):
        author = Author(author.holding(), client_id=id_of(start))
        author.write({"s/x": b"%d" % start})
        author.upkeep()
        assert len(author.vector()) <= CLIENT_IDS_MAX
    assert author.holding().epoch == 2
    assert author.values() == {"s/x": b"%d" % (CLIENT_IDS_MAX + 9)}


def test_a_roll_keeps_what_is_chosen_and_forgets_the_rest() -> None:
    author = new(
        upkeep=Upkeep(writes_per_generation=2),
        prune=lambda values: {key: values[key] for key in values if key != "a/old/H"},
    )
    author.write({"a/old/H": b"1", "a/new/H": b"2"})
    assert author.upkeep()
    assert author.values() == {"a/new/H": b"2"}
    assert not author.upkeep()


def test_a_document_that_stays_large_after_a_roll_starts_a_new_epoch() -> None:
    author = new(upkeep=Upkeep(writes_per_generation=1, state_bytes_max=100))
    author.write({"s/x": bytes(200)})
    assert author.upkeep()
    assert author.holding().epoch == 2
    assert author.values() == {"s/x": bytes(200)}


def test_a_reset_holds_the_same_values_and_remembers_what_it_replaced() -> None:
    author = new()
    author.write({"s/x": b"1"})
    before = author.holding()
    author.reset(above=9)
    after = author.holding()
    assert (after.epoch, author.values()) == (10, {"s/x": b"1"})
    assert is_absorbed(after.absorbed, before.epoch, before.vector)


def fork() -> tuple[Author, Holding]:
    """Return an author whose disk went back, and what a follower still holds of its lost writes."""
    author = new()
    author.write({"s/mode": b"auto"})
    earlier = author.holding()
    author.write({"a/d1/D": b"delivered", "s/mode": b"hand"})
    theirs = author.holding()
    author = Author(earlier, client_id=id_of(2))
    author.write({"s/rate": b"1"})
    return author, theirs


def test_a_rebase_takes_lost_writes_in_and_says_again_what_is_so_now() -> None:
    author, theirs = fork()
    before = author.holding()
    author.rebase(theirs, client_id=id_of(3))
    after = author.holding()
    assert author.values() == {"s/mode": b"auto", "s/rate": b"1", "a/d1/D": b"delivered"}
    assert after.epoch == 2
    assert set(after.vector) == {id_of(3)}
    assert is_absorbed(after.absorbed, before.epoch, before.vector)
    assert is_absorbed(after.absorbed, theirs.epoch, theirs.vector)


def test_a_rebase_on_an_older_epoch_stays_in_its_own() -> None:
    author, theirs = fork()
    author.reset()
    author.rebase(theirs, client_id=id_of(3))
    assert author.holding().epoch == 2
    assert author.values()["a/d1/D"] == b"delivered"
    assert is_absorbed(author.holding().absorbed, theirs.epoch, theirs.vector)


def test_a_rebase_on_a_newer_epoch_goes_above_it() -> None:
    author, theirs = fork()
    author.rebase(Holding(41, theirs.state, theirs.vector), client_id=id_of(3))
    assert author.holding().epoch == 42


def test_an_epoch_that_cannot_be_is_not_outbid() -> None:
    author, theirs = fork()
    lie = Holding(2 + EPOCH_LEAP_MAX, theirs.state, theirs.vector)
    author.rebase(lie, client_id=id_of(3))
    assert author.holding().epoch == 2
    assert is_absorbed(author.holding().absorbed, lie.epoch, lie.vector)
    assert author.values()["a/d1/D"] == b"delivered"


def test_a_rebase_takes_no_more_in_than_a_document_may_hold_and_loses_nothing_of_its_own() -> None:
    author, _ = fork()
    own = author.values()
    flood = fresh({f"a/d{number:05}/D": bytes(3000) for number in range(30)}, client_id=id_of(9))
    author.rebase(Holding(1, flood.state(), flood.vector()), client_id=id_of(10))
    assert own.items() <= author.values().items()
    assert TAKEN_BYTES_MAX - 4000 < len(author.holding().state) < TAKEN_BYTES_MAX + 2000


def test_a_rebase_forgets_again_what_a_roll_would() -> None:
    author, theirs = fork()
    author = Author(author.holding(), client_id=id_of(3), prune=lambda _: {"s/kept": b"1"})
    author.rebase(theirs, client_id=id_of(4))
    assert author.values() == {"s/kept": b"1"}


def test_a_rebase_on_bytes_that_cannot_be_read_changes_nothing() -> None:
    author, _ = fork()
    before = (author.values(), author.vector(), author.epoch, author.absorbed, author.client_id)
    with pytest.raises(Refused):
        author.rebase(Holding(5, b"\xff\xff", {7: 7}), client_id=id_of(3))
    after = (author.values(), author.vector(), author.epoch, author.absorbed, author.client_id)
    assert after == before


def test_what_is_stored_is_what_is_held() -> None:
    author, theirs = fork()
    author.rebase(theirs, client_id=id_of(3))
    holding = author.holding()
    assert values_of(holding) == author.values()
    assert Replica(client_id=1, state=holding.state).vector() == holding.vector
