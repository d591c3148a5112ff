import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.author import Author, Upkeep
from sync.documents import HUB_CLIENT_ID_MIN, KEY_BYTES_MAX, Side
from sync.gate import (
    BLOCKS_MAX,
    CLOCK_MAX,
    MAPS_MAX,
    UPDATE_BYTES_MAX,
    Gap,
    Refusal,
    Refused,
    admit,
    without_deletes,
)
from sync.records import VALUE_BYTES_MAX
from sync.replica import Holding, Replica, diff_of, merge
from sync.vector import VECTOR_CLIENTS_MAX
from tests.fakes.stranger import uints

CLIENT = 7
GENERATION = b"\x27\x01\x01r\x01g\x01"  # a map under key g of root r
NO_DELETES = b"\x00"


def entry(key: bytes = b"s/x", value: bytes = b"v") -> bytes:
    """Return the struct of a fresh key in the generation that CLIENT began at clock 0."""
    return uints(b"\x28\x00", CLIENT, 0, len(key), key, b"\x01\x74", len(value), value)


def overwrite(clock: int, content: bytes = b"\x01\x74\x01w") -> bytes:
    return uints(b"\x88", CLIENT, clock, content)


def update(
    *structs: bytes, client: int = CLIENT, clock: int = 0, deletes: bytes = NO_DELETES
) -> bytes:
    return uints(1, len(structs), client, clock, *structs) + deletes


def refusal(payload: bytes, held: dict[int, int], writer: Side = Side.DEVICE) -> Refusal:
    with pytest.raises(Refused) as raised:
        admit(payload, held, writer)
    return raised.value.refusal


def test_what_an_author_writes_is_admitted_with_the_vector_it_ends_at() -> None:
    author = Author(None, client_id=CLIENT)
    author.write({"s/x": b"1", "s/y": b"2"})
    admission = admit(author.holding().state, {}, Side.DEVICE)
    assert admission.forecast == author.vector()
    assert sorted(admission.fresh_keys) == ["s/x", "s/y"]


@given(st.lists(st.tuples(st.sampled_from("uvwxyz"), st.booleans(), st.booleans()), max_size=60))
def test_everything_that_an_author_ever_does_is_admitted(
    steps: list[tuple[str, bool, bool]],
) -> None:
    author = Author(None, client_id=1 << 16, upkeep=Upkeep(writes_per_generation=7))
    held = Holding(1, b"", {})
    for number, (key, restarts, syncs) in enumerate(steps):
        if restarts:
            author = Author(author.holding(), client_id=(number + 2) << 16)
        author.write({key: b"%d" % number})
        author.upkeep()
        if syncs:
            diff = diff_of(author.holding(), held.vector)
            held = merge(held, diff, admit(diff, held.vector, Side.DEVICE)).holding
            assert held.vector == author.vector()


def test_fresh_keys_alone_are_no_overwrite_and_anything_else_is() -> None:
    held = {CLIENT: 2}
    assert not admit(update(entry(b"s/y"), clock=2), held, Side.DEVICE).overwrites
    assert admit(update(overwrite(1), clock=2), held, Side.DEVICE).overwrites
    deleting = update(entry(), clock=2, deletes=uints(1, CLIENT, 1, 1, 1))
    assert admit(deleting, held, Side.DEVICE).overwrites


def test_an_update_that_starts_later_than_what_is_held_is_a_gap() -> None:
    with pytest.raises(Gap, match="starts at 3"):
        admit(update(entry(), clock=3), {CLIENT: 2}, Side.DEVICE)


def test_an_update_that_builds_on_or_deletes_what_is_not_held_is_a_gap() -> None:
    """A diff that was made for another state of the same document: nobody is to blame."""
    held = {CLIENT: 2}
    other = uints(1, 1, CLIENT + 1, 0, overwrite(5)) + NO_DELETES
    with pytest.raises(Gap, match="refers to clock 5"):
        admit(other, held, Side.DEVICE)
    with pytest.raises(Gap, match="deletes up to 6"):
        admit(update(entry(), clock=2, deletes=uints(1, CLIENT, 1, 5, 1)), held, Side.DEVICE)


def test_what_is_held_already_may_come_again() -> None:
    assert admit(update(GENERATION, entry()), {CLIENT: 9}, Side.DEVICE).forecast == {CLIENT: 9}


@pytest.mark.parametrize(
    ("writer", "client"),
    [
        (Side.DEVICE, HUB_CLIENT_ID_MIN),
        (Side.DEVICE, 0),
        (Side.HUB, 1),
        (Side.HUB, HUB_CLIENT_ID_MIN - 1),
    ],
)
def test_nobody_writes_under_an_id_of_the_other_side(writer: Side, client: int) -> None:
    assert refusal(update(GENERATION, client=client), {}, writer) is Refusal.FOREIGN_WRITER


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", Refusal.MALFORMED),
        (b"\x00", Refusal.MALFORMED),
        (b"\x00\x00\x00", Refusal.MALFORMED),
        (update(GENERATION) + b"\x00", Refusal.MALFORMED),
        (update(GENERATION)[:-1], Refusal.MALFORMED),
        (b"\x80\x00\x00", Refusal.MALFORMED),
        (uints(1, 0, CLIENT, 0, 0), Refusal.MALFORMED),
        (uints(2, 1, CLIENT, 0, GENERATION, 1, CLIENT, 1, entry(), 0), Refusal.MALFORMED),
        (update(GENERATION, b"\x00\x00"), Refusal.MALFORMED),
        (update(GENERATION, b"\x20\x01"), Refusal.MALFORMED),
        (update(GENERATION, b"\x28\x02\x01r\x01g"), Refusal.MALFORMED),
        (update(GENERATION, entry(b"\xff")), Refusal.MALFORMED),
        (update(GENERATION, deletes=uints(1, CLIENT, 1, 0, 0)), Refusal.MALFORMED),
        (update(GENERATION, deletes=uints(2, CLIENT, 0, CLIENT, 0)), Refusal.MALFORMED),
        (uints(VECTOR_CLIENTS_MAX + 1), Refusal.TOO_LARGE),
        (uints(1, BLOCKS_MAX + 1, CLIENT, 0), Refusal.TOO_LARGE),
        (update(GENERATION, uints(0, CLOCK_MAX)), Refusal.TOO_LARGE),
        (update(GENERATION, entry(b"")), Refusal.TOO_LARGE),
        (update(GENERATION, entry(b"k" * (KEY_BYTES_MAX + 1))), Refusal.TOO_LARGE),
        (update(GENERATION, entry(value=bytes(VALUE_BYTES_MAX + 1))), Refusal.TOO_LARGE),
        (bytes(UPDATE_BYTES_MAX + 1), Refusal.TOO_LARGE),
        (update(b"\x27\x01\x01q\x01g\x01"), Refusal.NOT_A_MAP),
        (update(b"\x27\x01\x01r\x01h\x01"), Refusal.NOT_A_MAP),
        (update(b"\x27\x01\x01r\x01g\x00"), Refusal.NOT_A_MAP),
        (update(b"\x28\x01\x01r\x01g\x01\x74\x00"), Refusal.NOT_A_MAP),
        (update(b"\x08\x01\x01r\x01\x74\x00"), Refusal.NOT_A_MAP),
        (update(b"\x24\x01\x01r\x01g\x00"), Refusal.NOT_A_MAP),
        (update(GENERATION, b"\x27\x00\x07\x00\x01a\x01"), Refusal.NOT_A_MAP),
        (update(GENERATION, b"\x28\x00\x07\x00\x01a\x02\x74\x00\x74\x00"), Refusal.NOT_A_MAP),
        (update(GENERATION, b"\x28\x00\x07\x00\x01a\x01\x7e"), Refusal.NOT_A_MAP),
        (update(GENERATION, b"\xc8\x07\x00\x07\x00\x01\x74\x00"), Refusal.NOT_A_MAP),
        (update(GENERATION, overwrite(1)), Refusal.BAD_REFERENCE),
        (update(GENERATION, uints(b"\x88", CLIENT + 1, 0, b"\x01\x74\x00")), Refusal.BAD_REFERENCE),
    ],
)
def test_anything_that_no_honest_writer_sends_is_refused(payload: bytes, expected: Refusal) -> None:
    assert refusal(payload, {}) is expected


def test_maps_cannot_be_nested_until_a_stack_overflows() -> None:
    structs = [GENERATION]
    for level in range(MAPS_MAX):
        parent = 2 * level
        structs.append(uints(b"\x28\x00", CLIENT, parent, b"\x01a\x01\x74\x00"))
        structs.append(uints(b"\x87", CLIENT, parent + 1, b"\x01"))
    assert refusal(update(*structs), {}) is Refusal.NOT_A_MAP


def test_a_refusal_says_why_in_one_short_line() -> None:
    with pytest.raises(Refused) as raised:
        admit(update(GENERATION, client=HUB_CLIENT_ID_MIN), {}, Side.DEVICE)
    assert str(raised.value) == (
        f"foreign_writer: client id {HUB_CLIENT_ID_MIN} is not one of a device"
    )


@given(st.binary(max_size=64), st.dictionaries(st.integers(0, 9), st.integers(1, 9), max_size=3))
def test_no_bytes_do_more_than_be_refused(payload: bytes, held: dict[int, int]) -> None:
    before = dict(held)
    try:
        admission = admit(payload, held, Side.DEVICE)
    except (Gap, Refused):
        pass
    else:
        assert admission.forecast.keys() >= held.keys()
    assert held == before


def test_a_diff_without_its_delete_set_leads_to_the_same_document() -> None:
    author = Author(None, client_id=CLIENT)
    author.write({"s/x": b"0", "s/y": b"0"})
    held = author.holding()
    for number in range(20):
        author.write({f"s/{'xy'[number % 2]}": b"%d" % number})
    engine_diff = Replica(client_id=1, state=author.holding().state)
    diff = diff_of(author.holding(), held.vector)
    assert diff.endswith(NO_DELETES)
    merged = merge(held, diff, admit(diff, held.vector, Side.DEVICE)).holding
    assert merged.vector == engine_diff.vector()
    assert Replica(client_id=1, state=merged.state).values() == author.values()


def test_bytes_that_cannot_be_read_keep_their_delete_set() -> None:
    assert without_deletes(b"\xff\xff", {}) == b"\xff\xff"
