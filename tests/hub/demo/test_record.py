import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from hub.demo.cast import CAST, NEW, OLD, Fault
from hub.demo.record import Act, Faults, Look, Record, check_look, summary_of, to_json
from hub.demo.show import _page
from hub.outcomes.durations import Span, State
from hub.outcomes.silence import Verdict
from sync.stages import Stage
from sync.stamps import Interval
from tests.hub.demo.looks import true_look, with_outcome


def faults_done(**changes: Any) -> Faults:
    return replace(Faults(is_killed=True, killed_at=Stage.VERIFIED, swallowed_count=3), **changes)


DEVICES = {part.fault: part.device for part in CAST}


def wrong(look: Look, **faults: Any) -> list[tuple[str, str]]:
    checks = check_look(look, faults_done(**faults))
    return [(check.device, check.about) for check in checks if not check.holds]


def test_the_cast_has_each_fault_once_and_unlike_devices_have_unlike_expectations() -> None:
    assert set(DEVICES) == set(Fault)
    assert {part.first.verdict for part in CAST} == {
        Verdict.ACKNOWLEDGED,
        Verdict.UNREACHABLE,
        Verdict.ROLLED_BACK,
        Verdict.SILENT,
    }


@pytest.mark.parametrize("name", ["first", "final"])
def test_a_hub_that_tells_the_truth_is_believed(name: str) -> None:
    assert wrong(true_look(name)) == []


def _version(look: Look, device: str, version: str) -> Look:
    (run,) = look.devices[device].versions
    told = msgspec.structs.replace(run, version=version)
    changed = msgspec.structs.replace(look.devices[device], versions=(told,))
    return replace(look, devices={**look.devices, device: changed})


def _online(look: Look, device: str, *, online: bool) -> Look:
    changed = msgspec.structs.replace(look.devices[device], online=online)
    return replace(look, devices={**look.devices, device: changed})


def _ten_days(look: Look) -> Look:
    gap = Span(State.ENDED, Interval(864_000_000, 864_000_100))
    return with_outcome(look, DEVICES[Fault.WRONG_CLOCK], execution_gap=gap)


LIES: list[tuple[str, Callable[[Look], Look], str, str]] = [
    (
        "a silent device is called unreachable",
        lambda look: with_outcome(look, DEVICES[Fault.DEAF], verdict=Verdict.UNREACHABLE),
        DEVICES[Fault.DEAF],
        "verdict",
    ),
    (
        "an unreachable device is called silent",
        lambda look: with_outcome(look, DEVICES[Fault.OFFLINE], verdict=Verdict.SILENT),
        DEVICES[Fault.OFFLINE],
        "verdict",
    ),
    (
        "a device that went back is counted as done",
        lambda look: with_outcome(look, DEVICES[Fault.NO_SENSOR], verdict=Verdict.ACKNOWLEDGED),
        DEVICES[Fault.NO_SENSOR],
        "verdict",
    ),
    (
        "silence is claimed without a state vector",
        lambda look: with_outcome(look, DEVICES[Fault.DEAF], evidence_against=()),
        DEVICES[Fault.DEAF],
        "its state vector lacks it",
    ),
    (
        "another reason is given",
        lambda look: with_outcome(look, DEVICES[Fault.NO_SENSOR], reason="no_space"),
        DEVICES[Fault.NO_SENSOR],
        "reason",
    ),
    (
        "a version is claimed that does not run",
        lambda look: _version(look, DEVICES[Fault.OFFLINE], NEW),
        DEVICES[Fault.OFFLINE],
        "version that the hub says it runs",
    ),
    (
        "a device that is cut off is called connected",
        lambda look: _online(look, DEVICES[Fault.OFFLINE], online=True),
        DEVICES[Fault.OFFLINE],
        "connected",
    ),
    (
        "a clock of ten days ago makes a duration of ten days",
        _ten_days,
        DEVICES[Fault.WRONG_CLOCK],
        "Execution Gap is possible",
    ),
    (
        "one device too many is counted",
        lambda look: replace(look, report=msgspec.structs.replace(look.report, running_count=4)),
        "",
        f"devices that run {NEW}, by the report",
    ),
    (
        "a device is forgotten",
        lambda look: replace(look, report=msgspec.structs.replace(look.report, devices=())),
        DEVICES[Fault.NONE],
        "verdict",
    ),
]


@pytest.mark.parametrize(
    ("lie", "device", "about"), [each[1:] for each in LIES], ids=[each[0] for each in LIES]
)
def test_a_hub_that_tells_something_else_is_caught(
    lie: Callable[[Look], Look], device: str, about: str
) -> None:
    assert (device, about) in wrong(lie(true_look("first")))


def test_an_application_that_runs_something_else_is_caught() -> None:
    look = true_look("first")
    device = DEVICES[Fault.KILLED]
    found = wrong(replace(look, runs={**look.runs, device: OLD}))
    assert (device, "version that it really runs") in found
    assert (device, "version that the hub says it runs") in found
    assert ("", f"devices that run {NEW}, by the status") in found


@pytest.mark.parametrize("faults", [{"killed_at": Stage.ACK_SEEN}, {"is_killed": False}])
def test_a_kill_that_came_too_late_or_not_at_all_is_admitted(faults: dict[str, Any]) -> None:
    found = wrong(true_look("first"), **faults)
    assert found == [(DEVICES[Fault.KILLED], "killed before it was proven")]


def test_a_link_that_swallowed_nothing_is_admitted() -> None:
    found = wrong(true_look("first"), swallowed_count=0)
    assert found == [(DEVICES[Fault.DEAF], "its link swallowed messages")]


def record_of(*looks: Look) -> Record:
    record = Record(silence_s=8, broker="mosquitto", took_s=40, looks=list(looks))
    record.acts.append(Act(at_s=1.234, device=DEVICES[Fault.OFFLINE], what="its link was cut"))
    for look in looks:
        record.checks += check_look(look, faults_done())
    return record


def test_the_json_says_what_was_done_to_each_device_and_what_was_reported() -> None:
    record = record_of(true_look("first"), true_look("final"))
    told = json.loads(json.dumps(to_json(record, page="outcome.html")))
    assert told["holds"] is True
    offline = next(each for each in told["devices"] if each["fault"] == "offline")
    assert offline["acts"] == [{"at_s": 1.23, "what": "its link was cut"}]
    assert offline["first"] == {
        "expected": "unreachable",
        "reported": "unreachable",
        "runs": OLD,
        "runs_by_the_hub": OLD,
    }
    assert offline["final"]["reported"] == "acknowledged"
    assert {look["look"] for look in told["looks"]} == {"first", "final"}
    assert all(check["holds"] for check in told["checks"])


def test_one_difference_makes_the_whole_demo_differ_and_is_named() -> None:
    lie = with_outcome(true_look("final"), DEVICES[Fault.NONE], verdict=Verdict.SILENT)
    record = record_of(true_look("first"), lie)
    assert [check.look for check in record.differs] == ["final"]
    assert summary_of(record.checks) == f"1 of {len(record.checks)} comparisons differ"
    assert to_json(record, page="")["holds"] is False
    assert [row.holds for row in record.rows].count(False) == 1
    assert "acknowledged, reported silent" in _page(record)
