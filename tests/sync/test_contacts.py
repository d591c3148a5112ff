import pytest

from sync.contacts import (
    ANCHORS_MAX,
    BOOTS_MAX,
    PINS_MAX,
    TOLERANCE_MS,
    BadContacts,
    Contacts,
    decode_contacts,
    encode_contacts,
    interval_of,
)
from sync.stamps import ClockSync, Interval, Stamp

OLD = b"boot-1"
NEW = b"boot-2"
HUB_MS = 1_800_000_000_000
"""Hub UTC at a moment when the clock of a test's first boot shows zero."""

MINUTE_MS = 60_000
DAY_MS = 24 * 3600 * 1000


def at(boottime_ms: int, boot: bytes = OLD, wall_ms: int = 0) -> Stamp:
    return Stamp(boot, boottime_ms, wall_ms)


def exchange(
    contacts: Contacts,
    boottime_ms: int,
    *,
    boot: bytes = OLD,
    zero_ms: int = HUB_MS,
    down_ms: int = 50,
    up_ms: int = 50,
) -> Contacts:
    """A frame from the hub reaches the device at `boottime_ms` and is answered at once."""
    return contacts.heard(
        boot=boot,
        sent_ms=boottime_ms,
        received_ms=zero_ms + boottime_ms + up_ms,
        anchor=(zero_ms + boottime_ms - down_ms, boottime_ms),
    )


def test_a_moment_between_two_contacts_is_known_to_their_latency_and_drift() -> None:
    contacts = exchange(exchange(Contacts(), 10_000), 20_000)
    held = interval_of(at(15_000), contacts, seen_at_ms=HUB_MS + 20_050)
    # 5 s at 200 millionths is 1 ms; cut milliseconds add one below and, with the hub's, two above,
    # where what is left of the drift is rounded up.
    assert held == Interval(HUB_MS + 15_000 - 50 - 2, HUB_MS + 15_000 + 50 + 4)


def test_a_moment_far_from_any_contact_is_as_vague_as_the_drift_makes_it() -> None:
    contacts = exchange(exchange(Contacts(), 0), DAY_MS)
    width_ms = interval_of(at(DAY_MS // 2), contacts, seen_at_ms=None).width_ms
    assert width_ms is not None
    # Twice half a day at 200 millionths, and the latency of 100 ms.
    assert 17_280 <= width_ms - 100 <= 17_290


def test_a_slow_way_down_does_not_pull_the_interval_off_the_truth() -> None:
    contacts = exchange(Contacts(), 10_000, down_ms=4_000, up_ms=100)
    held = interval_of(at(10_000), contacts, seen_at_ms=None)
    assert held.contains(HUB_MS + 10_000)
    assert held.width_ms == pytest.approx(4_100, abs=5)


def test_what_was_seen_has_happened() -> None:
    contacts = exchange(Contacts(), 10_000, up_ms=5_000)
    held = interval_of(at(10_000), contacts, seen_at_ms=HUB_MS + 10_020)
    assert held.hi_ms == HUB_MS + 10_020


def test_without_any_contact_only_the_moment_it_was_seen_is_known() -> None:
    assert interval_of(at(5), Contacts(), seen_at_ms=HUB_MS) == Interval(None, HUB_MS)
    assert interval_of(at(5), Contacts(), seen_at_ms=None) == Interval(None, None)


def test_an_uplink_alone_says_nothing_about_how_long_ago_it_was() -> None:
    contacts = Contacts().heard(boot=OLD, sent_ms=1_000, received_ms=HUB_MS)
    assert interval_of(at(500), contacts, seen_at_ms=None).lo_ms is None


@pytest.mark.parametrize("wall_ms", [0, -(2**53), HUB_MS - 10 * DAY_MS, HUB_MS + 9**14])
@pytest.mark.parametrize("sync", ClockSync)
def test_a_wall_clock_ten_days_in_the_past_changes_nothing(wall_ms: int, sync: ClockSync) -> None:
    contacts = exchange(exchange(Contacts(), 10_000), 20_000)
    right = Stamp(OLD, 15_000, HUB_MS + 15_000, ClockSync.SYNCED)
    wrong = Stamp(OLD, 15_000, wall_ms, sync)
    assert interval_of(wrong, contacts, seen_at_ms=HUB_MS + DAY_MS) == interval_of(
        right, contacts, seen_at_ms=HUB_MS + DAY_MS
    )


def test_across_a_reboot_a_moment_lies_between_the_contacts_around_it() -> None:
    later_ms = HUB_MS + DAY_MS
    contacts = exchange(Contacts(), 10_000)
    # The new boot's only anchors are 2 hours after its start, so order binds tighter than drift
    # would if the old boot had been heard of just before.
    contacts = exchange(contacts, 7_200_000, boot=NEW, zero_ms=later_ms)
    before = interval_of(at(3_600_000, OLD), contacts, seen_at_ms=None)
    after = interval_of(at(1_000, NEW), contacts, seen_at_ms=None)
    assert before.certainly_before(after)
    assert before.contains(HUB_MS + 3_600_000)
    assert after.contains(later_ms + 1_000)


def test_a_moment_before_a_reboot_is_before_the_first_contact_after_it() -> None:
    # Ten days without a network: by drift alone the moment is known to within 3 minutes.
    stamp = at(10 * DAY_MS)
    restart_ms = HUB_MS + 10 * DAY_MS + 30_000
    alone = exchange(Contacts(), 10_000)
    contacts = exchange(alone, 5_000, boot=NEW, zero_ms=restart_ms)
    loose = interval_of(stamp, alone, seen_at_ms=None).hi_ms
    held = interval_of(stamp, contacts, seen_at_ms=None).hi_ms
    assert loose is not None
    assert held is not None
    assert loose > restart_ms + 120_000
    assert HUB_MS + 10 * DAY_MS <= held <= restart_ms + 60


def test_a_boot_begins_after_all_that_is_known_of_the_one_before() -> None:
    contacts = exchange(Contacts(), 10_000)
    # The way down took a day: by itself, the new boot's anchor says little.
    contacts = contacts.heard(
        boot=NEW,
        sent_ms=DAY_MS + 2_000,
        received_ms=HUB_MS + DAY_MS + 60_000,
        anchor=(HUB_MS + 20_000, DAY_MS + 1_000),
    )
    held = interval_of(at(5_000, NEW), contacts, seen_at_ms=None)
    assert held.lo_ms is not None
    assert held.lo_ms >= HUB_MS + 10_000 - 60 + 5_000 - 2


def test_the_order_in_which_frames_arrive_proves_nothing_about_boots() -> None:
    # A broker kept back what the first boot sent, until long after the second was heard of.
    contacts = exchange(Contacts(), 5_000, boot=NEW, zero_ms=HUB_MS + 60_000)
    contacts = contacts.heard(boot=OLD, sent_ms=1_000, received_ms=HUB_MS + DAY_MS)
    held = interval_of(at(1_000), contacts, seen_at_ms=HUB_MS + DAY_MS)
    assert held == Interval(None, HUB_MS + DAY_MS)


def test_contacts_that_contradict_each_other_count_for_nothing() -> None:
    # The same boot and boottime a day apart: a machine that was put back to a snapshot.
    contacts = exchange(exchange(Contacts(), 10_000), 10_500, zero_ms=HUB_MS + DAY_MS)
    held = interval_of(at(10_200), contacts, seen_at_ms=HUB_MS + 2 * DAY_MS)
    assert held == Interval(None, HUB_MS + 2 * DAY_MS)


@pytest.mark.parametrize(
    "anchor",
    [(HUB_MS + 10**9, 500), (HUB_MS, 1_001)],
    ids=["sent by the hub after it was echoed", "arrived after it was echoed"],
)
def test_an_echo_from_the_future_is_left_out(anchor: tuple[int, int]) -> None:
    contacts = Contacts().heard(boot=OLD, sent_ms=1_000, received_ms=HUB_MS, anchor=anchor)
    assert contacts == Contacts().heard(boot=OLD, sent_ms=1_000, received_ms=HUB_MS)


def test_a_sender_without_a_boot_id_changes_nothing() -> None:
    contacts = Contacts()
    assert contacts.heard(boot=b"hub-run7", sent_ms=1, received_ms=2) is contacts


def test_a_frame_that_teaches_nothing_leaves_the_same_object() -> None:
    contacts = exchange(Contacts(), 10_000)
    assert exchange(contacts, 10_000) is contacts
    assert exchange(contacts, 10_000 + 5 * TOLERANCE_MS) is contacts
    assert exchange(contacts, 10_000, up_ms=40 - TOLERANCE_MS) is not contacts


def test_a_busy_device_causes_few_writes() -> None:
    contacts, writes = Contacts(), 0
    for second in range(3_600):
        heard = exchange(contacts, second * 1_000)
        writes += heard is not contacts
        contacts = heard
    assert writes <= 3_600 / 28 + 1


def test_a_device_that_is_up_for_a_month_keeps_bounded_contacts() -> None:
    contacts = Contacts()
    for minute in range(0, 30 * 24 * 60, 5):
        contacts = exchange(contacts, minute * MINUTE_MS)
    (boot,) = contacts.boots
    assert len(boot.up) == len(boot.down) == ANCHORS_MAX
    assert len(encode_contacts(contacts)) < 1_024
    # Evenly spread, 24 anchors leave gaps of 31 h, and 22 s of drift in the middle of each.
    widths_ms = [
        interval_of(at(hour * 3_600_000), contacts, seen_at_ms=None).width_ms or 0
        for hour in range(30 * 24)
    ]
    assert max(widths_ms) < 90_000
    assert sum(widths_ms) / len(widths_ms) < 30_000


def test_a_pinned_stamp_stays_as_exact_as_it_was_however_long_the_device_stays_up() -> None:
    contacts = Contacts()
    for second in range(0, 600, 30):
        contacts = exchange(contacts, second * 1_000)
    stamp = at(601_000)
    contacts = exchange(contacts.pinned(stamp), 602_000)
    fresh = interval_of(stamp, contacts, seen_at_ms=None).width_ms
    for minute in range(11, 30 * 24 * 60, 5):
        contacts = exchange(contacts, minute * MINUTE_MS)
    assert interval_of(stamp, contacts, seen_at_ms=None).width_ms == fresh
    assert fresh is not None
    assert fresh < 100 + 20 + TOLERANCE_MS


def test_only_the_latest_pins_of_a_boot_count() -> None:
    contacts = exchange(Contacts(), 1_000)
    assert contacts.pinned(at(1, NEW)) is contacts
    for boottime_ms in range(PINS_MAX + 3):
        contacts = contacts.pinned(at(boottime_ms))
    assert contacts.pinned(at(PINS_MAX)) is contacts
    assert contacts.boots[0].pins == tuple(range(3, PINS_MAX + 3))


def test_a_boot_loop_does_not_push_out_the_boot_in_which_something_was_installed() -> None:
    contacts = exchange(Contacts(), 5_000).pinned(at(4_000))
    for loop in range(1, 50):
        contacts = exchange(
            contacts, 1_000, boot=b"loop%02d" % loop, zero_ms=HUB_MS + loop * MINUTE_MS
        )
    assert len(contacts.boots) == BOOTS_MAX
    assert contacts.find(OLD) is not None
    assert contacts.find(b"loop49") is not None
    assert contacts.find(b"loop01") is None


def test_contacts_survive_their_store() -> None:
    contacts = exchange(exchange(Contacts(), 10_000), 5_000, boot=NEW, zero_ms=HUB_MS + DAY_MS)
    contacts = contacts.pinned(at(10_001))
    assert decode_contacts(encode_contacts(contacts)) == contacts
    assert decode_contacts(encode_contacts(Contacts())) == Contacts()


@pytest.mark.parametrize("stored", [b"", b"\xc1", b"\x91\x91\x92\xc4\x01a\x90", b"\x80", b"\x90x"])
def test_contacts_that_cannot_be_read_are_named_as_such(stored: bytes) -> None:
    with pytest.raises(BadContacts, match="stored contacts"):
        decode_contacts(stored)
