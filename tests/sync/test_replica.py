import pytest

from sync.documents import KEY_BYTES_MAX, Side
from sync.gate import Admission, Refusal, Refused, admit
from sync.records import VALUE_BYTES_MAX
from sync.replica import (
    ABSORBED_MAX,
    DOCUMENT_BYTES_MAX,
    EPOCH_LEAP_MAX,
    Holding,
    Replica,
    absorbed_with,
    adopt,
    diff_of,
    digest_of,
    fresh,
    is_absorbed,
    is_believable,
    merge,
    values_of,
)
from tests.fakes.stranger import uints

CLIENT = 7


def holding_of(replica: Replica, epoch: int = 1) -> Holding:
    return Holding(epoch, replica.state(), replica.vector())


def admitted(update: bytes, held: dict[int, int]) -> Admission:
    return admit(update, held, Side.DEVICE)


def test_a_replica_gives_back_what_was_written() -> None:
    replica = Replica(client_id=CLIENT)
    assert replica.values() == {}
    assert replica.vector() == {}
    replica.write({"s/x": b"1", "s/y": b""})
    replica.write({"s/x": b"2"})
    assert replica.values() == {"s/x": b"2", "s/y": b""}
    assert replica.vector() == {CLIENT: 4}
    _, _, read = replica.read(["s/x", "s/z"])
    assert read == {"s/x": b"2", "s/z": None}


def test_a_replica_loaded_from_its_state_is_the_same() -> None:
    replica = fresh({"s/x": b"1"}, client_id=CLIENT)
    again = Replica(client_id=CLIENT + 1, state=replica.state())
    assert (again.values(), again.vector()) == (replica.values(), replica.vector())


def test_a_diff_holds_what_the_other_lacks_and_nothing_more() -> None:
    replica = fresh({f"s/{number}": b"x" * 50 for number in range(20)}, client_id=CLIENT)
    before = holding_of(replica)
    replica.write({"s/new": b"y"})
    diff = replica.diff(before.vector)
    assert len(diff) < 30
    other = Replica(client_id=1, state=before.state)
    other.apply(diff)
    assert other.values() == replica.values()


def test_the_updates_that_a_log_keeps_lead_back_to_the_document() -> None:
    replica = Replica(client_id=CLIENT)
    log = []
    for number in range(50):
        before = replica.vector()
        replica.write({f"s/{number % 3}": b"%d" % number})
        log.append(replica.diff(before))
    again = Replica(client_id=CLIENT + 1)
    for update in log:
        again.apply(update)
    assert (again.values(), again.vector()) == (replica.values(), replica.vector())


@pytest.mark.parametrize(
    "entries",
    [{"": b"x"}, {"k" * (KEY_BYTES_MAX + 1): b"x"}, {"k": bytes(VALUE_BYTES_MAX + 1)}],
)
def test_a_write_out_of_bounds_leaves_the_document_as_it_was(entries: dict[str, bytes]) -> None:
    replica = fresh({"s/x": b"1"}, client_id=CLIENT)
    before = holding_of(replica)
    for act in (replica.write, replica.roll):
        with pytest.raises(ValueError, match="must"):
            act({"s/x": b"2", **entries})
    assert (replica.values(), replica.vector()) == ({"s/x": b"1"}, before.vector)


def test_a_roll_gives_back_what_overwrites_have_left_behind() -> None:
    replica = Replica(client_id=CLIENT)
    for number in range(500):
        replica.write({f"s/{number % 3}": b"%d" % number})
    assert len(replica.state()) > 2000
    values = replica.values()
    replica.roll(values)
    again = Replica(client_id=CLIENT, state=replica.state())
    assert len(again.state()) < 100
    assert again.values() == values
    again.write({"s/0": b"later"})
    assert again.values() == values | {"s/0": b"later"}


def test_bytes_that_the_engine_cannot_read_are_refused() -> None:
    with pytest.raises(Refused) as raised:
        Replica(client_id=1, state=b"\xff\xff\xff")
    assert raised.value.refusal is Refusal.ENGINE


def test_a_panic_of_the_engine_is_a_refusal_like_any_other() -> None:
    replica = fresh({"s/x": b"1", "s/y": b"1"}, client_id=CLIENT)
    with pytest.raises(Refused, match="PanicException"):
        replica.apply(uints(2, 0, CLIENT, 3, 1, 1, 0, b"\x27\x01\x01r\x01g\x01", 0))


def test_a_merge_leaves_the_old_holding_as_it_was_and_says_what_changed() -> None:
    replica = fresh({"s/x": b"1", "s/y": b"1"}, client_id=CLIENT)
    held = holding_of(replica)
    replica.write({"s/x": b"2", "s/z": b"3"})
    update = replica.diff(held.vector)
    applied = merge(held, update, admitted(update, dict(held.vector)))
    assert applied.changed == {"s/x": b"2", "s/z": b"3"}
    assert values_of(applied.holding) == replica.values()
    assert values_of(held) == {"s/x": b"1", "s/y": b"1"}


def test_a_merge_of_fresh_keys_reads_those_alone_and_says_the_same() -> None:
    replica = fresh({"s/x": b"1"}, client_id=CLIENT)
    held = holding_of(replica)
    replica.write({"s/z": b"3"})
    update = replica.diff(held.vector)
    admission = admitted(update, dict(held.vector))
    assert not admission.overwrites
    assert merge(held, update, admission).changed == {"s/z": b"3"}


def test_what_a_roll_leaves_out_is_reported_as_gone() -> None:
    replica = fresh({"s/x": b"1", "s/y": b"1"}, client_id=CLIENT)
    held = holding_of(replica)
    replica.roll({"s/y": b"1"})
    update = replica.diff(held.vector)
    applied = merge(held, update, admitted(update, dict(held.vector)))
    assert applied.changed == {"s/x": None}


def test_a_merge_that_ends_elsewhere_than_foreseen_is_refused() -> None:
    replica = fresh({"s/x": b"1"}, client_id=CLIENT)
    with pytest.raises(Refused) as raised:
        merge(Holding(1, b"", {}), replica.state(), Admission({CLIENT: 99}, (), overwrites=True))
    assert raised.value.refusal is Refusal.FORECAST


def test_a_document_that_would_become_too_large_is_refused() -> None:
    replica = fresh({f"s/{number}": bytes(4000) for number in range(30)}, client_id=CLIENT)
    state = replica.state()
    assert len(state) > DOCUMENT_BYTES_MAX
    with pytest.raises(Refused) as raised:
        merge(Holding(1, b"", {}), state, admitted(state, {}))
    assert raised.value.refusal is Refusal.TOO_LARGE


@pytest.mark.parametrize(
    "struct",
    [
        uints(b"\x87", CLIENT, 1, b"\x01"),  # a map in the place of a value
        uints(b"\x88", CLIENT, 0, b"\x01\x74\x00"),  # a value in the place of the generation
    ],
)
def test_something_other_than_bytes_is_never_kept(struct: bytes) -> None:
    held = holding_of(fresh({"s/x": b"1"}, client_id=CLIENT))
    update = uints(1, 1, CLIENT, 2, struct, 0)
    with pytest.raises(Refused) as raised:
        merge(held, update, admitted(update, dict(held.vector)))
    assert raised.value.refusal is Refusal.NOT_A_MAP
    assert values_of(held) == {"s/x": b"1"}


def test_an_adopted_epoch_replaces_the_old_one_and_says_what_changed() -> None:
    held = holding_of(fresh({"s/x": b"1", "s/y": b"1"}, client_id=CLIENT))
    state = fresh({"s/y": b"1", "s/z": b"2"}, client_id=CLIENT).state()
    absorbed = ((1, held.vector),)
    applied = adopt(held, 2, state, admitted(state, {}), absorbed)
    assert applied.changed == {"s/x": None, "s/z": b"2"}
    assert applied.holding.epoch == 2
    assert applied.holding.absorbed == absorbed
    assert adopt(None, 2, state, admitted(state, {}), ()).changed == {"s/y": b"1", "s/z": b"2"}


def test_values_and_diffs_of_nothing_are_nothing() -> None:
    assert values_of(None) == {}
    assert values_of(Holding(0, b"", {})) == {}
    assert diff_of(Holding(0, b"\0\0", {}), {}) == b"\0\0"


def test_equal_values_have_equal_digests_and_others_have_not() -> None:
    values = {"s/a": b"1", "s/b": b"23"}
    assert digest_of(values) == digest_of(dict(reversed(values.items())))
    for other in ({"s/a": b"1"}, {"s/a": b"12", "s/b": b"3"}, {"s/a1": b"", "s/b": b"23"}, {}):
        assert digest_of(other) != digest_of(values)


def test_the_newest_epochs_taken_in_are_remembered_and_no_more() -> None:
    absorbed = absorbed_with((), *((epoch, {1: 1}) for epoch in range(20)))
    assert [epoch for epoch, _ in absorbed] == list(range(20 - ABSORBED_MAX, 20))


def test_a_replica_is_taken_in_if_all_it_has_was_seen_in_its_epoch() -> None:
    absorbed = ((1, {7: 5}), (3, {8: 2}))
    assert is_absorbed(absorbed, 1, {7: 5})
    assert is_absorbed(absorbed, 1, {7: 4})
    assert is_absorbed(absorbed, 9, {})
    assert not is_absorbed(absorbed, 1, {7: 6})
    assert not is_absorbed(absorbed, 1, {7: 5, 8: 1})
    assert not is_absorbed(absorbed, 2, {7: 5})
    assert not is_absorbed(absorbed, 3, {7: 5})


def test_an_epoch_is_believed_up_to_what_honest_loss_explains() -> None:
    assert is_believable(0, 5)
    assert is_believable(5 + EPOCH_LEAP_MAX, 5)
    assert not is_believable(6 + EPOCH_LEAP_MAX, 5)
