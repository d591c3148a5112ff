from hub.outcomes.funnel import Exit, funnel
from sync.stages import LADDER, Stage
from tests.hub.outcomes.courses import at, course, covering, finished, rolled_back, said, waiting


def test_the_funnel_counts_devices_that_came_at_least_so_far() -> None:
    found = funnel(
        [
            finished("a"),
            rolled_back("b"),
            course("c", receipts=(covering(9),)),
            course("d"),
            course("e", hub_stages={Stage.REQUESTED: at(0)}),
        ]
    )
    assert found.targeted_count == 5
    assert {stage.value: count for stage, count in found.reached_count.items()} == {
        "requested": 5,
        "accepted": 4,
        "published": 4,
        "broker_acked": 0,
        "delivered": 3,
        "verified": 2,
        "applied": 2,
        "healthy": 1,
        "acknowledged": 1,
        "ack_seen": 0,
    }


def test_a_later_stage_proves_the_earlier_ones_but_not_the_broker() -> None:
    found = funnel([course(hub_stages={}, stages={Stage.HEALTHY: said(9)})])
    counts = found.reached_count
    assert [stage for stage in LADDER if counts[stage]] == [
        Stage.REQUESTED,
        Stage.ACCEPTED,
        Stage.PUBLISHED,
        Stage.DELIVERED,
        Stage.VERIFIED,
        Stage.APPLIED,
        Stage.HEALTHY,
    ]


def test_a_broker_counts_where_it_said_so_and_moves_nothing_else() -> None:
    acked = course(hub_stages={Stage.ACCEPTED: at(1), Stage.BROKER_ACKED: at(3)})
    found = funnel([acked])
    assert found.reached_count[Stage.BROKER_ACKED] == 1
    assert found.reached_count[Stage.PUBLISHED] == 0
    assert found.reached_count[Stage.DELIVERED] == 0


def test_ends_are_grouped_by_reason_largest_first() -> None:
    found = funnel(
        [
            rolled_back("b"),
            rolled_back("a"),
            rolled_back("c", reason="interrupted"),
            course("d", {Stage.DELIVERED: said(3), Stage.FAILED: said(4, "no_space")}),
        ]
    )
    assert found.exits == (
        Exit(Stage.ROLLED_BACK, "health_failed", ("a", "b")),
        Exit(Stage.ROLLED_BACK, "interrupted", ("c",)),
        Exit(Stage.FAILED, "no_space", ("d",)),
    )


def test_devices_outside_the_frozen_list_are_not_counted() -> None:
    found = funnel([finished("a"), finished("b", targeted=False)])
    assert found.targeted_count == 1
    assert found.reached_count[Stage.ACKNOWLEDGED] == 1


def test_a_funnel_of_nobody_has_every_stage() -> None:
    found = funnel([])
    assert found.targeted_count == 0
    assert set(found.reached_count) == set(LADDER)
    assert found.exits == ()


def test_a_wait_is_an_exit_while_it_lasts_and_for_the_reason_that_it_has_now() -> None:
    stages = {Stage.DELIVERED: said(3), Stage.DEFERRED: said(4, "outside_window")}
    found = funnel([course("a", stages, waiting=waiting()), course("b", stages)])
    assert found.exits == (Exit(Stage.DEFERRED, "inhibited", ("a",)),)
