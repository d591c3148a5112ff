"""A demo whose hub told the truth, to be turned into one whose hub lies."""

from dataclasses import replace
from typing import Any

import msgspec

from hub import answers
from hub.demo.cast import CAST, COMPONENT, NEW, Expected
from hub.demo.record import Look
from hub.outcomes.adoption import DeviceVersion, adoption
from hub.outcomes.observations import DeviceCourse
from hub.outcomes.silence import Verdict
from tests.hub.cli.told import fleet_json, report_json
from tests.hub.outcomes.courses import at, course, finished, lacking, online
from tests.hub.outcomes.courses import rolled_back as went_back

SINCE_REQUEST_S = 62.0


def _course(device: str, expected: Expected) -> DeviceCourse:
    if expected.verdict is Verdict.ACKNOWLEDGED:
        return finished(device)
    if expected.verdict is Verdict.ROLLED_BACK:
        return went_back(device)
    if expected.verdict is Verdict.UNREACHABLE:
        return course(device, presence=online((-100, 0)))
    return course(device, receipts=(lacking(50, 49),))


def _device(device: str, expected: Expected) -> answers.Device:
    return answers.Device(
        device=device,
        online=expected.verdict is not Verdict.UNREACHABLE,
        first_seen_at_ms=at(-100),
        last_uplink_at_ms=at(60),
        versions=(answers.Version(component=COMPONENT, version=expected.version, healthy=True),),
    )


def true_look(name: str) -> Look:
    """Return what an honest hub tells of the cast at one look."""
    expected = {part.device: part.first if name == "first" else part.final for part in CAST}
    versions = [
        DeviceVersion(
            device=device,
            last_uplink_at_ms=at(60),
            version=each.version,
            healthy=True,
            targeted=True,
        )
        for device, each in expected.items()
    ]
    found = adoption(versions, component=COMPONENT, version=NEW, now_ms=at(62))
    fleet = msgspec.structs.replace(
        msgspec.convert(fleet_json(), answers.Fleet),
        registered_count=len(CAST),
        adoption=(found,),
    )
    courses = [_course(device, each) for device, each in expected.items()]
    report: answers.Report = msgspec.convert(report_json(*courses), answers.Report)
    return Look(
        name=name,
        at_s=70.0,
        since_request_s=SINCE_REQUEST_S,
        report=report,
        fleet=fleet,
        devices={device: _device(device, each) for device, each in expected.items()},
        runs={device: each.version for device, each in expected.items()},
    )


def with_outcome(look: Look, device: str, **changes: Any) -> Look:
    """Return the look with something else reported of a device."""
    devices = tuple(
        msgspec.structs.replace(each, **changes) if each.device == device else each
        for each in look.report.devices
    )
    return replace(look, report=msgspec.structs.replace(look.report, devices=devices))
