import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.outcomes.durations import State
from hub.outcomes.observations import DeviceCourse
from hub.outcomes.report import DeploymentReport, build_report, sentence, to_json
from hub.outcomes.silence import Verdict
from sync.stages import DEVICE_STAGES, HUB_STAGES, Stage, end_of
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
)


def report(*courses: DeviceCourse, after_s: float = 62) -> DeploymentReport:
    return build_report(
        deployment="dabcdefgh",
        component="greenhouse",
        version="1.1.0",
        courses=courses,
        now_ms=at(after_s),
        patience_ms=PATIENCE_MS,
    )


SIX = (
    finished("d1"),
    finished("d2", first_s=5),
    finished("d3", first_s=5),
    finished("d4", first_s=6),
    rolled_back("d5"),
    course("d6", receipts=(lacking(50, 49),)),
)


def test_six_devices_in_one_sentence() -> None:
    assert sentence(report(*SIX)) == (
        "4 of 6 devices run greenhouse 1.1.0 (proven by a passed health check); "
        "1 rolled back (the health check failed), "
        "1 is silent: connected for 61 s since the release was accepted "
        "and its state vector shows that it never took the command; "
        "half had acknowledged it 12.9\u201313.1 s after the request, fewer than 95 % have by now."
    )


def test_every_figure_of_six_devices() -> None:
    found = report(*SIX)
    assert found.running_count == 4
    assert {verdict: count for verdict, count in found.verdicts.items() if count} == {
        Verdict.ACKNOWLEDGED: 4,
        Verdict.ROLLED_BACK: 1,
        Verdict.SILENT: 1,
    }
    assert set(found.verdicts) == set(Verdict)
    assert found.silent_ratio == pytest.approx(1 / 6)
    assert found.funnel.reached_count[Stage.DELIVERED] == 5
    assert found.execution_gap.ended_count == 4
    assert found.execution_gap.p95.lo_ms is None
    assert found.handshake_latency.ended_count == 5
    states = [each.execution_gap.state for each in found.devices if each.execution_gap]
    assert states == [State.ENDED] * 4 + [State.NEVER, State.OPEN]


@pytest.mark.parametrize(
    ("courses", "expected"),
    [
        ((), "greenhouse 1.1.0 was not deployed to any device."),
        (
            (finished("a"),),
            (
                "1 of 1 device runs greenhouse 1.1.0 (proven by a passed health check); "
                "half had acknowledged it 11.9\u201312.1 s after the request "
                "and 95 % 11.9\u201312.1 s after it."
            ),
        ),
        (
            (course("a", presence=()), course("b", presence=())),
            "0 of 2 devices run greenhouse 1.1.0; 2 are unreachable.",
        ),
        (
            (course("a"), course("b", presence=online((0, 61.5)))),
            (
                "0 of 2 devices run greenhouse 1.1.0; 2 are silent: connected for 60.5\u201361 s "
                "since the release was accepted and nothing shows that they took the command."
            ),
        ),
        (
            (
                finished("a", runs=False, superseded_at_ms=at(50)),
                finished("b", runs=False),
                course("c", {Stage.DELIVERED: said(3)}),
            ),
            (
                "0 of 3 devices run greenhouse 1.1.0; "
                "1 acknowledged it and runs another by now, "
                "1 fell back after it said that it runs, 1 is under way; "
                "half had acknowledged it 11.9\u201312.1 s after the request, "
                "fewer than 95 % have by now."
            ),
        ),
        (
            (
                rolled_back("a"),
                rolled_back("b"),
                rolled_back("c", reason="interrupted"),
                finished("d"),
            ),
            (
                "1 of 4 devices runs greenhouse 1.1.0 (proven by a passed health check); "
                "3 rolled back (the health check failed, 2 times; "
                "the power or the agent went away in the middle); "
                "less than half have acknowledged it."
            ),
        ),
    ],
)
def test_other_fleets_in_one_sentence(courses: tuple[DeviceCourse, ...], expected: str) -> None:
    assert sentence(report(*courses)) == expected


def test_a_device_that_passed_its_check_runs_it_before_it_says_that_it_is_done() -> None:
    stages = {stage: said(4 + step) for step, stage in enumerate(WAY[:4])}
    found = report(course("a", stages))
    assert found.running_count == 1
    assert found.verdicts[Verdict.IN_PROGRESS] == 1
    assert sentence(found).startswith("1 of 1 device runs greenhouse 1.1.0 (proven")


def test_a_device_that_applied_it_and_never_passed_its_check_does_not_run_it() -> None:
    stages = {stage: said(4 + step) for step, stage in enumerate(WAY[:3])}
    assert report(course("a", stages)).running_count == 0


def test_devices_outside_the_frozen_list_are_left_out() -> None:
    found = report(finished("a"), finished("b", targeted=False))
    assert [each.device for each in found.devices] == ["a"]


def test_a_report_is_plain_json() -> None:
    plain = to_json(report(*SIX))
    assert json.loads(json.dumps(plain)) == plain
    assert plain["sentence"] == sentence(report(*SIX))
    assert plain["verdicts"]["silent"] == 1
    assert plain["funnel"]["reached_count"]["delivered"] == 5
    assert plain["devices"][0]["moments"]["accepted"] == {"lo_ms": at(1), "hi_ms": at(1)}
    assert plain["devices"][5]["execution_gap"] == {
        "state": "open",
        "took": {"lo_ms": 62_000, "hi_ms": None},
    }
    assert plain["execution_gap"]["p95"] == {"ratio": 0.95, "lo_ms": None, "hi_ms": None}


moments_s = st.floats(-10, 200, allow_nan=False)
any_course = st.builds(
    lambda stages, hub, receipts, spans, ends, runs: course(
        "a",
        {stage: said(after_s) for stage, after_s in stages.items()},
        hub_stages={stage: at(after_s) for stage, after_s in hub.items()},
        receipts=tuple(covering(s) if c else lacking(s, s - 1) for s, c in receipts),
        presence=online(*spans),
        superseded_at_ms=ends[0],
        cancelled_at_ms=ends[1],
        expires_ms=ends[2] or 0,
        runs=runs,
    ),
    st.dictionaries(st.sampled_from(sorted(DEVICE_STAGES)), moments_s),
    st.dictionaries(st.sampled_from(sorted(HUB_STAGES)), moments_s),
    st.lists(st.tuples(moments_s, st.booleans()), max_size=4),
    st.lists(st.tuples(moments_s, st.none() | moments_s), max_size=3),
    st.tuples(*[st.none() | moments_s.map(at)] * 3),
    st.none() | st.booleans(),
)


@given(st.lists(any_course, max_size=4), moments_s)
def test_whatever_was_observed_there_is_a_report_and_it_adds_up(
    courses: list[DeviceCourse], after_s: float
) -> None:
    found = report(*courses, after_s=after_s)
    assert sum(found.verdicts.values()) == len(courses)
    assert found.running_count <= len(courses)
    assert len(sentence(found).splitlines()) == 1
    json.dumps(to_json(found))
    for observed, outcome in zip(courses, found.devices, strict=True):
        if outcome.runs:
            assert {Stage.HEALTHY, Stage.ACKNOWLEDGED} & set(observed.device_stages)
        if outcome.finding.verdict is Verdict.SILENT:
            assert outcome.finding.reachable_ms >= PATIENCE_MS
            assert not observed.device_stages
            assert end_of(observed.device_stages) is None
