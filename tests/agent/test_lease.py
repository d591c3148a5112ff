"""The silence of the hub: nothing that happens to a device makes it seem shorter."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.lease import UNKNOWN_MS, WITHIN_MS, Silence, encode, restored, silence
from sync.stamps import ClockSync, Stamp

HOUR_MS = 3_600_000
START = Stamp(b"boot-1", 1000, 1_700_000_000_000, ClockSync.SYNCED)


def later(now: Stamp, passed_ms: int) -> Stamp:
    """Return the same boot, so much later."""
    return replace(now, boottime_ms=now.boottime_ms + passed_ms, wall_ms=now.wall_ms + passed_ms)


def booted(now: Stamp, off_ms: int = 0, *, sync: ClockSync = ClockSync.UNSYNCED) -> Stamp:
    """Return the beginning of another boot, without power for `off_ms` before."""
    return Stamp(now.boot[:5] + bytes([now.boot[5] + 1]), 5000, now.wall_ms + off_ms, sync)


def test_within_a_boot_the_uptime_clock_alone_counts() -> None:
    heard = silence(0, START)
    for wall_ms in (0, 2**50, -(2**50)):
        assert heard.at(replace(later(START, HOUR_MS), wall_ms=wall_ms)) == HOUR_MS


def test_a_restart_of_the_agent_loses_nothing() -> None:
    kept = encode(silence(HOUR_MS, START))
    assert restored(kept, later(START, 60_000)).silent_ms == HOUR_MS + 60_000


def test_a_reboot_counts_all_that_may_not_have_been_written_down() -> None:
    kept = encode(silence(HOUR_MS, START))
    assert restored(kept, booted(START)).silent_ms == HOUR_MS + WITHIN_MS + 5000


def test_time_without_power_counts_if_the_clock_was_set_before_and_after() -> None:
    kept = encode(silence(HOUR_MS, START))
    day_ms = 24 * HOUR_MS
    set_again = booted(START, day_ms, sync=ClockSync.SYNCED)
    assert restored(kept, set_again).silent_ms == HOUR_MS + day_ms
    assert restored(kept, booted(START, day_ms)).silent_ms == HOUR_MS + WITHIN_MS + 5000


def test_a_clock_that_was_set_back_shortens_nothing() -> None:
    kept = encode(silence(HOUR_MS, START))
    set_back = booted(START, -(10**12), sync=ClockSync.SYNCED)
    assert restored(kept, set_back).silent_ms == HOUR_MS + WITHIN_MS + 5000


def test_what_cannot_be_read_is_longer_than_any_lease() -> None:
    assert restored(b"\xc1", START).silent_ms == UNKNOWN_MS
    assert restored(b"", START).silent_ms == UNKNOWN_MS


def test_where_nothing_was_written_it_counts_from_now_on() -> None:
    assert restored(None, START).silent_ms == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run", "restart", "power cut", "jump"]),
            st.integers(0, 30 * HOUR_MS),
        ),
        max_size=30,
    )
)
def test_whatever_happens_it_is_never_less_than_what_the_device_was_up(
    happenings: list[tuple[str, int]],
) -> None:
    """A device writes its silence down as `Flags` does, and is cut off at any moment."""
    now, up_ms, unwritten_ms = START, 0, 0
    known: Silence = silence(0, now)
    disk = encode(known)
    for what, amount in happenings:
        if what == "jump":
            now = replace(now, wall_ms=now.wall_ms - amount)
            continue
        left_ms = amount
        while left_ms:
            if unwritten_ms == WITHIN_MS - 1:
                known, unwritten_ms = silence(known.at(now), now), 0
                disk = encode(known)
            step_ms = min(left_ms, WITHIN_MS - 1 - unwritten_ms)
            now, left_ms, up_ms = later(now, step_ms), left_ms - step_ms, up_ms + step_ms
            unwritten_ms += step_ms
        if what == "restart":
            known = restored(disk, now)
            disk = encode(known)
        elif what == "power cut":
            now = booted(replace(now, boot=b"boot-1"), sync=ClockSync.UNKNOWN)
            now = replace(now, boot=bytes([(known.boot[0] + 1) % 256]) + b"oot-1")
            known = restored(disk, now)
            disk = encode(known)
        if what != "run":
            unwritten_ms = 0
        assert known.at(now) >= up_ms
