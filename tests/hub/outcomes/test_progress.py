"""A deployment against its limits."""

from collections.abc import Sequence

from hub.outcomes.adoption import DeviceVersion, adoption
from hub.outcomes.durations import Span, State
from hub.outcomes.observations import DeviceCourse
from hub.outcomes.progress import (
    judge_adoption,
    judge_failures,
    judge_pace,
    judge_provisioning,
    judge_silence,
)
from hub.outcomes.provisioning import ClassFunnel, Step, StepCount
from hub.outcomes.report import DeploymentReport, build_report
from hub.outcomes.survival import summary
from hub.outcomes.verdicts import Judgement, Ruling
from sync.stamps import Interval
from tests.hub.outcomes.courses import (
    PATIENCE_MS,
    ZERO_MS,
    at,
    course,
    finished,
    lacking,
    online,
    rolled_back,
)


def report(courses: Sequence[DeviceCourse], now_s: float = 600) -> DeploymentReport:
    """Return the report on courses."""
    return build_report(
        deployment="1",
        component="app",
        version="2",
        courses=courses,
        now_ms=at(now_s),
        patience_ms=PATIENCE_MS,
    )


def pace(spans: Sequence[Span | None], limit_ms: int = 1_000) -> Judgement:
    """Return the judgement on spans."""
    return judge_pace("execution_gap", "Execution Gap", spans, limit_ms=limit_ms, devices_min=10)


def ended(lo_ms: int, hi_ms: int) -> Span:
    """Return a span that is over."""
    return Span(State.ENDED, Interval(lo_ms, hi_ms))


def still(lasted_ms: int) -> Span:
    """Return a span that is not."""
    return Span(State.OPEN, Interval(lasted_ms, None))


def test_a_limit_is_only_crossed_when_every_reading_of_the_clocks_crosses_it() -> None:
    assert pace([ended(400, 900)] * 12).verdict is Ruling.OK
    assert pace([ended(400, 1100)] * 12).verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert pace([ended(1050, 1100)] * 12).verdict is Ruling.BREACH


def test_devices_that_have_not_ended_are_not_left_out() -> None:
    quick = [ended(400, 500)] * 9
    assert pace([*quick, still(600)]).verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert pace([*quick, still(2_000)]).verdict is Ruling.BREACH
    failed = Span(State.NEVER, Interval(100, None))
    assert pace([*quick, failed]).verdict is Ruling.BREACH


def test_a_fleet_that_is_too_small_is_not_called_ok() -> None:
    assert pace([ended(400, 500)] * 9).verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert pace([None]).verdict is Ruling.TOO_LITTLE_EVIDENCE


def test_a_silent_device_is_named_with_where_it_stalled_and_why_that_is_known() -> None:
    silent = course("pump-9", receipts=(lacking(30, 29),))
    judged = judge_silence(report([finished(), silent]))
    assert judged.verdict is Ruling.BREACH
    assert judged.devices == ("pump-9",)
    assert "stalled after published" in judged.sentence
    assert "its state vector shows" in judged.evidence[0]


def test_a_device_without_a_network_leaves_silence_open() -> None:
    away = course("pump-9", presence=online((-50, 0)))
    judged = judge_silence(report([finished(), away]))
    assert judged.verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert judged.estimate is not None
    assert (judged.estimate.lo, judged.estimate.hi) == (0.0, 0.5)
    assert judge_silence(report([finished()])).verdict is Ruling.OK
    assert judge_silence(report([])).verdict is Ruling.TOO_LITTLE_EVIDENCE


def test_a_device_that_fell_back_after_it_reported_success_is_a_failure() -> None:
    courses = [finished("well"), finished("fell", runs=False)]
    judged = judge_failures(report(courses), normal=0.015)
    assert judged.devices == ("fell",)


def test_ten_clean_devices_do_not_make_failures_ok_and_three_hundred_do() -> None:
    few = judge_failures(report([finished(f"d{n}") for n in range(10)]), normal=0.015)
    assert few.verdict is Ruling.TOO_LITTLE_EVIDENCE
    many = judge_failures(report([finished(f"d{n}") for n in range(300)]), normal=0.015)
    assert many.verdict is Ruling.OK


def test_devices_that_went_back_are_a_breach_with_their_reasons() -> None:
    courses = [finished(f"d{n}") for n in range(7)] + [rolled_back(f"e{n}") for n in range(3)]
    judged = judge_failures(report(courses), normal=0.015)
    assert judged.verdict is Ruling.BREACH
    assert judged.devices == ("e0", "e1", "e2")
    assert "health" in judged.evidence[0]


def _adopted(proven: int, active: int, dark: int, targeted: int) -> Judgement:
    devices = [
        DeviceVersion(
            device=f"d{n}",
            last_uplink_at_ms=ZERO_MS if n < active else None,
            version="2" if n < proven else "1",
            healthy=True,
            targeted=n < targeted,
        )
        for n in range(active + dark)
    ]
    counted = adoption(devices, component="app", version="2", now_ms=ZERO_MS)
    return judge_adoption(counted, wanted=0.99)


def test_adoption_counts_active_devices_and_bounds_what_dark_ones_run() -> None:
    judged = _adopted(100, 100, 25, 125)
    assert judged.verdict is Ruling.OK
    assert judged.estimate is not None
    assert (judged.estimate.lo, judged.estimate.hi) == (0.8, 1.0)
    assert _adopted(50, 100, 0, 100).verdict is Ruling.BREACH
    assert _adopted(50, 100, 0, 50).verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert _adopted(0, 0, 5, 5).verdict is Ruling.TOO_LITTLE_EVIDENCE


def _step(passed: int, left: int, waiting: int) -> ClassFunnel:
    entered = passed + left + waiting
    count = StepCount(
        step=Step.CERTIFICATE,
        entered_count=entered,
        passed_count=passed,
        left={"revoked": left} if left else {},
        on_the_way_count=waiting,
        passed_lo_ratio=passed / entered if entered else None,
        passed_hi_ratio=(passed + waiting) / entered if entered else None,
        took=summary([]),
    )
    return ClassFunnel(device_class="pump", steps=(count,))


def test_devices_drop_off_only_when_even_those_on_the_way_cannot_make_up_for_it() -> None:
    assert judge_provisioning([_step(10, 0, 0)], wanted=0.9).verdict is Ruling.OK
    assert judge_provisioning([_step(5, 1, 4)], wanted=0.9).verdict is Ruling.TOO_LITTLE_EVIDENCE
    judged = judge_provisioning([_step(10, 0, 0), _step(5, 5, 0)], wanted=0.9)
    assert judged.verdict is Ruling.BREACH
    assert judged.evidence == ("revoked: 5",)
    assert judge_provisioning([_step(0, 0, 0)], wanted=0.9).verdict is Ruling.TOO_LITTLE_EVIDENCE
