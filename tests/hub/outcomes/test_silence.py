import pytest

from hub.outcomes.durations import Span, State
from hub.outcomes.observations import DeviceCourse
from hub.outcomes.silence import PATIENCE_MIN_MS, Verdict, judge, patience_of
from sync.stages import Stage
from sync.stamps import Interval
from tests.hub.outcomes.courses import (
    PATIENCE_MS,
    WAY,
    at,
    course,
    covering,
    finished,
    lacking,
    online,
    rolled_back,
    said,
    waiting,
)


def verdict_of(observed: DeviceCourse, after_s: float = 100) -> Verdict:
    return judge(observed, now_ms=at(after_s), patience_ms=PATIENCE_MS).verdict


def with_stages(*stages: Stage) -> DeviceCourse:
    return course(stages={stage: said(4 + step) for step, stage in enumerate(stages)})


@pytest.mark.parametrize(
    ("observed", "after_s", "verdict"),
    [
        (finished(), 100, Verdict.ACKNOWLEDGED),
        (finished(superseded_at_ms=at(50)), 100, Verdict.ACKNOWLEDGED),
        (rolled_back(), 100, Verdict.ROLLED_BACK),
        (with_stages(Stage.DELIVERED, Stage.FAILED), 100, Verdict.FAILED),
        (with_stages(Stage.DELIVERED, Stage.SUPERSEDED), 100, Verdict.SUPERSEDED),
        (with_stages(Stage.DELIVERED, Stage.EXPIRED), 100, Verdict.EXPIRED),
        (with_stages(Stage.DELIVERED, Stage.CANCELLED), 100, Verdict.CANCELLED),
        (with_stages(Stage.DELIVERED, Stage.DEFERRED), 100_000, Verdict.IN_PROGRESS),
        (with_stages(*WAY[:4]), 100_000, Verdict.IN_PROGRESS),
        (course(stages={Stage.DELIVERED: said(4)}, waiting=waiting()), 100, Verdict.DEFERRED),
        (finished(waiting=waiting()), 100, Verdict.ACKNOWLEDGED),
        (course(waiting=waiting(), cancelled_at_ms=at(30)), 100, Verdict.CANCELLED),
        (course(receipts=(covering(9),)), 100, Verdict.IN_PROGRESS),
        (course(superseded_at_ms=at(30)), 100, Verdict.SUPERSEDED),
        (course(cancelled_at_ms=at(30)), 100, Verdict.CANCELLED),
        (course(expires_ms=at(30)), 100, Verdict.EXPIRED),
        (course(expires_ms=at(300)), 100, Verdict.SILENT),
        (course(), 60, Verdict.TOO_EARLY),
        (course(), 61, Verdict.SILENT),
        (course(presence=()), 60, Verdict.TOO_EARLY),
        (course(presence=()), 61, Verdict.UNREACHABLE),
        (course(presence=online((-100, 20))), 1_000, Verdict.UNREACHABLE),
        (course(presence=online((-100, 20), (990, None))), 1_000, Verdict.TOO_EARLY),
        (course(presence=online((-100, 20), (950, None))), 1_000, Verdict.SILENT),
        (course(presence=online((-100, 20), (900, 950))), 1_000, Verdict.SILENT),
        (course(presence=online((-1_000, 0))), 1_000, Verdict.UNREACHABLE),
        (course(hub_stages={Stage.REQUESTED: at(0)}), 1_000, Verdict.TOO_EARLY),
    ],
)
def test_verdicts(observed: DeviceCourse, after_s: float, verdict: Verdict) -> None:
    assert verdict_of(observed, after_s) is verdict


def test_what_a_broker_acknowledged_changes_nothing() -> None:
    for observed in (course(), course(presence=()), course(receipts=(lacking(50, 49),))):
        for after_s in (30, 61, 1_000):
            plain = judge(observed, now_ms=at(after_s), patience_ms=PATIENCE_MS)
            acked = DeviceCourse(
                device=observed.device,
                hub_stages={**observed.hub_stages, Stage.BROKER_ACKED: at(3)},
                receipts=observed.receipts,
                presence=observed.presence,
                contacts=observed.contacts,
            )
            assert judge(acked, now_ms=at(after_s), patience_ms=PATIENCE_MS) == plain


def test_a_device_without_a_network_is_never_silent() -> None:
    for after_s in (10, 100, 10_000, 10_000_000):
        assert verdict_of(course(presence=online((-100, 1))), after_s) is not Verdict.SILENT


def test_silence_says_how_long_and_what_shows_it() -> None:
    found = judge(course(receipts=(lacking(50, 49),)), now_ms=at(101), patience_ms=PATIENCE_MS)
    assert found.stage is Stage.PUBLISHED
    assert found.reachable_ms == 100_000
    assert found.online
    assert found.evidence_for == ()
    assert len(found.evidence_against) == 1
    assert found.sentence == (
        "pump-7 is silent: connected for 100 s since the release was accepted, "
        "and its state vector shows that it never took the command."
    )


@pytest.mark.parametrize(
    "receipts",
    [(), (lacking(50),), (lacking(50, 1.5),)],
    ids=["no vector", "sent nobody knows when", "sent before it was published"],
)
def test_a_vector_that_may_have_been_on_its_way_already_proves_nothing(
    receipts: tuple[object, ...],
) -> None:
    found = judge(course(receipts=receipts), now_ms=at(101), patience_ms=PATIENCE_MS)
    assert found.verdict is Verdict.SILENT
    assert found.evidence_against == ()
    assert found.sentence.endswith("and nothing shows that it took the command.")


def test_what_the_hub_never_published_is_not_blamed_on_the_device() -> None:
    hub_stages = {Stage.REQUESTED: at(0), Stage.ACCEPTED: at(1)}
    found = judge(course(hub_stages=hub_stages), now_ms=at(101), patience_ms=PATIENCE_MS)
    assert found.verdict is Verdict.SILENT
    assert found.stage is Stage.ACCEPTED
    assert found.sentence.endswith("but the hub never handed it to the broker.")


@pytest.mark.parametrize(
    ("observed", "sentence"),
    [
        (finished(), "pump-7 runs the release, passed its health check and said so."),
        (
            finished(runs=False, superseded_at_ms=at(50)),
            (
                "pump-7 runs the release, passed its health check and said so, "
                "and runs something else by now."
            ),
        ),
        (
            finished(runs=False),
            (
                "pump-7 said that the release runs well, and was then seen running another one: "
                "it fell back."
            ),
        ),
        (
            rolled_back(),
            "pump-7 switched to the release and went back: the health check failed.",
        ),
        (
            course(
                stages={Stage.DELIVERED: said(4), Stage.FAILED: said(5, "no_space", "12 MB short")}
            ),
            (
                "pump-7 gave up after the stage delivered: "
                "there is not enough room on the device (12 MB short)."
            ),
        ),
        (
            with_stages(Stage.DELIVERED, Stage.VERIFIED),
            "pump-7 came as far as verified, with the last news 94.9 s ago.",
        ),
        (
            course(
                stages={Stage.DELIVERED: said(4), Stage.DEFERRED: said(5, "busy")},
                presence=online((-100, 20)),
                waiting=waiting(),
            ),
            (
                "pump-7 holds the release and has waited with it for 94.9\N{EN DASH}95.1 s, and "
                "is not connected now: backup holds a lock: it runs; it had 60 s left to wait when "
                "it said so, and then gives it up."
            ),
        ),
        (
            course(
                stages={Stage.DELIVERED: said(4), Stage.DEFERRED: said(5, "outside_window")},
                waiting=waiting(until_ms=at(3_600), overdue="go", left_s=7 * 86_400),
            ),
            (
                "pump-7 holds the release and has waited with it for 94.9\N{EN DASH}95.1 s: backup "
                "holds a lock: it runs; that ends by itself at 2027-01-15 09:00 UTC; it had 7 d "
                "left to wait when it said so, and then goes on all the same."
            ),
        ),
        (
            with_stages(Stage.DELIVERED, Stage.DEFERRED),
            "pump-7 came as far as delivered, with the last news 94.9 s ago.",
        ),
        (
            course(presence=()),
            "pump-7 is unreachable: not connected once in the 99 s since the release was accepted.",
        ),
        (
            course(presence=online((-100, 11))),
            (
                "pump-7 is unreachable: connected for only 10 s of the 99 s "
                "since the release was accepted."
            ),
        ),
        (
            course(presence=online((90, None))),
            (
                "pump-7 may still take it: connected for 10 s of the 99 s "
                "since the release was accepted."
            ),
        ),
        (course(superseded_at_ms=at(9)), "pump-7 was given a later deployment instead."),
        (
            course(stages={Stage.DELIVERED: said(4)}, cancelled_at_ms=at(9)),
            (
                "pump-7 need not take it any more, but holds the old one "
                "and has not confirmed that it stopped."
            ),
        ),
        (course(expires_ms=at(9)), "pump-7 did not take it before its time ran out."),
        (course(hub_stages={}), "pump-7 has not been promised the release yet."),
    ],
)
def test_every_verdict_is_one_plain_sentence(observed: DeviceCourse, sentence: str) -> None:
    assert judge(observed, now_ms=at(100), patience_ms=PATIENCE_MS).sentence == sentence


def test_a_finding_carries_the_last_reason_of_the_device() -> None:
    found = judge(rolled_back(reason="interrupted"), now_ms=at(100), patience_ms=PATIENCE_MS)
    assert (found.reason, found.stage) == ("interrupted", Stage.APPLIED)
    assert found.evidence_for == (
        "the device acknowledged delivered, verified, applied, rolled_back",
    )


def test_patience_is_a_minute_or_what_the_slowest_usually_took() -> None:
    def took(lo_ms: int, hi_ms: int) -> Span:
        return Span(State.ENDED, Interval(lo_ms, hi_ms))

    assert patience_of([]) == PATIENCE_MIN_MS
    assert patience_of([took(200, 300)] * 50) == PATIENCE_MIN_MS
    assert patience_of([took(200, 300)] * 90 + [took(80_000, 90_000)] * 10) == 90_000
