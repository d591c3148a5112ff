from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.documents import parse_document
from sync.gate import UPDATE_BYTES_MAX
from sync.messages import (
    FRAME_BYTES_MAX,
    MESSAGES_MAX,
    BadFrame,
    Diff,
    Fetch,
    Frame,
    Full,
    Have,
    Message,
    Open,
    Refuse,
    Whole,
    decode_frame,
    document_of,
    encode_frame,
    in_frames,
    name_on_line,
    vector_of,
)

EXAMPLES: list[Message] = [
    Open("dev", 1, b"\x00", b"12345678"),
    Have("grp/all", 2, b"\x01\x05\x06"),
    Diff("dev", 3, b"\x00\x00", b"abcd"),
    Full("des", 4, b"\x00\x00", [(1, b"\x00"), (2, b"\x01\x05\x06")]),
    Fetch("dev"),
    Whole("dev", 5, b"\x00\x00"),
    Refuse("dev", 6, "malformed"),
]


def test_there_is_an_example_of_every_message() -> None:
    assert {type(example) for example in EXAMPLES} == set(Message.__args__)


def test_a_frame_is_read_as_it_was_written() -> None:
    frame = Frame(1, b"sender", 123_456_789, (1_790_000_000_000, 5), EXAMPLES)
    assert decode_frame(encode_frame(frame)) == frame


def test_tags_and_positions_are_those_that_programs_in_the_field_know() -> None:
    """Frozen: a change here needs a new frame version."""
    encoded = encode_frame(Frame(1, b"sender", 9, None, EXAMPLES))
    assert msgspec.msgpack.decode(encoded) == [
        1,
        b"sender",
        9,
        None,
        [
            [1, "dev", 1, b"\x00", b"12345678"],
            [2, "grp/all", 2, b"\x01\x05\x06", b""],
            [3, "dev", 3, b"\x00\x00", b"abcd"],
            [4, "des", 4, b"\x00\x00", [[1, b"\x00"], [2, b"\x01\x05\x06"]]],
            [5, "dev"],
            [6, "dev", 5, b"\x00\x00"],
            [7, "dev", 6, "malformed"],
        ],
    ]


def test_a_field_that_a_later_version_appends_is_ignored() -> None:
    encoded = msgspec.msgpack.encode([1, b"s", 9, None, [[5, "dev", "new"]], "new"])
    assert decode_frame(encoded).messages == [Fetch("dev")]


@pytest.mark.parametrize(
    "frame",
    [
        [],
        {},
        1,
        [1, b"s", 9, None],
        [2, b"s", 9, None, []],
        [0, b"s", 9, None, []],
        [1, b"s" * 9, 9, None, []],
        [1, b"s", -1, None, []],
        [1, b"s", 9, [1], []],
        [1, b"s", 9, None, [[9, "dev"]]],
        [1, b"s", 9, None, [[5]]],
        [1, b"s", 9, None, [[5, "de"]]],
        [1, b"s", 9, None, [[5, "x" * 71]]],
        [1, b"s", 9, None, [[5, "dev"]] * (MESSAGES_MAX + 1)],
        [1, b"s", 9, None, [[2, "dev", -1, b""]]],
        [1, b"s", 9, None, [[2, "dev", 2**53, b""]]],
        [1, b"s", 9, None, [[2, "dev", 1, bytes(4097)]]],
        [1, b"s", 9, None, [[3, "dev", 1, bytes(UPDATE_BYTES_MAX + 1)]]],
        [1, b"s", 9, None, [[4, "dev", 1, b"", [[1, b""]] * 17]]],
        [1, b"s", 9, None, [[7, "dev", 1, "x" * 41]]],
    ],
)
def test_a_frame_of_another_shape_is_refused(frame: object) -> None:
    with pytest.raises(BadFrame):
        decode_frame(msgspec.msgpack.encode(frame))


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\x95\x01\xc6\xff\xff\xff\xff",
     bytes(FRAME_BYTES_MAX + 1)],
)  # fmt: skip
def test_deep_falsely_long_or_too_long_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(BadFrame) as raised:
        decode_frame(payload)
    assert len(str(raised.value)) <= 200


@given(st.binary(max_size=100))
def test_no_bytes_do_more_than_be_refused(payload: bytes) -> None:
    with suppress(BadFrame):
        decode_frame(payload)


def test_a_short_name_means_the_device_on_the_line() -> None:
    assert document_of(Fetch("dev"), "d1") == parse_document("dev/d1")
    assert document_of(Fetch("dev/d2"), "d1") == parse_document("dev/d2")
    assert document_of(Fetch("grp/all"), "d1") == parse_document("grp/all")
    for text in ("dev/d1", "dev/d2", "des/d1", "grp/all"):
        document = parse_document(text)
        assert document_of(Fetch(name_on_line(document, "d1")), "d1") == document


@pytest.mark.parametrize("name", ["xyz", "dev/", "dev/A", "dev/hub", "dev/a/b"])
def test_a_message_about_no_document_is_refused(name: str) -> None:
    with pytest.raises(BadFrame):
        document_of(Fetch(name), "d1")


def test_a_vector_that_cannot_be_read_is_a_bad_frame() -> None:
    assert vector_of(b"\x01\x05\x06") == {5: 6}
    with pytest.raises(BadFrame, match="state vector"):
        vector_of(b"\x01")


def test_messages_share_frames_in_their_order() -> None:
    messages: list[Message] = [Fetch("dev")] * (2 * MESSAGES_MAX + 1)
    frames = in_frames(messages, sender=b"s", sent_ms=9)
    assert [len(decode_frame(frame).messages) for frame in frames] == [
        MESSAGES_MAX,
        MESSAGES_MAX,
        1,
    ]


@pytest.mark.parametrize("size_bytes", [100, 90_000, UPDATE_BYTES_MAX])
def test_no_frame_is_longer_than_its_receiver_allows(size_bytes: int) -> None:
    messages: list[Message] = [
        Whole(f"dev/d{number}", 1, bytes(size_bytes)) for number in range(MESSAGES_MAX)
    ]
    frames = in_frames(messages, sender=b"sender", sent_ms=9, anchor=(2**53 - 1, 2**53 - 1))
    assert [message for frame in frames for message in decode_frame(frame).messages] == messages


def test_long_lists_of_epochs_taken_in_fit_as_well() -> None:
    messages: list[Message] = [Full("dev", 1, b"\0\0", [(1, bytes(4096))] * 16)] * 8
    frames = in_frames(messages, sender=b"sender", sent_ms=9)
    assert [message for frame in frames for message in decode_frame(frame).messages] == messages


def test_an_anchor_travels_once() -> None:
    frames = in_frames([Fetch("dev")] * (MESSAGES_MAX + 1), sender=b"s", sent_ms=9, anchor=(1, 2))
    assert [decode_frame(frame).anchor for frame in frames] == [(1, 2), None]


def test_no_messages_make_no_frame() -> None:
    assert in_frames([], sender=b"s", sent_ms=9) == []
