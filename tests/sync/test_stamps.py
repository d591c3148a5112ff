import msgspec
import pytest

from sync.stamps import ANY, Interval, point


def test_an_interval_does_not_end_before_it_begins() -> None:
    with pytest.raises(ValueError, match="ends before it begins"):
        Interval(2, 1)


def test_an_interval_may_be_open_on_either_side() -> None:
    assert Interval(None, 5).contains(-(10**15))
    assert Interval(5, None).contains(10**15)
    assert ANY.contains(0)
    assert ANY.width_ms is None
    assert Interval(5, None).width_ms is None


def test_both_ends_belong_to_an_interval() -> None:
    held = Interval(3, 5)
    assert [held.contains(at_ms) for at_ms in (2, 3, 5, 6)] == [False, True, True, False]
    assert held.width_ms == 2
    assert point(4).width_ms == 0


@pytest.mark.parametrize(
    ("later", "earlier", "between"),
    [
        (Interval(10, 12), Interval(1, 4), Interval(6, 11)),
        (Interval(10, None), Interval(1, 4), Interval(6, None)),
        (Interval(10, 12), Interval(None, 4), Interval(6, None)),
        (Interval(None, 12), Interval(None, 4), ANY),
        (Interval(3, 5), point(3), Interval(0, 2)),
    ],
)
def test_the_time_between_two_moments_is_as_uncertain_as_both(
    later: Interval, earlier: Interval, between: Interval
) -> None:
    assert later.minus(earlier) == between


@pytest.mark.parametrize(
    ("held", "lo_ms", "hi_ms", "cut"),
    [
        (Interval(1, 9), 3, 5, Interval(3, 5)),
        (Interval(1, 9), None, 5, Interval(1, 5)),
        (Interval(1, 9), 3, None, Interval(3, 9)),
        (ANY, 3, None, Interval(3, None)),
        (Interval(4, 4), 3, 5, Interval(4, 4)),
    ],
)
def test_what_is_known_otherwise_cuts_an_interval(
    held: Interval, lo_ms: int | None, hi_ms: int | None, cut: Interval
) -> None:
    assert held.clamp(lo_ms=lo_ms, hi_ms=hi_ms) == cut


def test_an_interval_that_contradicts_what_is_known_counts_for_nothing() -> None:
    assert Interval(1, 2).clamp(lo_ms=5, hi_ms=9) == Interval(5, 9)
    assert Interval(1, 2).clamp(lo_ms=5) == Interval(5, None)
    assert Interval(1, 2).intersect(Interval(3, 4)) is None
    with pytest.raises(ValueError, match="ends before it begins"):
        Interval(1, 2).clamp(lo_ms=9, hi_ms=5)


def test_intervals_that_share_a_moment_are_in_no_certain_order() -> None:
    assert Interval(1, 2).certainly_before(Interval(3, 4))
    assert not Interval(1, 3).certainly_before(Interval(3, 4))
    assert not Interval(3, 4).certainly_before(Interval(1, 2))
    assert not Interval(1, None).certainly_before(Interval(3, 4))
    assert not Interval(1, 2).certainly_before(Interval(None, 4))


def test_an_interval_that_a_limit_cuts_is_neither_within_nor_above_it() -> None:
    for held, above, within in [
        (Interval(1, 4), False, True),
        (Interval(4, 6), False, False),
        (Interval(6, 7), True, False),
        (Interval(None, 4), False, True),
        (Interval(6, None), True, False),
        (ANY, False, False),
    ]:
        assert held.certainly_above(5) is above
        assert held.certainly_within(5) is within


def test_an_interval_names_its_unit_in_json() -> None:
    assert msgspec.json.encode(Interval(None, 5)) == b'{"lo_ms":null,"hi_ms":5}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"lo_ms":5,"hi_ms":1}', type=Interval)
