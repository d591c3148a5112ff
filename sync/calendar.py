"""Maintenance windows: `Mon..Fri 22:00-05:00`, and when they are open.

Owns the grammar and its answers, by local time in a time zone. Pure: the moment is an argument.

A window is `[DAYS] [DATE] [FROM-TO]`, each part at most once; what is left out is not asked.

* DAYS are `Mon`, `Mon..Fri` or a list of such: `Sat,Sun`. A range may go over the week's end.
* DATE is `*-MONTHS-DAYS`, each `*`, a number, `1..7` or a list of such: `*-*-1..7`. The syntax is
  that of systemd.time(7), of which this is a part.
* FROM-TO is `22:00-05:00`; if TO is not after FROM, it is on the day after. `24:00` ends a day.

DAYS and DATE are of the day on which the window opens.

Rule: a window opens when the clocks in its zone first show FROM, and closes when they first show
TO. Where clocks leap over one of them, the moment after the leap counts for it; a window that they
leap over as a whole does not open that day. A window that spans a change of the clocks lasts longer
or shorter than it says by that change.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

WINDOW_CHARACTERS_MAX: Final = 100
WINDOWS_MAX: Final = 16

MINUTES: Final = 24 * 60

LOOK_AHEAD_DAYS: Final = 9 * 366
"""A 29th of February can be eight years away."""

MERGED_MAX: Final = 64
"""Windows that follow one another without a gap; beyond that it counts as open without end."""

DAY_NAMES: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TIMES = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)\Z")
_RANGE = re.compile(r"(\d{1,2})(?:\.\.(\d{1,2}))?\Z")


class BadCalendar(ValueError):
    """The text is no window; whoever wrote it is to blame. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window, by local time."""

    days: frozenset[int] = frozenset(range(7))
    """0 is Monday."""
    months: frozenset[int] = frozenset(range(1, 13))
    dates: frozenset[int] = frozenset(range(1, 32))
    from_minute: int = 0
    to_minute: int = MINUTES
    """Minutes since the midnight of the day on which it opens; above 1440 on the day after."""

    def opens_on(self, day: date) -> bool:
        """Tell whether it opens on `day`."""
        return day.weekday() in self.days and day.month in self.months and day.day in self.dates


@dataclass(frozen=True, slots=True)
class Opening:
    """A stretch of time, UTC seconds, from the first to before the second."""

    from_s: int
    to_s: int | None
    """None if it is open without end."""


def parse_window(text: str) -> Window:
    """Return the window in `text`.

    Raises:
        BadCalendar: Says which part is none.
    """
    if len(text) > WINDOW_CHARACTERS_MAX:
        raise BadCalendar(f"a window has at most {WINDOW_CHARACTERS_MAX} characters")
    window = Window()
    order = 0
    for part in text.split():
        if part[0].isalpha():
            place, window = 1, _with_days(window, part)
        elif part.startswith("*-"):
            place, window = 2, _with_date(window, part)
        else:
            place, window = 3, _with_times(window, part)
        if place <= order:
            raise BadCalendar(
                f"{part!r} comes too late in {text!r}: write days, date and times, in this order"
            )
        order = place
    if not order:
        raise BadCalendar("a window must not be empty: write something like Mon..Fri 22:00-05:00")
    if not any(_exists(month, day) for month in window.months for day in window.dates):
        raise BadCalendar(f"{text!r} names a day that no month has")
    return window


def parse_windows(texts: Sequence[str]) -> tuple[Window, ...]:
    """Return the windows in `texts`.

    Raises:
        BadCalendar: One of them is none, or there are too many.
    """
    if len(texts) > WINDOWS_MAX:
        raise BadCalendar(f"there are at most {WINDOWS_MAX} windows, not {len(texts)}")
    return tuple(parse_window(text) for text in texts)


def opening_at(windows: Iterable[Window], zone: tzinfo, at_s: int) -> Opening | None:
    """Return the opening that holds the moment `at_s` (UTC seconds), None if all are closed.

    Windows that overlap or follow each other at once are one opening.
    """
    windows = tuple(windows)
    found = [each for each in _near(windows, zone, at_s) if each[0] <= at_s < each[1]]
    if not found:
        return None
    from_s, to_s = min(each[0] for each in found), max(each[1] for each in found)
    for _ in range(MERGED_MAX):
        further_s = max(
            (end for begin, end in _near(windows, zone, to_s) if begin <= to_s), default=to_s
        )
        if further_s <= to_s:
            return Opening(from_s, to_s)
        to_s = further_s
    return Opening(from_s, None)


def next_opening(windows: Iterable[Window], zone: tzinfo, after_s: int) -> int | None:
    """Return when the first window opens after `after_s` (UTC seconds), None if none ever does."""
    windows = tuple(windows)
    today = datetime.fromtimestamp(after_s, zone).date()
    for number in range(-1, LOOK_AHEAD_DAYS):
        day = today + timedelta(days=number)
        opened = [
            begin
            for each in windows
            if each.opens_on(day)
            for begin, end in [_stretch(each, day, zone)]
            if after_s < begin < end
        ]
        if opened:
            return min(opened)
    return None


def _near(windows: Iterable[Window], zone: tzinfo, at_s: int) -> Iterator[tuple[int, int]]:
    """Give the stretches of time that may hold `at_s`: they began today or yesterday."""
    today = datetime.fromtimestamp(at_s, zone).date()
    for window in windows:
        for number in (-2, -1, 0):  # a zone may leap over a whole day
            day = today + timedelta(days=number)
            if window.opens_on(day):
                yield _stretch(window, day, zone)


def _stretch(window: Window, day: date, zone: tzinfo) -> tuple[int, int]:
    return tuple(  # type: ignore[return-value]
        _first_shown(day, minute, zone) for minute in (window.from_minute, window.to_minute)
    )


def _first_shown(day: date, minute: int, zone: tzinfo) -> int:
    """Return the UTC second in which the clocks of `zone` first show a minute of `day` or later."""
    naive = datetime(day.year, day.month, day.day) + timedelta(minutes=minute)  # noqa: DTZ001 - local
    local = naive.replace(tzinfo=zone)
    found = int(local.timestamp())
    if datetime.fromtimestamp(found, zone).replace(tzinfo=None) == naive:
        return found
    # Clocks leap over it (PEP 495: the two folds lie on either side of the leap, swapped).
    low, high = int(local.replace(fold=1).timestamp()), found
    before = _offset_s(low, zone)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset_s(middle, zone) == before else (low, middle)
    return high


def _offset_s(at_s: int, zone: tzinfo) -> float:
    utc = datetime.fromtimestamp(at_s, UTC)
    return (utc.astimezone(zone).replace(tzinfo=UTC) - utc).total_seconds()


def _with_days(window: Window, part: str) -> Window:
    days: set[int] = set()
    for piece in part.split(","):
        first, dots, last = piece.partition("..")
        begin, end = _day(first), _day(last if dots else first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return Window(frozenset(days), window.months, window.dates)


def _day(name: str) -> int:
    try:
        return DAY_NAMES.index(name.lower())
    except ValueError:
        raise BadCalendar(
            f"{name!r} is no day: write Mon, Tue, Wed, Thu, Fri, Sat or Sun"
        ) from None


def _with_date(window: Window, part: str) -> Window:
    pieces = part.split("-")
    if len(pieces) != 3:  # noqa: PLR2004 - year, month, day
        raise BadCalendar(f"{part!r} is no date: write *-MONTH-DAY, such as *-*-1..7")
    months = _numbers(pieces[1], window.months, "month")
    return Window(window.days, months, _numbers(pieces[2], window.dates, "day of a month"))


def _numbers(text: str, allowed: Collection[int], noun: str) -> frozenset[int]:
    if text == "*":
        return frozenset(allowed)
    found: set[int] = set()
    for piece in text.split(","):
        match = _RANGE.match(piece)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if first not in allowed or last not in allowed or last < first:
            raise BadCalendar(
                f"{piece!r} is no {noun}: write {min(allowed)} to {max(allowed)}, or as 1..7"
            )
        found.update(range(first, last + 1))
    return frozenset(found)


def _with_times(window: Window, part: str) -> Window:
    match = _TIMES.match(part)
    if match is None:
        raise BadCalendar(f"{part!r} is neither days nor a date nor times such as 22:00-05:00")
    begin, end = _minute(match[1], match[2], part), _minute(match[3], match[4], part)
    if begin in (end, MINUTES):
        raise BadCalendar(f"{part!r} has no length: the whole day is 00:00-24:00")
    if end < begin:
        end += MINUTES
    return Window(window.days, window.months, window.dates, begin, end)


def _minute(hour: str, minute: str, part: str) -> int:
    found = int(hour) * 60 + int(minute)
    if int(minute) > 59 or found > MINUTES:  # noqa: PLR2004 - an hour
        raise BadCalendar(f"{part!r} has a time that no clock shows: write 00:00 to 24:00")
    return found


def _exists(month: int, day: int) -> bool:
    try:
        date(2024, month, day)  # a leap year
    except ValueError:
        return False
    return True
