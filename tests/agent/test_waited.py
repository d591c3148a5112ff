from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.waited import Waited, decode
from sync.stamps import Stamp


def at(boottime_s: int, boot: int = 1, wall_ms: int = 0) -> Stamp:
    return Stamp(b"boot-%d" % boot, boottime_s * 1000, wall_ms)


def test_a_wait_counts_from_its_beginning() -> None:
    waited = Waited().begun(at(100), None)
    assert waited.counted_ms(at(160), None) == 60_000
    assert waited.since == (b"boot-1", 100_000, 0)


def test_the_time_between_two_waits_does_not_count() -> None:
    waited = Waited().begun(at(100), None).ended(at(130), None)
    assert not waited.is_waiting
    assert waited.counted_ms(at(500), None) == 30_000
    assert waited.begun(at(600), None).counted_ms(at(610), None) == 40_000


def test_a_wait_that_is_under_way_does_not_begin_again() -> None:
    waited = Waited().begun(at(100), None).begun(at(120), None)
    assert waited.counted_ms(at(160), None) == 60_000
    assert waited.since[1] == 100_000


def test_a_reboot_keeps_what_was_noted() -> None:
    waited = Waited().begun(at(100), None).noted(at(150), None)
    assert waited.counted_ms(at(5, boot=2), None) == 50_000
    again = waited.begun(at(5, boot=2), None)
    assert again.counted_ms(at(15, boot=2), None) == 60_000
    assert again.since[0] == b"boot-1"


def test_the_hubs_time_proves_how_long_the_device_was_off() -> None:
    waited = Waited().begun(at(100), 1_000_000)
    assert waited.counted_ms(at(5, boot=2), 1_000_300) == 300_000
    again = waited.begun(at(5, boot=2), None)  # the hub is heard only later in this boot
    assert again.counted_ms(at(20, boot=2), 1_000_320) == 320_000


def test_within_one_boot_the_hubs_clock_has_no_say() -> None:
    waited = Waited().begun(at(100), 1_000_000)
    assert waited.counted_ms(at(160), 9_000_000) == 60_000


def test_what_is_stored_is_what_is_read() -> None:
    waited = Waited().begun(at(100), 7)
    assert decode(msgspec.msgpack.encode(waited)) == waited
    assert decode(b"\xff") is None


moves = st.lists(
    st.tuples(
        st.sampled_from(["pass", "note", "reboot", "begin", "end"]),
        st.integers(0, 10_000),
        st.integers(-(2**40), 2**40),
    ),
    max_size=20,
)


@given(moves)
def test_no_clock_step_and_no_restart_takes_time_back_or_adds_any(
    steps: list[tuple[str, int, int]],
) -> None:
    waited, now, boots = Waited(), at(0), 1
    truth_ms = noted_ms = 0
    for name, passed_s, wall_ms in steps:
        later = replace(now, boottime_ms=now.boottime_ms + passed_s * 1000, wall_ms=wall_ms)
        truth_ms += passed_s * 1000 if waited.is_waiting else 0
        now = later
        match name:
            case "note":
                waited = waited.noted(now, None)
            case "begin":
                waited = waited.begun(now, None)
            case "end":
                waited = waited.ended(now, None)
            case "reboot":
                boots += 1
                now = at(0, boot=boots, wall_ms=wall_ms)
        counted_ms = waited.counted_ms(now, None)
        assert noted_ms <= counted_ms <= truth_ms
        if name != "pass":
            noted_ms = counted_ms if name != "reboot" else noted_ms
        if boots == 1:
            assert counted_ms == truth_ms
