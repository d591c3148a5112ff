from datetime import UTC, datetime, timedelta

import pytest

from agent.daytime import APART_MS, HEARD_MS, HubTime, believed_utc_s, zone_named
from sync.stamps import ClockSync, Stamp

NOON_MS = 1_780_000_000_000
HOUR_MS = 3_600_000


def stamp(wall_ms: int, sync: ClockSync) -> Stamp:
    return Stamp(b"boot-1", 5_000, wall_ms, sync)


@pytest.mark.parametrize("sync", [ClockSync.UNKNOWN, ClockSync.UNSYNCED])
def test_a_clock_that_nobody_has_set_is_not_believed(sync: ClockSync) -> None:
    assert believed_utc_s(stamp(NOON_MS, sync), floor_s=0, hub_ms=None) is None


@pytest.mark.parametrize("sync", list(ClockSync))
def test_the_hub_tells_the_time_if_the_device_cannot(sync: ClockSync) -> None:
    told = believed_utc_s(stamp(NOON_MS - 24 * HOUR_MS, sync), floor_s=0, hub_ms=NOON_MS)
    assert told == NOON_MS // 1000


def test_a_clock_that_is_set_is_believed_without_the_hub() -> None:
    set_clock = stamp(NOON_MS, ClockSync.SYNCED)
    assert believed_utc_s(set_clock, floor_s=0, hub_ms=None) == NOON_MS // 1000


def test_a_clock_before_a_time_that_has_passed_is_not_believed() -> None:
    set_clock = stamp(NOON_MS, ClockSync.SYNCED)
    assert believed_utc_s(set_clock, floor_s=(NOON_MS + HOUR_MS) // 1000, hub_ms=None) is None


def test_a_clock_near_the_hubs_is_finer_than_what_the_hub_said() -> None:
    set_clock = stamp(NOON_MS, ClockSync.SYNCED)
    assert believed_utc_s(set_clock, floor_s=0, hub_ms=NOON_MS - 5_000) == NOON_MS // 1000
    apart_ms = NOON_MS - APART_MS - 1
    assert believed_utc_s(set_clock, floor_s=0, hub_ms=apart_ms) == apart_ms // 1000


def test_a_zone_that_is_none_says_what_to_do() -> None:
    assert zone_named("Europe/Berlin").utcoffset(datetime(2026, 6, 1)) == timedelta(hours=2)  # noqa: DTZ001 - local
    for name in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises(ValueError, match="install tzdata"):
            zone_named(name)


def test_utc_needs_no_data_of_the_system() -> None:
    assert zone_named("UTC") is UTC


def now(boottime_ms: int) -> Stamp:
    return Stamp(b"boot-1", boottime_ms, 0)


def test_a_hub_that_was_not_heard_tells_no_time() -> None:
    assert HubTime().now_ms(now(5_000)) is None


def test_a_message_that_was_long_on_its_way_does_not_turn_the_hubs_time_back() -> None:
    heard = HubTime()
    heard.hear(NOON_MS - 6 * HOUR_MS, 1_000)  # it waited in the broker
    heard.hear(NOON_MS, 2_000)
    heard.hear(NOON_MS - HOUR_MS, 3_000)
    assert heard.now_ms(now(12_000)) == NOON_MS + 10_000


def test_a_hub_whose_clock_was_set_back_is_believed_after_an_hour() -> None:
    heard = HubTime()
    heard.hear(NOON_MS + 24 * HOUR_MS, 0)
    heard.hear(NOON_MS, HEARD_MS + 1)
    assert heard.now_ms(now(HEARD_MS + 1)) == NOON_MS
