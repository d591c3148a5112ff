import pytest

from hub.api.ranges import Part, Unsatisfiable, wanted

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", Part(0, 1)),
        ("bytes=0-99", Part(0, 100)),
        ("bytes=10-", Part(10, 100)),
        ("bytes=10-1000", Part(10, 100)),
        ("bytes=99-99", Part(99, 100)),
        ("bytes=-1", Part(99, 100)),
        ("bytes=-1000", Part(0, 100)),
        (" BYTES = 5-6 ", Part(5, 7)),
        (None, None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=0-1,5-6", None),
        ("lines=1-2", None),
        ("bytes=a-b", None),
        ("bytes=1-2-3", None),
        ("bytes=" + "9" * 40 + "-", None),
    ],
)
def test_one_range_of_bytes_is_a_part_and_anything_else_is_the_whole(
    header: str | None, part: Part | None
) -> None:
    assert wanted(header, None, etag=ETAG, length_bytes=100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        wanted(header, None, etag=ETAG, length_bytes=100)
    with pytest.raises(Unsatisfiable):
        wanted("bytes=-5", None, etag=ETAG, length_bytes=0)


@pytest.mark.parametrize("if_range", ['"other"', 'W/"abc"', "Mon, 23 Nov 2026 06:33:01 GMT", ""])
def test_a_part_is_only_given_of_the_file_that_the_caller_has_begun(if_range: str) -> None:
    assert wanted("bytes=5-", if_range, etag=ETAG, length_bytes=100) is None
    assert wanted("bytes=5-", ETAG, etag=ETAG, length_bytes=100) == Part(5, 100)
