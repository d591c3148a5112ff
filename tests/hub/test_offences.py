import logging

import pytest

from hub.offences import LOG_EVERY_S, ROWS_MAX, UNREGISTERED, Offence, Offences


def test_offences_are_counted_by_device_and_code_with_the_last_detail() -> None:
    offences = Offences()
    for number in range(3):
        offences.add("d1", Offence.BAD_FRAME, f"number {number}", 0.0)
    offences.add("d2", Offence.FLOOD, "loud", 0.0)
    assert offences.names() == {"d1", "d2"}
    rows = offences.take({"d1"}, 77, rows_count=0)
    assert sorted(rows) == [("d1", "bad_frame", 3, 77, "number 2"), ("d2", "flood", 1, 77, "loud")]
    assert not offences
    assert offences.take(set(), 78, rows_count=0) == []
    assert offences.total_count == 4


def test_a_device_is_logged_once_a_minute_whatever_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    offences = Offences()
    with caplog.at_level(logging.WARNING):
        for second in range(100):
            offences.add("d1", Offence.BAD_FRAME, "again", float(second))
        offences.add("d2", Offence.BAD_FRAME, "once", 1.0)
    assert len([r for r in caplog.records if "device d1" in r.message]) == 2
    assert len([r for r in caplog.records if "device d2" in r.message]) == 1
    assert LOG_EVERY_S == 60


def test_names_that_nobody_registered_cannot_fill_the_table() -> None:
    offences = Offences()
    for number in range(50):
        offences.add(f"made-up-{number}", Offence.BAD_FRAME, "x", 0.0)
    offences.add("known", Offence.BAD_FRAME, "x", 0.0)
    rows = offences.take({"known"}, 1, rows_count=ROWS_MAX - 10)
    named = [row for row in rows if row[0].startswith("made-up")]
    assert len(named) == 10
    assert {row[0]: row[2] for row in rows}[UNREGISTERED] == 40
    assert ("known", "bad_frame", 1, 1, "x") in rows


def test_a_detail_is_cut() -> None:
    offences = Offences()
    offences.add("d1", Offence.BAD_FRAME, "x" * 10_000, 0.0)
    ((_, _, _, _, detail),) = offences.take({"d1"}, 1, rows_count=0)
    assert len(detail) == 200
