import pytest

from hub.outcomes.presence import PresenceChange, online_at, reachable_ms

ON = True
OFF = False


def log(*changes: tuple[int, bool]) -> list[PresenceChange]:
    return [PresenceChange(at_ms, online=online) for at_ms, online in changes]


@pytest.mark.parametrize(
    ("changes", "total_ms"),
    [
        ([], 0),
        ([(0, ON)], 100),
        ([(150, ON)], 50),
        ([(0, ON), (150, OFF)], 50),
        ([(0, ON), (50, OFF)], 0),
        ([(120, ON), (130, OFF), (180, ON)], 30),
        ([(110, OFF), (120, ON), (125, ON), (130, OFF), (140, OFF)], 10),
        ([(130, OFF), (120, ON)], 10),
        ([(300, ON)], 0),
        ([(0, ON), (300, OFF)], 100),
    ],
)
def test_only_time_known_to_be_connected_counts(
    changes: list[tuple[int, bool]], total_ms: int
) -> None:
    assert reachable_ms(log(*changes), from_ms=100, to_ms=200) == total_ms


def test_a_span_that_ends_before_it_begins_holds_no_time() -> None:
    assert reachable_ms(log((0, ON)), from_ms=200, to_ms=100) == 0


def test_a_device_is_connected_as_the_last_entry_says() -> None:
    changes = log((100, ON), (200, OFF), (200, ON), (300, OFF))
    known = [online_at(changes, at_ms) for at_ms in (99, 100, 199, 200, 299, 300)]
    assert known == [False, True, True, True, True, False]
    assert not online_at([], 5)
