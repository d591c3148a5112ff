from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.calendar import (
    DAY_NAMES,
    MINUTES,
    WINDOW_CHARACTERS_MAX,
    WINDOWS_MAX,
    BadCalendar,
    Opening,
    Window,
    next_opening,
    opening_at,
    parse_window,
    parse_windows,
)

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [UTC, *map(ZoneInfo, ("Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"))]


def at(text: str, zone: ZoneInfo = BERLIN, *, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp())


def is_open(text: str, moment: str) -> bool:
    return opening_at([parse_window(text)], BERLIN, at(moment)) is not None


@pytest.mark.parametrize(
    ("text", "moment", "meant"),
    [
        ("22:00-05:00", "2026-06-03 22:00", True),
        ("22:00-05:00", "2026-06-03 21:59", False),
        ("22:00-05:00", "2026-06-04 04:59", True),
        ("22:00-05:00", "2026-06-04 05:00", False),
        ("Mon..Fri 22:00-05:00", "2026-06-05 23:00", True),  # a Friday
        ("Mon..Fri 22:00-05:00", "2026-06-06 04:00", True),  # opened on the Friday
        ("Mon..Fri 22:00-05:00", "2026-06-06 23:00", False),
        ("Mon..Fri 22:00-05:00", "2026-06-08 04:00", False),  # Sunday's did not open
        ("Sat,Sun", "2026-06-06 00:00", True),
        ("sat,SUN", "2026-06-05 23:59", False),
        ("Fri..Mon", "2026-06-08 12:00", True),
        ("Fri..Mon", "2026-06-09 00:00", False),
        ("Sun *-*-1..7 02:00-04:00", "2026-06-07 03:00", True),
        ("Sun *-*-1..7 02:00-04:00", "2026-06-14 03:00", False),
        ("*-12-24,25", "2026-12-25 09:00", True),
        ("*-12-24,25", "2026-11-25 09:00", False),
        ("*-2-29", "2028-02-29 09:00", True),
        ("8:00-24:00", "2026-06-06 23:59", True),
    ],
)
def test_a_window_is_open_as_it_says(text: str, moment: str, *, meant: bool) -> None:
    assert is_open(text, moment) is meant


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "   ",
            "Mo",
            "Monday",
            "Mon..",
            "Mon,",
            "22-05",
            "22:00",
            "22:00-22:00",
            "24:00-05:00",
        ),
        *("25:00-26:00", "22:60-23:00", "22:00-05:00 Mon", "Mon Tue", "*-13-1", "*-1", "*-2-30"),
        *("*-0-1", "*-1-7..1", "2026-1-1", "*-*-x", "22:00-05:00 23:00-24:00", "Mon\u00e9"),
        "Mon " * WINDOW_CHARACTERS_MAX,
    ],
)
def test_anything_else_is_no_window(text: str) -> None:
    with pytest.raises(BadCalendar):
        parse_window(text)


def test_the_part_at_fault_is_named() -> None:
    with pytest.raises(BadCalendar, match="'Mo' is no day"):
        parse_window("Mo..Fri 22:00-05:00")


def test_there_is_a_bounded_number_of_windows() -> None:
    assert len(parse_windows(["Mon"] * WINDOWS_MAX)) == WINDOWS_MAX
    with pytest.raises(BadCalendar, match="at most"):
        parse_windows(["Mon"] * (WINDOWS_MAX + 1))


def test_windows_that_touch_are_one_opening() -> None:
    windows = parse_windows(["Fri 20:00-24:00", "Sat", "Sun 00:00-06:00"])
    opening = opening_at(windows, BERLIN, at("2026-06-06 12:00"))
    assert opening == Opening(at("2026-06-06 00:00"), at("2026-06-07 06:00"))


def test_windows_without_a_gap_never_close() -> None:
    opening = opening_at([Window()], BERLIN, at("2026-06-06 12:00"))
    assert opening is not None
    assert opening.to_s is None


def test_the_next_opening_may_be_years_away() -> None:
    found = next_opening([parse_window("*-2-29 03:00-04:00")], BERLIN, at("2024-02-29 03:00"))
    assert found == at("2028-02-29 03:00")


def test_a_window_within_the_hour_that_clocks_leap_over_does_not_open_that_day() -> None:
    window = [parse_window("02:15-02:45")]
    assert next_opening(window, BERLIN, at("2026-03-28 12:00")) == at("2026-03-30 02:15")
    assert opening_at(window, BERLIN, at("2026-03-29 03:00")) is None


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("02:30-04:00", "2026-03-29 03:00", "2026-03-29 04:00"),
        ("01:00-02:30", "2026-03-29 01:00", "2026-03-29 03:00"),
        ("01:00-04:00", "2026-03-29 01:00", "2026-03-29 04:00"),
    ],
)
def test_a_time_that_clocks_leap_over_means_the_moment_after(
    text: str, begin: str, end: str
) -> None:
    opened = next_opening([parse_window(text)], BERLIN, at("2026-03-29 00:30"))
    assert opened == at(begin)
    assert opening_at([parse_window(text)], BERLIN, at(begin)) == Opening(at(begin), at(end))


def test_a_time_that_clocks_show_twice_means_the_first_of_them() -> None:
    window = [parse_window("02:15-02:45")]
    first, second = at("2026-10-25 02:15"), at("2026-10-25 02:15", fold=1)
    assert second == first + 3600
    assert next_opening(window, BERLIN, at("2026-10-25 01:00")) == first
    assert opening_at(window, BERLIN, first) == Opening(first, first + 30 * 60)
    assert opening_at(window, BERLIN, second) is None
    assert next_opening(window, BERLIN, first) == at("2026-10-26 02:15")


def test_a_day_that_a_zone_left_out_has_no_window() -> None:
    samoa = ZoneInfo("Pacific/Apia")  # went over the date line: no 30 December 2011
    window = [parse_window("12:00-13:00")]
    assert next_opening(window, samoa, at("2011-12-29 12:00", samoa)) == at(
        "2011-12-31 12:00", samoa
    )


windows = st.builds(
    lambda days, begin, length: Window(
        frozenset(days), from_minute=begin, to_minute=min(begin + length, begin + MINUTES)
    ),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, MINUTES - 1),
    st.integers(1, MINUTES),
)
moments = st.integers(
    int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()),
    int(datetime(2028, 1, 1, tzinfo=UTC).timestamp()),
)


@given(st.lists(windows, min_size=1, max_size=3), st.sampled_from(ZONES), moments)
def test_it_is_closed_until_the_next_opening_and_open_then(
    given_windows: list[Window], zone: ZoneInfo, moment: int
) -> None:
    if opening_at(given_windows, zone, moment) is not None:
        return
    opens = next_opening(given_windows, zone, moment)
    assert opens is not None
    assert opens > moment
    opening = opening_at(given_windows, zone, opens)
    assert opening is not None
    assert opening.from_s == opens
    assert opening_at(given_windows, zone, opens - 1) is None
    assert opening_at(given_windows, zone, (moment + opens) // 2) is None


@given(st.lists(windows, min_size=1, max_size=3), st.sampled_from(ZONES), moments)
def test_an_opening_holds_to_its_end_and_no_further(
    given_windows: list[Window], zone: ZoneInfo, moment: int
) -> None:
    opening = opening_at(given_windows, zone, moment)
    if opening is None or opening.to_s is None:
        return
    assert opening.from_s <= moment < opening.to_s
    assert opening_at(given_windows, zone, opening.to_s - 1) is not None
    assert opening_at(given_windows, zone, opening.to_s) is None


@given(windows, moments)
def test_without_leaps_a_window_is_open_by_what_the_clock_shows(
    window: Window, moment: int
) -> None:
    shown = datetime.fromtimestamp(moment, UTC)
    minute = shown.hour * 60 + shown.minute
    today = shown.date()
    expected = any(
        window.opens_on(day) and window.from_minute <= minute + ahead < window.to_minute
        for day, ahead in ((today, 0), (today - timedelta(days=1), MINUTES))
    )
    assert (opening_at([window], UTC, moment) is not None) is expected


@given(st.sets(st.integers(0, 6), min_size=1), st.integers(0, MINUTES - 1), st.integers(1, MINUTES))
def test_what_is_written_is_what_is_read(days: set[int], begin: int, end: int) -> None:
    if begin == end:
        return
    text = ",".join(DAY_NAMES[day] for day in sorted(days))
    text += f" {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    window = parse_window(text)
    assert window.days == days
    assert (window.from_minute, window.to_minute) == (begin, end if end > begin else end + MINUTES)
    assert window.opens_on(date(2026, 6, 1)) is (0 in days)
