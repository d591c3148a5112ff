"""What is measured, line by line, and its bounds: series, events, cases, bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.measures import (
    CASES_MAX,
    EVENTS_MAX,
    LIVE_BYTES_MAX,
    SERIES_MAX,
    BadMeasure,
    Measures,
)
from agent.statsd import take_line, take_lines
from sync import records
from sync.records import Case, Event, Measure
from sync.series import Series
from sync.sketch import from_record
from sync.stamps import Stamp

NOW = Stamp(b"boot-1", 1000, 1_800_000_000_000)


def entries_of(measures: Measures) -> dict[str, records.Record]:
    return {key: records.decode(key, value) for key, value in measures.entries(NOW).items()}


def taken(*lines: str) -> dict[str, records.Record]:
    measures = Measures()
    for line in lines:
        take_line(measures, line, NOW)
    return entries_of(measures)


def series_of(found: dict[str, records.Record], key: str) -> Measure:
    record = found[key]
    assert isinstance(record, Measure)
    return record


def test_a_counter_a_gauge_and_a_histogram_are_measured_by_words() -> None:
    found = taken(
        "count door.opened",
        "count door.opened 2",
        "gauge level 3.5",
        "gauge level 1",
        "observe open_s 0.25 release=app@1.4.0 variant=fast-door=on",
    )
    counter = series_of(found, "m/door.opened/-/-")
    gauge = series_of(found, "m/level/-/-")
    histogram = series_of(found, "m/open_s/app@1.4.0/fast-door=on")
    assert (counter.kind, counter.count, counter.total) == ("c", 2, 3.0)
    assert (gauge.kind, gauge.total, gauge.least, gauge.most) == ("g", 1.0, 1.0, 3.5)
    assert from_record(histogram).total == 0.25


def test_statsd_is_understood_with_rates_and_tags() -> None:
    found = taken(
        "door.opened:1|c|@0.5",
        "level:3.5|g",
        "Open-Time:320|ms|#release:app@1.4.0,site:s7",
    )
    assert series_of(found, "m/door.opened/-/-").total == 2.0
    assert series_of(found, "m/level/-/-").total == 3.5
    assert series_of(found, "m/open_time/app@1.4.0/-").total == 320.0


def test_an_outcome_and_who_ended_it_become_one_case() -> None:
    found = taken(
        "outcome i-7 closed release=app@1.4.0",
        "outcome i-7 closed ajar detail=the sensor says so",
        "case i-7 human",
    )
    assert found["i/i-7"] == Case(
        NOW.boot,
        NOW.boottime_ms,
        NOW.wall_ms,
        "closed",
        "ajar",
        "human",
        "app@1.4.0",
        "the sensor says so",
    )


def test_the_same_event_in_a_row_is_counted_and_not_kept_again() -> None:
    found = taken("event E42 detail=the same = thing", *["event E43"] * 3)
    first, second = found["n/0"], found["n/1"]
    assert isinstance(first, Event)
    assert isinstance(second, Event)
    assert (first.code, first.detail, first.count) == ("E42", "the same = thing", 1)
    assert (second.code, second.count, second.number) == ("E43", 3, 1)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("count", "bad_line"),
        ("count x -1", "bad_value"),
        ("count x nan", "bad_value"),
        ("observe x inf", "bad_value"),
        ("gauge x much", "bad_value"),
        ("count X", "bad_name"),
        ("count x release=app", "bad_name"),
        ("outcome i a b c", "bad_line"),
        ("case i-7 nobody", "bad_value"),
        ("x:1|s", "bad_line"),
        ("x:+1|g", "bad_line"),
        ("x:1|c|@0", "bad_value"),
        ("x" * 1025, "bad_line"),
        ("event " + "E" * 65, "bad_name"),
        ("outcome " + "i" * 65 + " x", "bad_name"),
    ],
)
def test_what_cannot_be_measured_is_counted_by_its_reason_and_leaves_nothing(
    line: str, why: str
) -> None:
    measures = Measures()
    (fault,) = take_lines(measures, line, NOW)
    assert fault
    assert measures.dropped == {why: 1}
    assert measures.entries(NOW) == {}


def test_a_metric_keeps_its_kind() -> None:
    measures = Measures()
    measures.count(Series("x"))
    with pytest.raises(BadMeasure, match="already"):
        measures.observe(Series("x"), 1.0)
    assert series_of(entries_of(measures), "m/x/-/-").count == 1


@given(st.text(max_size=60))
def test_no_line_breaks_the_agent(text: str) -> None:
    measures = Measures()
    take_lines(measures, text, NOW)
    for key, record in entries_of(measures).items():
        assert len(key.encode()) <= 160
        assert record is not None


def test_of_too_many_series_the_one_measured_longest_ago_is_closed_and_counted() -> None:
    measures = Measures()
    for number in range(SERIES_MAX):
        measures.count(Series(f"x{number}"))
    measures.count(Series("x0"))
    measures.count(Series("one.more"))
    found = measures.entries(NOW)
    assert len(found) == SERIES_MAX
    assert "m/x0/-/-" in found
    assert "m/x1/-/-" not in found
    assert measures.dropped == {"series_closed": 1}


def test_a_series_that_was_closed_begins_anew_under_another_start() -> None:
    measures = Measures(series_max=1)
    measures.count(Series("x"), 5)
    first = series_of(entries_of(measures), "m/x/-/-")
    measures.count(Series("y"))
    measures.count(Series("x"))
    second = series_of(entries_of(measures), "m/x/-/-")
    assert second.count == 1
    assert second.start != first.start


def test_events_and_cases_are_rings() -> None:
    measures = Measures()
    for number in range(EVENTS_MAX + 3):
        measures.event(f"E{number}", NOW)
    for number in range(CASES_MAX + 3):
        measures.case(f"i{number}", NOW, intended="x")
    found = measures.entries(NOW)
    events = [key for key in found if key.startswith("n/")]
    cases = [key for key in found if key.startswith("i/")]
    assert (len(events), len(cases)) == (EVENTS_MAX, CASES_MAX)
    assert "i/i2" not in found
    assert "i/i3" in found
    assert measures.dropped == {"events_overwritten": 3, "cases_overwritten": 3}


def test_all_together_stay_within_their_bytes_whatever_is_measured() -> None:
    measures = Measures()
    for number in range(SERIES_MAX):
        for step in range(320):
            measures.observe(Series(f"x{number}"), 2 ** (step / 16))
    found = measures.entries(NOW)
    assert sum(len(key) + len(value) for key, value in found.items()) <= LIVE_BYTES_MAX
    assert measures.dropped["series_closed"] > 0
    assert f"m/x{SERIES_MAX - 1}/-/-" in found


def test_what_was_stored_goes_on_after_a_restart() -> None:
    measures = Measures()
    lines = ["count a 2", "observe b 1", "gauge c 4", "event E1", "outcome i1 open"]
    for line in lines:
        take_line(measures, line, NOW)
    stored = measures.entries(NOW)
    again = Measures()
    again.load(stored)
    assert again.entries(NOW) == {}
    assert again.kept(stored) == stored
    for line in [*lines, "event E2"]:
        take_line(again, line, NOW)
    found = entries_of(again)
    counter = series_of(found, "m/a/-/-")
    event = found["n/1"]
    assert (counter.count, counter.total) == (2, 4.0)
    assert counter.start == records.decode_as(Measure, "m/a/-/-", stored["m/a/-/-"]).start
    assert from_record(series_of(found, "m/b/-/-")).count == 2
    assert isinstance(event, Event)
    assert (event.code, event.number) == ("E2", 1)


def test_entries_that_the_disk_refused_are_written_another_time() -> None:
    measures = Measures()
    measures.count(Series("x"))
    refused = measures.entries(NOW)
    assert not measures.is_changed
    measures.unwritten(refused)
    assert measures.entries(NOW) == refused


def test_entries_that_cannot_be_read_are_left_out_and_counted() -> None:
    measures = Measures()
    measures.load({"m/x/-/-": b"rubbish", "m/X/-/-": records.encode(Measure("c", b"123456", 1, 1))})
    assert measures.dropped == {"unreadable": 2}
    assert measures.kept({"m/x/-/-": b"rubbish"}) == {}
