import msgspec
import pytest

from sync.documents import (
    CLIENT_ID_MAX,
    HUB_CLIENT_ID_MIN,
    RESERVED_DEVICE_IDS,
    WRITER,
    BadName,
    DocumentName,
    Kind,
    Side,
    ack_key,
    check_id,
    client_id_allowed,
    parse_ack_key,
    parse_document,
    union,
)


def setting(clock: int, value: str = "x") -> bytes:
    return msgspec.msgpack.encode([clock, value])


@pytest.mark.parametrize("text", ["dev/pump-7", "tel/0", "des/a", "grp/" + "a" * 63])
def test_a_name_is_parsed_as_it_is_written(text: str) -> None:
    assert str(parse_document(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "dev", "dev/", "/pump", "x/pump", "dev/Pump", "dev/-a", "dev/a/b", "dev/a b"),
        *("dev/" + "a" * 64, "dev/a\n", "dev/\u00e9", "DEV/a", "dev//a"),
    ],
)
def test_anything_else_is_no_document(text: str) -> None:
    with pytest.raises(BadName):
        parse_document(text)


@pytest.mark.parametrize("word", sorted(RESERVED_DEVICE_IDS))
def test_a_reserved_word_names_a_group_but_no_device(word: str) -> None:
    assert parse_document(f"grp/{word}").about == word
    with pytest.raises(BadName, match="reserved"):
        parse_document(f"dev/{word}")


def test_a_bad_id_is_shown_but_not_at_any_length() -> None:
    with pytest.raises(BadName) as raised:
        check_id("A" * 10_000)
    assert len(str(raised.value)) < 250


def test_every_kind_has_one_writer() -> None:
    assert set(WRITER) == set(Kind)
    assert DocumentName(Kind.DEVICE, "d1").writer is Side.DEVICE
    assert DocumentName(Kind.DESIRED, "d1").writer is Side.HUB
    assert DocumentName(Kind.GROUP, "all").writer is Side.HUB


def test_no_client_id_belongs_to_both_sides_or_lies_outside_the_range() -> None:
    for client in (1, 2**16, HUB_CLIENT_ID_MIN - 1):
        assert client_id_allowed(Side.DEVICE, client)
        assert not client_id_allowed(Side.HUB, client)
    for client in (HUB_CLIENT_ID_MIN, CLIENT_ID_MAX):
        assert client_id_allowed(Side.HUB, client)
        assert not client_id_allowed(Side.DEVICE, client)
    for client in (0, -1, CLIENT_ID_MAX + 1):
        assert not client_id_allowed(Side.HUB, client)
        assert not client_id_allowed(Side.DEVICE, client)


def test_the_key_of_an_acknowledgement_says_deployment_and_stage() -> None:
    assert parse_ack_key(ack_key("dk3v7q2ax", "H")) == ("dk3v7q2ax", "H")


@pytest.mark.parametrize("key", ["", "a/", "a//H", "a/d1", "a/d1/", "a/d1/HH", "s/d1/H", "d1/H"])
def test_other_keys_are_no_acknowledgements(key: str) -> None:
    assert parse_ack_key(key) is None


def test_a_union_keeps_what_either_side_alone_has() -> None:
    assert union({"s/a": b"1"}, {"a/d1/H": b"2"}) == {"s/a": b"1", "a/d1/H": b"2"}


def test_an_acknowledgement_that_the_other_side_holds_stays_as_it_is_there() -> None:
    assert union({"a/d1/H": b"again"}, {"a/d1/H": b"promised"}) == {"a/d1/H": b"promised"}


def test_what_the_device_says_of_itself_now_prevails_over_what_it_once_said() -> None:
    own, theirs = {"s/class": b"now", "v/app": b"2"}, {"s/class": b"then", "v/app": b"1"}
    assert union(own, theirs) == own


@pytest.mark.parametrize("prefix", ["c/", "x/"])
def test_of_two_settings_the_one_with_the_later_clock_stays_whoever_has_it(prefix: str) -> None:
    key = f"{prefix}limit"
    assert union({key: setting(5)}, {key: setting(7)}) == {key: setting(7)}
    assert union({key: setting(7)}, {key: setting(5)}) == {key: setting(7)}


def test_a_setting_that_cannot_be_read_never_prevails() -> None:
    assert union({"c/k": b"\xff"}, {"c/k": setting(0)}) == {"c/k": setting(0)}
    assert union({"c/k": setting(0)}, {"c/k": b"\xff"}) == {"c/k": setting(0)}


def test_a_union_leaves_both_sides_as_they_were() -> None:
    own, theirs = {"s/a": b"1"}, {"s/a": b"2"}
    union(own, theirs)
    assert (own, theirs) == ({"s/a": b"1"}, {"s/a": b"2"})
