"""Series: which names they can have, and which records of them are believed."""

import math

import msgspec
import pytest

from sync.records import BadRecord, Measure
from sync.series import BadSeries, Series, check, checked, later, parse_key

START = b"series"


@pytest.mark.parametrize(
    "series",
    [
        Series("door.open_s"),
        Series("door.open_s", "app@1.4.0", "fast-door=on"),
        Series("x", "app@1.0.0+b.7~rc1", "-"),
    ],
)
def test_a_series_is_found_again_by_its_key(series: Series) -> None:
    assert parse_key(checked(series).key()) == series


@pytest.mark.parametrize(
    "key",
    ["m/", "m/x", "m/x/-", "m/x/-/-/-", "m/X/-/-", "m/x/app/-", "m/x/-/on", "n/x/-/-", "m/x/a@/-"],
)
def test_other_keys_are_no_series(key: str) -> None:
    with pytest.raises(BadSeries):
        parse_key(key)


def test_a_key_that_is_too_long_for_a_document_is_refused() -> None:
    with pytest.raises(BadSeries, match="letters"):
        checked(Series("m" * 63, "c" * 63 + "@" + "1" * 40, "f=v"))


def test_counters_gauges_and_histograms_are_believed() -> None:
    for record in (
        Measure("c", START, 3, 7.0),
        Measure("g", START, 3, -4.0, -5.0, 5.0),
        Measure("h", START, 1, 1.0, 1.0, 1.0, 0, 4, -1, (1,)),
    ):
        assert check(record) is record


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "x"},
        {"kind": "h"},
        {"total": math.nan},
        {"total": math.inf},
        {"total": 1e200},
        {"total": -1.0},
        {"buckets": (1,)},
        {"zeros": 1},
        {"kind": "g", "total": 9.0},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    record = msgspec.structs.replace(Measure("c", START, 3, 7.0), **change)
    with pytest.raises(BadRecord):
        check(record)


def test_of_two_records_of_one_series_the_larger_count_is_the_later_one() -> None:
    old, new = Measure("c", START, 3, 7.0), Measure("c", START, 4, 8.0)
    assert later(old, new) is later(new, old) is new
    anew = Measure("c", b"other!", 1, 1.0)
    assert later(new, anew) is anew
