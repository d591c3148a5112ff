import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.records import (
    KINDS,
    VALUE_BYTES_MAX,
    Ack,
    BadRecord,
    Case,
    Conflict,
    Deployment,
    Desired,
    Event,
    Exposure,
    Fact,
    Flag,
    Kill,
    Local,
    Measure,
    Obeyed,
    Record,
    Running,
    Terms,
    Waiting,
    decode,
    decode_as,
    encode,
    select,
)

BOOT = b"abcdef"
EXAMPLES: dict[str, Record] = {
    "a/d1/H": Ack(BOOT, 1, -5, 2, "disk_full", "no space"),
    "v/app": Running("1.2", bytes(32), BOOT, 9, healthy=True),
    "s/class": Fact('"pump"'),
    "c/limit": Local(7, "3", 0, "app"),
    "x/limit": Conflict(8, "3", None, "3", "local", 7, 6),
    "w/d1": Waiting(BOOT, 9, -5, "inhibited", "backup holds a lock", 10_000, 60, "go"),
    "t/d1": Terms(9, True, ("Sat 02:00-04:00",), 3600, "go", "ada", "it is urgent"),
    "r/d1": Deployment(9, "app", "1.2", bytes(32), 100, "site=s7"),
    "d/limit": Desired(9, None, 7, "operator", "ada"),
    "f/delta": Flag(9, '{"state":"ENABLED","variants":{"on":true},"defaultVariant":"on"}', "ada"),
    "k/flag:delta": Kill(10, is_killed=True, writer="ada", why="pumps stall"),
    "e/delta": Exposure(BOOT, 9, -5, "on", "SPLIT", 9, "app@1.2", 2),
    "q/flag:delta": Obeyed(BOOT, 9, -5, 2, 10, "order"),
    "m/latency_s/app@1.2/-": Measure("h", BOOT, 3, 0.9, 0.1, 0.5, 0, 4, -40, (1, 0, 2), BOOT, 9),
    "n/7": Event(71, BOOT, 9, -5, "sensor_lost", "bus 1", "app@1.2", 3),
    "i/open-valve-4": Case(BOOT, 9, -5, "open", "closed", "human", "app@1.2"),
}


def test_the_longest_histogram_fits_into_a_record() -> None:
    key = "m/latency_s/app@1.2/-"
    full = Measure("h", BOOT, 2**52, 1e300, 1e-9, 1e9, 2**52, 4, -2000, (2**32,) * 320, BOOT, 9)
    assert len(encode(full)) <= VALUE_BYTES_MAX
    assert decode(key, encode(full)) == full


def test_there_is_an_example_of_every_record() -> None:
    assert {key[:2] for key in EXAMPLES} == set(KINDS)


@pytest.mark.parametrize("key", EXAMPLES)
def test_a_record_is_read_as_it_was_written(key: str) -> None:
    assert decode(key, encode(EXAMPLES[key])) == EXAMPLES[key]


@pytest.mark.parametrize("key", EXAMPLES)
def test_a_record_is_positional_so_its_names_cost_nothing(key: str) -> None:
    assert isinstance(msgspec.msgpack.decode(encode(EXAMPLES[key])), list)


@pytest.mark.parametrize("key", EXAMPLES)
def test_a_field_that_a_later_version_appends_is_ignored(key: str) -> None:
    fields = msgspec.msgpack.decode(encode(EXAMPLES[key]))
    assert decode(key, msgspec.msgpack.encode([*fields, "new"])) == EXAMPLES[key]


def test_a_field_that_an_earlier_version_did_not_write_has_its_default() -> None:
    assert decode("a/d1/H", msgspec.msgpack.encode([BOOT, 1, 2, 0])) == Ack(BOOT, 1, 2, 0, "", "")


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("a/d1/H", [b"short", 1, 2, 0]),
        ("a/d1/H", [BOOT, -1, 2, 0]),
        ("a/d1/H", [BOOT, 1, 2, 3]),
        ("a/d1/H", [BOOT, 1, 2, 0, "x" * 101]),
        ("a/d1/H", [BOOT, 1, 2]),
        ("a/d1/H", [BOOT, 1.5, 2, 0]),
        ("a/d1/H", {"boot": BOOT}),
        ("c/limit", [2**63, "x"]),
        ("c/limit", [1, 5]),
        ("r/d1", [1, "app", "1", bytes(31), 1]),
        ("r/d1", [1, "app", "1", bytes(32), 0]),
        ("s/class", []),
        ("s/class", ["x" * 2001]),
    ],
)
def test_a_field_of_the_wrong_type_or_range_is_refused(key: str, fields: object) -> None:
    with pytest.raises(BadRecord, match=key):
        decode(key, msgspec.msgpack.encode(fields))


@given(st.sampled_from(list(EXAMPLES)), st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(key: str, value: bytes) -> None:
    try:
        record = decode(key, value)
    except BadRecord:
        return
    assert isinstance(record, KINDS[key[:2]])


@pytest.mark.parametrize(
    "value", [b"\x91" * 4000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_deep_or_falsely_long_bytes_are_refused(value: bytes) -> None:
    with pytest.raises(BadRecord):
        decode("s/class", value)


def test_a_value_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadRecord, match="bytes"):
        decode("s/class", bytes(VALUE_BYTES_MAX + 1))


@pytest.mark.parametrize("key", ["", "a", "q/x", "A/x", "\u00e9/x"])
def test_a_key_of_no_known_kind_is_refused(key: str) -> None:
    with pytest.raises(BadRecord):
        decode(key, encode(Fact("1")))


def test_a_record_of_another_kind_than_asked_for_is_refused() -> None:
    with pytest.raises(BadRecord, match="holds a Fact, not a Local"):
        decode_as(Local, "s/class", encode(Fact("1")))


def test_one_bad_value_hides_no_other() -> None:
    values = {"s/good": encode(Fact("1")), "s/bad": b"\xff", "c/other": encode(Local(1, "2"))}
    assert select(Fact, "s/", values) == {"good": Fact("1")}
