"""The same promises of the machine's clocks and of the fake one."""

import time

import pytest

from agent import clock
from agent.clock import Clock, SystemClock
from sync.stamps import BOOT_BYTES, ClockSync
from tests.fakes.clock import FakeClock


@pytest.fixture(params=[SystemClock, FakeClock])
def each(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


def test_no_clock_but_the_wall_s_goes_back(each: Clock) -> None:
    before, later = each.stamp(), each.stamp()
    assert later.boottime_ms >= before.boottime_ms > 0
    assert each.mono_s() <= each.mono_s()


def test_a_boot_has_one_name(each: Clock) -> None:
    assert each.stamp().boot == each.stamp().boot
    assert len(each.stamp().boot) == BOOT_BYTES


def test_a_stamp_carries_the_wall_clock_in_utc_milliseconds(each: Clock) -> None:
    before, stamp, after = each.wall_ms(), each.stamp(), each.wall_ms()
    assert before <= stamp.wall_ms <= after
    assert stamp.wall_ms > 1_500_000_000_000


def test_the_machine_s_boottime_is_the_kernel_s() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    stamp = SystemClock().stamp()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    assert before <= stamp.boottime_ms <= after


def test_the_offset_for_rigs_moves_the_wall_clock_and_nothing_else() -> None:
    past = SystemClock(wall_offset_s=-864_000.0)
    true = SystemClock()
    assert -864_001_000 < past.wall_ms() - true.wall_ms() < -863_999_000
    assert abs(past.stamp().boottime_ms - true.stamp().boottime_ms) < 10_000
    assert abs(past.mono_s() - true.mono_s()) < 10


@pytest.mark.parametrize(
    ("folder", "file", "sync"),
    [
        (True, True, ClockSync.SYNCED),
        (True, False, ClockSync.UNSYNCED),
        (False, False, ClockSync.UNKNOWN),
    ],
)
def test_what_is_known_of_the_wall_clock_comes_from_the_service_that_sets_it(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    *,
    folder: bool,
    file: bool,
    sync: ClockSync,
) -> None:
    timesync = tmp_path_factory.mktemp("run") / "timesync"
    if folder:
        timesync.mkdir()
    if file:
        (timesync / "synchronized").touch()
    monkeypatch.setattr(clock, "SYNCHRONIZED", timesync / "synchronized")

    assert SystemClock().stamp().sync is sync
