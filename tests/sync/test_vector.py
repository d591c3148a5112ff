import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.lib0 import Malformed
from sync.vector import (
    TAG_BYTES,
    VECTOR_CLIENTS_MAX,
    covers,
    decode_vector,
    encode_vector,
    tag_of,
)

vectors = st.dictionaries(st.integers(0, 2**53 - 1), st.integers(1, 2**31), max_size=20)


@given(vectors)
def test_a_vector_is_read_as_it_was_written(vector: dict[int, int]) -> None:
    assert decode_vector(encode_vector(vector)) == vector


@given(vectors)
def test_equal_vectors_have_equal_bytes_and_tags_in_whatever_order_they_were_made(
    vector: dict[int, int],
) -> None:
    backwards = dict(reversed(vector.items()))
    assert encode_vector(backwards) == encode_vector(vector)
    assert tag_of(backwards) == tag_of(vector)
    assert len(tag_of(vector)) == TAG_BYTES


def test_pairs_are_read_in_any_order() -> None:
    assert decode_vector(b"\x02\x01\x05\x02\x06") == decode_vector(b"\x02\x02\x06\x01\x05")


def test_a_client_that_wrote_nothing_is_left_out() -> None:
    assert decode_vector(b"\x02\x01\x00\x02\x06") == {2: 6}


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        (b"", "too early"),
        (b"\x01\x05", "too early"),
        (b"\x00\x00", "after the state vector"),
        (b"\x02\x01\x05\x01\x06", "twice"),
        (b"\x02\x01\x00\x01\x06", "twice"),
        (b"\x81\x02", "257 clients"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x0f", "clients"),
    ],
)
def test_anything_else_is_malformed(encoded: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        decode_vector(encoded)


def test_as_many_clients_as_allowed_are_read() -> None:
    vector = dict.fromkeys(range(1, VECTOR_CLIENTS_MAX + 1), 1)
    assert decode_vector(encode_vector(vector)) == vector


@given(vectors, vectors)
def test_a_vector_covers_what_it_has_all_of(one: dict[int, int], other: dict[int, int]) -> None:
    both = {client: max(one.get(client, 0), other.get(client, 0)) for client in {*one, *other}}
    assert covers(both, one)
    assert covers(both, other)
    assert covers(one, other) == (both == one)


def test_every_vector_covers_the_empty_one_and_no_other_is_covered_by_it() -> None:
    assert covers({}, {})
    assert covers({1: 1}, {})
    assert not covers({}, {1: 1})
