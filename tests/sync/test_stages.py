from itertools import pairwise

import pytest

from sync.records import Ack
from sync.stages import (
    CODES,
    DEVICE_STAGES,
    ENDS,
    FOLLOWS,
    HUB_STAGES,
    LADDER,
    SENTENCES,
    Clock,
    Reason,
    Stage,
    after,
    allows,
    clock_of,
    code_of,
    end_of,
    explain,
    furthest,
    is_end,
    is_final,
    order,
    stage_of,
)

WAY_UP = [stage for stage in LADDER if stage in DEVICE_STAGES]


def test_every_stage_has_a_place_a_code_a_clock_and_a_row_in_the_table() -> None:
    assert set(LADDER) | set(ENDS) == set(Stage) == set(CODES) == set(FOLLOWS)
    assert not set(LADDER) & set(ENDS)
    assert set(Stage) == HUB_STAGES | DEVICE_STAGES


def test_codes_are_one_ascii_letter_each_and_none_is_used_twice() -> None:
    assert len(set(CODES.values())) == len(CODES)
    assert all(len(code) == 1 and code.isascii() and code.isupper() for code in CODES.values())


# Devices in the field hold these letters. A change here is a change of their history.
def test_codes_stay_what_they_are() -> None:
    assert {stage.value: code for stage, code in CODES.items()} == {
        "requested": "R",
        "accepted": "A",
        "published": "P",
        "broker_acked": "Q",
        "delivered": "D",
        "verified": "V",
        "applied": "I",
        "healthy": "H",
        "acknowledged": "K",
        "ack_seen": "Z",
        "rolled_back": "B",
        "failed": "F",
        "deferred": "W",
        "superseded": "S",
        "expired": "E",
        "cancelled": "C",
    }


@pytest.mark.parametrize("stage", Stage)
def test_a_code_leads_back_to_its_stage(stage: Stage) -> None:
    assert stage_of(code_of(stage)) is stage


@pytest.mark.parametrize("code", ["", "x", "d", "DV", "\u00c4"])
def test_a_code_that_is_not_known_names_no_stage(code: str) -> None:
    assert stage_of(code) is None


def test_the_way_up_can_be_walked_from_one_end_to_the_other() -> None:
    for earlier, later in pairwise(LADDER):
        assert later in after(earlier)
        assert order(earlier) < order(later)


def test_nothing_leads_down_the_ladder() -> None:
    for earlier, later_ones in FOLLOWS.items():
        for later in later_ones:
            if not is_end(earlier) and not is_end(later):
                assert order(earlier) < order(later)


def test_every_stage_but_the_first_can_be_reached() -> None:
    assert {stage for later in FOLLOWS.values() for stage in later} == set(Stage) - {
        Stage.REQUESTED
    }


def test_only_a_deferred_deployment_can_leave_its_end() -> None:
    assert [end for end in ENDS if FOLLOWS[end]] == [Stage.DEFERRED]


def test_a_deployment_that_runs_can_no_longer_be_withdrawn() -> None:
    for stage in (Stage.APPLIED, Stage.HEALTHY, Stage.ACKNOWLEDGED):
        assert not after(stage) & {Stage.CANCELLED, Stage.EXPIRED, Stage.SUPERSEDED}


def test_a_healthy_deployment_can_not_fail() -> None:
    assert after(Stage.HEALTHY) == {Stage.ACKNOWLEDGED}


def test_the_hub_stamps_what_the_hub_does() -> None:
    assert [stage for stage in LADDER if clock_of(stage) is Clock.HUB] == [
        Stage.REQUESTED,
        Stage.ACCEPTED,
        Stage.PUBLISHED,
        Stage.BROKER_ACKED,
        Stage.ACK_SEEN,
    ]


def test_a_device_records_the_way_up_in_order_and_each_stage_once() -> None:
    recorded: set[Stage] = set()
    for stage in WAY_UP:
        assert allows(recorded, stage)
        recorded.add(stage)
        assert not allows(recorded, stage)


@pytest.mark.parametrize(
    ("recorded", "stage", "allowed"),
    [
        (set(), Stage.VERIFIED, False),
        (set(), Stage.FAILED, False),
        ({Stage.DELIVERED}, Stage.APPLIED, False),
        ({Stage.DELIVERED}, Stage.HEALTHY, True),
        ({Stage.DELIVERED, Stage.DEFERRED}, Stage.VERIFIED, True),
        ({Stage.DELIVERED, Stage.VERIFIED, Stage.DEFERRED}, Stage.APPLIED, True),
        ({Stage.DELIVERED, Stage.VERIFIED}, Stage.ROLLED_BACK, True),
        ({Stage.DELIVERED, Stage.FAILED}, Stage.VERIFIED, False),
        ({Stage.DELIVERED, Stage.CANCELLED}, Stage.SUPERSEDED, False),
        ({Stage.FAILED}, Stage.DELIVERED, False),
        ({Stage.DELIVERED, Stage.HEALTHY, Stage.ACKNOWLEDGED}, Stage.FAILED, False),
        ({Stage.DELIVERED, Stage.HEALTHY, Stage.ACKNOWLEDGED}, Stage.ACK_SEEN, True),
    ],
)
def test_a_stage_is_recorded_after_one_it_may_follow_and_never_after_the_end(
    recorded: set[Stage], stage: Stage, *, allowed: bool
) -> None:
    assert allows(recorded, stage) is allowed


@pytest.mark.parametrize(
    ("recorded", "rung", "end"),
    [
        (set(), None, None),
        ({Stage.DELIVERED}, Stage.DELIVERED, None),
        ({Stage.DELIVERED, Stage.DEFERRED}, Stage.DELIVERED, Stage.DEFERRED),
        ({Stage.DELIVERED, Stage.VERIFIED, Stage.DEFERRED}, Stage.VERIFIED, Stage.DEFERRED),
        ({Stage.DELIVERED, Stage.DEFERRED, Stage.APPLIED}, Stage.APPLIED, None),
        ({Stage.DELIVERED, Stage.APPLIED, Stage.ROLLED_BACK}, Stage.APPLIED, Stage.ROLLED_BACK),
        ({Stage.CANCELLED, Stage.FAILED, Stage.DELIVERED}, Stage.DELIVERED, Stage.FAILED),
        ({Stage.FAILED}, None, Stage.FAILED),
    ],
)
def test_how_far_and_how_it_ended_are_told_apart(
    recorded: set[Stage], rung: Stage | None, end: Stage | None
) -> None:
    assert furthest(recorded) is rung
    assert end_of(recorded) is end


def test_a_device_is_done_at_its_acknowledgement_and_at_every_end_but_a_wait() -> None:
    assert {stage for stage in DEVICE_STAGES if is_final(stage)} == {
        Stage.ACKNOWLEDGED,
        Stage.ROLLED_BACK,
        Stage.FAILED,
        Stage.SUPERSEDED,
        Stage.EXPIRED,
        Stage.CANCELLED,
    }


def test_every_reason_has_its_sentence_and_fits_its_record() -> None:
    assert set(SENTENCES) == set(Reason)
    for reason, sentence in SENTENCES.items():
        assert sentence.endswith(".")
        assert len(sentence.splitlines()) == 1
        assert Ack(b"abcdef", 1, 1, 0, reason.value).reason == reason


def test_a_reason_from_a_newer_device_is_shown_as_it_came() -> None:
    assert "'too_windy'" in explain("too_windy")
    assert explain("health_failed") == "The health check failed."
