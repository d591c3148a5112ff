from dataclasses import dataclass

from hub.outcomes.provisioning import STEPS, Step, StepCount, provisioning

NOW_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How one device came along."""

    device_class: str = "pump"
    contact_ms: int = 0
    claim_ms: int | None = None
    certificate_ms: int | None = None
    sync_ms: int | None = None
    healthy_ms: int | None = None
    ended_ms: int | None = None
    reason: str = ""


def steps_of(*ways: Way) -> dict[Step, StepCount]:
    (found,) = provisioning(ways, now_ms=NOW_MS).classes
    return {each.step: each for each in found.steps}


ALL_THE_WAY = Way(claim_ms=10, certificate_ms=20, sync_ms=50, healthy_ms=100)


def test_each_step_is_entered_by_those_who_took_the_one_before() -> None:
    waits = Way()
    certified = Way(claim_ms=10, certificate_ms=30)
    found = steps_of(ALL_THE_WAY, waits, certified)
    assert [(found[step].entered_count, found[step].passed_count) for step in STEPS] == [
        (3, 3),
        (3, 2),
        (2, 2),
        (2, 1),
        (1, 1),
    ]
    assert found[Step.CLAIM].on_the_way_count == 1
    assert found[Step.SYNC].on_the_way_count == 1


def test_who_was_refused_left_with_a_reason_and_who_is_quiet_is_on_the_way() -> None:
    found = steps_of(
        Way(ended_ms=5, reason="token_expired"),
        Way(ended_ms=6, reason="token_expired"),
        Way(ended_ms=7, reason="refused"),
        Way(),
    )
    claim = found[Step.CLAIM]
    assert dict(claim.left) == {"token_expired": 2, "refused": 1}
    assert claim.on_the_way_count == 1
    assert (claim.passed_lo_ratio, claim.passed_hi_ratio) == (0.0, 0.25)


def test_the_share_is_a_point_once_nobody_is_on_the_way() -> None:
    found = steps_of(ALL_THE_WAY, Way(ended_ms=5, reason="refused"))
    claim = found[Step.CLAIM]
    assert claim.passed_lo_ratio == claim.passed_hi_ratio == 0.5
    assert steps_of(Way())[Step.HEALTHY].passed_lo_ratio is None


def test_leaving_later_says_nothing_about_the_steps_that_were_taken() -> None:
    revoked = Way(claim_ms=10, certificate_ms=20, sync_ms=50, ended_ms=60, reason="revoked")
    found = steps_of(revoked)
    assert [dict(found[step].left) for step in STEPS] == [{}, {}, {}, {}, {"revoked": 1}]


def test_a_later_step_proves_those_before_it() -> None:
    found = steps_of(Way(healthy_ms=100))
    assert [found[step].passed_count for step in STEPS] == [1, 1, 1, 1, 1]


def test_those_on_the_way_lengthen_the_median_instead_of_being_left_out() -> None:
    quick = [Way(claim_ms=10, certificate_ms=20, sync_ms=30)] * 2
    slow = [Way(claim_ms=10, certificate_ms=20)] * 3
    sync = steps_of(*quick, *slow)[Step.SYNC]
    assert (sync.took.count, sync.took.ended_count, sync.took.p50.lo_ms) == (5, 2, None)
    assert steps_of(*quick)[Step.SYNC].took.p50.lo_ms == 10


def test_classes_are_apart_and_the_largest_comes_first_with_its_worst_step() -> None:
    found = provisioning(
        [Way(device_class="valve", ended_ms=1, reason="refused"), ALL_THE_WAY, ALL_THE_WAY],
        now_ms=NOW_MS,
    ).classes
    assert [(each.device_class, each.worst) for each in found] == [
        ("pump", None),
        ("valve", Step.CLAIM),
    ]
    assert provisioning([], now_ms=NOW_MS).classes == ()
