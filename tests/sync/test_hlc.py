import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sync.hlc import COUNTER_BITS, SKEW_MAX_MS, hear, newer_of, observe, tick

NOW_MS = 1_790_000_000_000
walls = st.integers(0, 2**45)
records = st.binary(max_size=12) | st.builds(
    lambda clock, value: msgspec.msgpack.encode([clock, value]), st.integers(0, 5), st.text()
)


def test_a_clock_follows_the_wall_while_the_wall_goes_forward() -> None:
    first = tick(0, NOW_MS)
    assert first >> COUNTER_BITS == NOW_MS
    assert tick(first, NOW_MS + 1) >> COUNTER_BITS == NOW_MS + 1


@given(st.lists(walls, min_size=2, max_size=20))
def test_a_clock_never_goes_back_whatever_the_wall_does(times: list[int]) -> None:
    clock = 0
    for now_ms in times:
        later = tick(clock, now_ms)
        assert later > clock
        clock = later


def test_a_write_after_reading_another_is_later_than_that() -> None:
    remote = tick(0, NOW_MS + 60_000)
    assert tick(observe(0, remote, NOW_MS), NOW_MS) > remote


def test_a_remote_clock_in_a_far_future_is_not_believed() -> None:
    own = tick(0, NOW_MS)
    assert observe(own, (NOW_MS + SKEW_MAX_MS) << COUNTER_BITS, NOW_MS) > own
    assert observe(own, (NOW_MS + SKEW_MAX_MS + 1) << COUNTER_BITS, NOW_MS) == own


@given(st.integers(0, 2**63 - 1), st.integers(-(2**62), 2**62))
def test_no_remote_clock_and_no_wall_bring_a_device_to_where_it_cannot_count_on(
    remote: int, wall_ms: int
) -> None:
    clock = hear(tick(0, NOW_MS), remote)
    for _ in range(3):
        later = tick(clock, wall_ms)
        assert clock < later < 2**63
        clock = later


def test_a_device_that_woke_up_in_1970_follows_the_clock_of_its_hub() -> None:
    remote = tick(0, NOW_MS)
    assert tick(hear(tick(0, 0), remote), 0) == remote + 1


@given(records, records)
def test_which_of_two_records_is_newer_does_not_depend_on_who_asks(
    one: bytes, other: bytes
) -> None:
    assert newer_of(one, other) == newer_of(other, one)


@given(records, records, records)
def test_which_of_three_records_is_newest_does_not_depend_on_their_order(
    one: bytes, two: bytes, three: bytes
) -> None:
    assert newer_of(newer_of(one, two), three) == newer_of(one, newer_of(two, three))


@given(st.binary(max_size=50))
def test_no_bytes_make_the_comparison_fail(record: bytes) -> None:
    readable = msgspec.msgpack.encode([2**63 - 1, "x"])
    assert newer_of(record, readable) in {record, readable}
