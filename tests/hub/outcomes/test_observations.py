from itertools import pairwise

from hub.outcomes.observations import (
    DeviceStage,
    Receipt,
    delivered,
    moments,
    reached,
    stamp_of,
    withdrawal,
)
from sync.contacts import Contacts
from sync.records import Ack
from sync.stages import Stage
from sync.stamps import ClockSync, Interval, Stamp, point
from tests.hub.outcomes.courses import (
    BOOT,
    at,
    contacts_at,
    course,
    covering,
    finished,
    lacking,
    said,
)


def test_a_stamp_is_what_the_acknowledgement_carries() -> None:
    assert stamp_of(Ack(BOOT, 7, -5, 2, "busy")) == Stamp(BOOT, 7, -5, ClockSync.SYNCED)


def test_what_the_hub_did_is_known_exactly_and_what_the_device_did_within_bounds() -> None:
    held = moments(finished())
    assert held[Stage.ACCEPTED] == point(at(1))
    for step, stage in enumerate((Stage.DELIVERED, Stage.VERIFIED, Stage.APPLIED)):
        assert held[stage].contains(at(4 + 2 * step))
        width_ms = held[stage].width_ms
        assert width_ms is not None
        assert width_ms <= 210


def test_without_contacts_a_stage_lies_between_the_acceptance_and_its_acknowledgement() -> None:
    held = moments(course(stages={Stage.DELIVERED: said(4)}, contacts=Contacts()))
    assert held[Stage.DELIVERED] == Interval(at(1), at(4.1))


def test_each_stage_bounds_its_neighbours() -> None:
    # The hub saw all of it a day later, but the first stage in a contact and the last too.
    late = {
        stage: said(after_s)
        for stage, after_s in [
            (Stage.DELIVERED, 4.0),
            (Stage.VERIFIED, 30_000.0),
            (Stage.APPLIED, 30_001.0),
            (Stage.ROLLED_BACK, 50_000.0),
        ]
    }
    held = moments(course(stages=late, contacts=contacts_at(4, 50_000)))
    in_order = [held[stage] for stage in late]
    for earlier, later in pairwise(in_order):
        assert earlier.lo_ms is not None
        assert later.lo_ms is not None
        assert earlier.lo_ms <= later.lo_ms
        assert earlier.hi_ms is not None
        assert later.hi_ms is not None
        assert earlier.hi_ms <= later.hi_ms


def test_a_stage_of_a_boot_without_contacts_was_before_the_one_that_followed() -> None:
    before_reboot = DeviceStage(Stamp(b"boot-0", 77, 0), seen_at_ms=at(40_000))
    held = moments(course(stages={Stage.VERIFIED: before_reboot, Stage.APPLIED: said(10)}))
    assert held[Stage.VERIFIED].lo_ms == at(1)
    assert held[Stage.VERIFIED].hi_ms == held[Stage.APPLIED].hi_ms


def test_a_contradiction_leaves_the_earlier_evidence_as_it_is() -> None:
    # The device claims to have verified long before it was delivered.
    held = moments(course(stages={Stage.DELIVERED: said(15), Stage.VERIFIED: said(5)}))
    assert held[Stage.DELIVERED].contains(at(15))
    assert held[Stage.VERIFIED].contains(at(5))


def test_delivery_is_proven_by_any_later_stage_and_by_a_state_vector() -> None:
    assert delivered(course()) is None
    assert delivered(course(receipts=(lacking(9, 8),))) is None
    assert delivered(course(receipts=(lacking(3), covering(9), covering(7)))) == Interval(
        at(1), at(7)
    )
    by_stage = delivered(course(stages={Stage.FAILED: said(8)}))
    assert by_stage is not None
    assert by_stage.lo_ms == at(1)
    assert by_stage.hi_ms is not None
    assert at(8) <= by_stage.hi_ms <= at(8.1)


def test_a_state_vector_that_came_sooner_than_the_acknowledgement_bounds_the_delivery() -> None:
    late_word = course(
        stages={Stage.DELIVERED: said(4)}, receipts=(covering(4.05),), contacts=Contacts()
    )
    assert moments(late_word)[Stage.DELIVERED].hi_ms == at(4.05)
    assert delivered(late_word) == Interval(at(1), at(4.05))


def test_a_broker_proves_nothing() -> None:
    hub_stages = {Stage.ACCEPTED: at(1), Stage.PUBLISHED: at(2), Stage.BROKER_ACKED: at(3)}
    assert reached(course(hub_stages=hub_stages)) is Stage.PUBLISHED
    assert delivered(course(hub_stages=hub_stages)) is None
    assert reached(course(receipts=(Receipt(at(3), covers=True),))) is Stage.DELIVERED


def test_the_hub_withdraws_what_was_not_applied_yet() -> None:
    ended = course(superseded_at_ms=at(9), cancelled_at_ms=at(8))
    assert withdrawal(ended, at(7)) is None
    assert withdrawal(ended, at(10)) == (Stage.CANCELLED, at(8))
    running = finished(superseded_at_ms=at(9))
    assert withdrawal(running, at(60)) is None


def test_time_runs_out_only_for_a_device_that_never_took_it() -> None:
    assert withdrawal(course(expires_ms=at(30)), at(31)) == (Stage.EXPIRED, at(30))
    assert withdrawal(course(expires_ms=at(30)), at(29)) is None
    taken = course(stages={Stage.DELIVERED: said(4)}, expires_ms=at(30))
    assert withdrawal(taken, at(31)) is None


def test_the_wall_clock_of_the_device_moves_no_stage() -> None:
    ten_days_ms = 10 * 24 * 3600 * 1000
    right = course(stages={Stage.DELIVERED: said(4, wall_ms=at(4))})
    wrong = course(stages={Stage.DELIVERED: said(4, wall_ms=at(4) - ten_days_ms)})
    assert moments(right) == moments(wrong)
