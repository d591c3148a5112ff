import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.lib0 import UINT_MAX, Malformed, Reader, write_uint


def written(value: int) -> bytes:
    out = bytearray()
    write_uint(out, value)
    return bytes(out)


@given(st.integers(0, UINT_MAX))
def test_an_integer_is_read_as_it_was_written(value: int) -> None:
    reader = Reader(written(value))
    assert reader.uint() == value
    assert reader.at_end()


@given(st.integers(0, 2**53 - 1))
def test_an_integer_is_written_in_as_few_bytes_as_possible(value: int) -> None:
    assert len(written(value)) == max(1, -(-value.bit_length() // 7))


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        (b"", "ends too early"),
        (b"\x80", "cut off"),
        (b"\x80\x00", "longer than it needs"),
        (b"\x80\x80\x80\x00", "longer than it needs"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", "above 2"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\x01", "too long"),
        (b"\xff" * 1000, "too long"),
    ],
)
def test_an_integer_in_any_other_form_is_malformed_and_the_reader_stays(
    encoded: bytes, why: str
) -> None:
    reader = Reader(encoded)
    with pytest.raises(Malformed, match=why):
        reader.uint()
    assert reader.position == 0


def test_the_largest_integer_is_the_largest_that_every_implementation_represents() -> None:
    assert Reader(written(UINT_MAX)).uint() == 2**53 - 1
    with pytest.raises(Malformed, match="above"):
        Reader(written(UINT_MAX + 1)).uint()


def test_nothing_is_taken_beyond_the_end() -> None:
    reader = Reader(b"abc")
    assert reader.take(2) == b"ab"
    with pytest.raises(Malformed, match="too early"):
        reader.take(2)
    assert reader.position == 2
    assert reader.take(1) == b"c"
    with pytest.raises(Malformed, match="too early"):
        reader.byte()


def test_a_negative_integer_has_no_form() -> None:
    with pytest.raises(ValueError, match="byte must be in range"):
        written(-1)
