"""What a hub would tell of six devices, worked out by the hub's own views."""

import json
from typing import Any

import msgspec

from hub import views
from hub.answers import Report
from hub.outcomes.adoption import DeviceVersion, adoption
from hub.outcomes.observations import DeviceCourse
from hub.outcomes.report import DeploymentReport, build_report
from hub.store.deployments import Deployed
from tests.hub.outcomes.courses import PATIENCE_MS, at, course, finished, lacking, online
from tests.hub.outcomes.courses import rolled_back as went_back

ID = "dabcdefgh"

SIX = (
    finished("d1"),
    finished("d2", first_s=5),
    finished("d3", first_s=5),
    went_back("d4"),
    course("d5", presence=online((-100, 0))),
    course("d6", receipts=(lacking(50, 49),)),
)


def deployed() -> Deployed:
    return Deployed(
        id=ID,
        release=bytes(32),
        component="greenhouse",
        version="1.1.0",
        ordered=1,
        group="all",
        selector="site=s7",
        expires_ms=0,
        requested_ms=at(0),
        accepted_ms=at(1),
        cancelled_ms=None,
    )


def report_of(*courses: DeviceCourse, after_s: float = 62) -> DeploymentReport:
    return build_report(
        deployment=ID,
        component="greenhouse",
        version="1.1.0",
        courses=courses,
        now_ms=at(after_s),
        patience_ms=PATIENCE_MS,
    )


def report_json(*courses: DeviceCourse, after_s: float = 62) -> dict[str, Any]:
    """Return the answer to GET /deployments/{id}."""
    return _over_the_wire(
        views.report_view(deployed(), report_of(*(courses or SIX), after_s=after_s))
    )


def answer(*courses: DeviceCourse, after_s: float = 62) -> Report:
    return msgspec.convert(report_json(*courses, after_s=after_s), Report)


def fleet_json() -> dict[str, Any]:
    """Return the answer to GET /fleet."""
    devices = [
        DeviceVersion(
            device=each.device,
            last_uplink_at_ms=at(0),
            version="1.1.0" if each.device in ("d1", "d2", "d3") else "1.0.0",
            healthy=True,
            targeted=True,
        )
        for each in SIX
    ]
    found = adoption(devices, component="greenhouse", version="1.1.0", now_ms=at(62))
    return _over_the_wire(
        {
            "at_ms": at(62),
            "registered_count": 6,
            "active_count": 6,
            "online_count": 5,
            "dark": [],
            "active_window_s": 7 * 86_400.0,
            "adoption": [views.adoption_view(found)],
            "deployments": [views.summary_view(deployed(), report_of(*SIX))],
            "open_conflicts_count": 1,
            "offences": [],
        }
    )


def device_json(device: str = "d4") -> dict[str, Any]:
    """Return the answer to GET /devices/{device}."""
    (outcome,) = [each for each in report_of(*SIX).devices if each.device == device]
    return _over_the_wire(
        {
            "device": device,
            "online": True,
            "first_seen_at_ms": at(-100),
            "last_uplink_at_ms": at(12),
            "groups": ["all"],
            "facts": {"class": "generic", "labels": {"site": "s7"}},
            "versions": [
                {
                    "component": "greenhouse",
                    "version": "1.0.0",
                    "manifest": "00" * 32,
                    "healthy": True,
                    "deployment": None,
                    "reason": "",
                }
            ],
            "deployments": [views.request_view(deployed()) | views.outcome_view(outcome)],
            "settings": [
                {
                    "key": "mode",
                    "local": "dim",
                    "desired": {"level": 3},
                    "policy": "latest",
                    "effective": {"level": 3},
                    "winner": "desired",
                    "conflict": True,
                }
            ],
            "presence": [{"at_ms": at(-100), "online": True, "birth": 1}],
            "receipts": [],
            "offences": [
                {
                    "device": device,
                    "code": "bad_frame",
                    "count": 3,
                    "first_at_ms": at(0),
                    "last_at_ms": at(1),
                    "detail": "[red]rubbish[/red]",
                }
            ],
        }
    )


def _over_the_wire(answer: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(answer))
    return plain
