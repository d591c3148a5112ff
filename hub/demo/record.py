"""What the demo found: the looks at the hub, and whether each says what was done.

Owns the comparison and the JSON form. Never asks the hub or a device anything.

Rule: what a device really runs is asked of the application itself, never taken from the hub.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from hub import answers
from hub.demo.cast import CAST, COMPONENT, NEW, Expected, Fault, Part
from sync.stages import Reason, Stage, order

FORMAT: Final = 1
"""Of the JSON file. Fields may be added; what is there keeps its meaning."""

NOTHING: Final = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that was done to a device."""

    at_s: float
    """Seconds after the demo began."""
    device: str
    what: str


@dataclass(slots=True, kw_only=True)
class Faults:
    """Whether faults that need a moment of their own really came about."""

    is_killed: bool = False
    """Whether an agent got SIGKILL between the switch and its last word."""
    killed_at: Stage | None = None
    """How far that device had come by its last word; None for no word."""
    swallowed_count: int = 0
    """Messages that the deaf device never saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the hub reported at one moment, and what really ran at that moment."""

    name: str
    """`first` while links are broken, `final` after they were repaired."""
    at_s: float
    since_request_s: float
    """By the demo's own clock; no duration of the deployment can be longer."""
    report: answers.Report
    fleet: answers.Fleet
    devices: Mapping[str, answers.Device]
    runs: Mapping[str, str]
    """Version that the application on each device gives for itself; `nothing` if none answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that the hub reports, against what was done."""

    look: str
    device: str
    """Empty for the whole fleet."""
    about: str
    expected: str
    reported: str

    @property
    def holds(self) -> bool:
        """Whether the report is true."""
        return self.expected == self.reported


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A device at one look: what was to be expected, what was reported, and what is so."""

    look: str
    expected: str
    """Verdict."""
    reported: str
    runs: str
    """Version, by the application's own word."""
    runs_by_the_hub: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A device at every look."""

    part: Part
    seen: tuple[Seen, ...]
    holds: bool
    """Whether every comparison about it holds."""


@dataclass(slots=True, kw_only=True)
class Record:
    """Everything that the demo did and found."""

    acts: list[Act] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    silence_s: float = 0.0
    broker: str = ""
    strangers_are_refused: bool = False
    """Whether the broker was seen to refuse one who shows no certificate."""
    took_s: float = 0.0

    @property
    def differs(self) -> list[Check]:
        """Return what was reported wrongly."""
        return [check for check in self.checks if not check.holds]

    @property
    def rows(self) -> list[Row]:
        """Return a row for each device."""
        wrong = {check.device for check in self.differs}
        return [
            Row(
                part=part,
                seen=tuple(_seen(look, part) for look in self.looks),
                holds=part.device not in wrong,
            )
            for part in CAST
        ]


def check_look(look: Look, faults: Faults) -> list[Check]:
    """Return every comparison of one look, those that hold and those that do not."""
    found: list[Check] = []
    for part in CAST:
        found += _check_part(look, part, _expected(look, part), faults)
    running = sum(version == NEW for version in look.runs.values())
    adoption = next((each for each in look.fleet.adoption if each.component == COMPONENT), None)
    counts = {
        "registered devices": (len(CAST), look.fleet.registered_count),
        "targeted devices": (len(CAST), look.report.targeted_count),
        f"devices that run {NEW}, by the report": (running, look.report.running_count),
        f"devices that run {NEW}, by the status": (
            running,
            adoption.proven_count if adoption is not None and adoption.version == NEW else None,
        ),
    }
    for about, (expected, reported) in counts.items():
        found.append(_check(look, "", about, expected, reported))
    return found


def to_json(record: Record, *, page: str) -> dict[str, Any]:
    """Return the record as plain JSON."""
    return {
        "format": FORMAT,
        "holds": not record.differs,
        "took_s": round(record.took_s, 1),
        "silence_s": record.silence_s,
        "broker": record.broker,
        "strangers_are_refused": record.strangers_are_refused,
        "page": page,
        "devices": [
            {
                "device": row.part.device,
                "fault": row.part.fault.value,
                "done": row.part.done,
                "acts": [
                    {"at_s": round(act.at_s, 2), "what": act.what}
                    for act in record.acts
                    if act.device == row.part.device
                ],
                "holds": row.holds,
                **{
                    seen.look: {
                        "expected": seen.expected,
                        "reported": seen.reported,
                        "runs": seen.runs,
                        "runs_by_the_hub": seen.runs_by_the_hub,
                    }
                    for seen in row.seen
                },
            }
            for row in record.rows
        ],
        "checks": [
            {
                "look": check.look,
                "device": check.device or None,
                "about": check.about,
                "expected": check.expected,
                "reported": check.reported,
                "holds": check.holds,
            }
            for check in record.checks
        ],
        "looks": [
            {
                "look": look.name,
                "at_s": round(look.at_s, 2),
                "sentence": look.report.sentence,
                "report": _plain(look.report),
                "fleet": _plain(look.fleet),
            }
            for look in record.looks
        ],
    }


def _seen(look: Look, part: Part) -> Seen:
    return Seen(
        look=look.name,
        expected=_expected(look, part).verdict.value,
        reported=_verdict(look, part.device),
        runs=look.runs.get(part.device, NOTHING),
        runs_by_the_hub=_proven(look, part.device),
    )


def _expected(look: Look, part: Part) -> Expected:
    return part.first if look.name == "first" else part.final


def _check_part(look: Look, part: Part, expected: Expected, faults: Faults) -> list[Check]:
    device = part.device
    runs = look.runs.get(device, NOTHING)
    found = [
        _check(look, device, "verdict", expected.verdict.value, _verdict(look, device)),
        _check(look, device, "version that it really runs", expected.version, runs),
        _check(look, device, "version that the hub says it runs", runs, _proven(look, device)),
    ]
    outcome = _outcome(look, device)
    if outcome is None:
        return found
    online = look.devices[device].online if device in look.devices else None
    if part.fault is Fault.OFFLINE:
        found.append(_check(look, device, "connected", look.name == "final", online))
    elif part.fault is Fault.NO_SENSOR:
        wrong = Reason.HEALTH_FAILED.value
        found.append(_check(look, device, "reason", wrong, outcome.reason))
    elif part.fault is Fault.DEAF and look.name == "first":
        shown = bool(outcome.evidence_against)
        swallowed = faults.swallowed_count > 0
        found.append(_check(look, device, "its link swallowed messages", "yes", swallowed))
        found.append(_check(look, device, "connected", "yes", online))
        found.append(_check(look, device, "its state vector lacks it", "yes", shown))
    elif part.fault is Fault.KILLED:
        found.append(_check(look, device, "killed before it was proven", "yes", _in_time(faults)))
    elif part.fault is Fault.WRONG_CLOCK:
        found.append(
            _check(look, device, "Execution Gap is possible", "yes", _is_possible(look, outcome))
        )
    return found


def _in_time(faults: Faults) -> bool:
    """Tell whether the kill came while the install was not over."""
    is_late = faults.killed_at is not None and order(faults.killed_at) >= order(Stage.HEALTHY)
    return faults.is_killed and not is_late


def _is_possible(look: Look, outcome: answers.Outcome) -> bool:
    """Tell whether a duration lies within what the demo's own clock saw."""
    gap = outcome.execution_gap
    if gap is None or gap.took.lo_ms is None or gap.took.hi_ms is None:
        return False
    return 0 <= gap.took.lo_ms <= gap.took.hi_ms <= look.since_request_s * 1000


def _check(look: Look, device: str, about: str, expected: object, reported: object) -> Check:
    return Check(
        look=look.name,
        device=device,
        about=about,
        expected=_word(expected),
        reported=_word(reported),
    )


def _word(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _outcome(look: Look, device: str) -> answers.Outcome | None:
    return next((each for each in look.report.devices if each.device == device), None)


def _verdict(look: Look, device: str) -> str:
    outcome = _outcome(look, device)
    return outcome.verdict.value if outcome is not None else "absent"


def _proven(look: Look, device: str) -> str:
    """Return the version that the hub holds a device to run, proven."""
    found = look.devices.get(device)
    for run in found.versions if found is not None else ():
        if run.component == COMPONENT and run.healthy:
            return run.version
    return NOTHING


def summary_of(checks: Sequence[Check]) -> str:
    """Return in one line how many comparisons hold."""
    wrong = sum(not check.holds for check in checks)
    if wrong:
        return f"{wrong} of {len(checks)} comparisons differ"
    return f"all {len(checks)} comparisons of report and reality agree"


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value, str_keys=True)
