"""The figures that leave the hub, worked out of what an operator is shown.

Owns the way from the answer about the fleet to points under the names of `hub.export.names`.
Reads nothing itself; whoever scrapes sees what `fieldfare status` shows, never something else.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hub.export import names

HELD: Final = frozenset({"conversation_count", "unsent_count"})
"""Counts of the status that go down again; every other only grows."""

VALUE_CHARS_MAX: Final = 100
"""Longest value of an attribute: names of components and versions are no longer."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one measure."""

    name: str
    """Of `hub.export.names`."""
    attributes: tuple[tuple[str, str], ...]
    """In the order of the measure's attributes."""
    value: float


def points(fleet: Mapping[str, Any], status: Mapping[str, Any]) -> list[Point]:
    """Return every point of one moment.

    Args:
        fleet: The answer about the fleet (`hub.views.fleet_view`).
        status: What the hub says of itself (`hub.api.status`).
    """
    return [*_fleet(fleet), *_adoption(fleet), *_deployments(fleet), *_hub(status)]


def _point(name: str, value: float, *attributes: str) -> Point:
    keys = names.BY_NAME[name].attributes
    shown = (each[:VALUE_CHARS_MAX] for each in attributes)
    return Point(name, tuple(zip(keys, shown, strict=True)), float(value))


def _fleet(fleet: Mapping[str, Any]) -> Iterator[Point]:
    for state, count in (
        ("registered", fleet["registered_count"]),
        ("active", fleet["active_count"]),
        ("online", fleet["online_count"]),
        ("presence_unknown", fleet["presence_unknown_count"]),
        ("dark", len(fleet["dark"])),
    ):
        yield _point("fleet.devices", count, state)
    yield _point("fleet.state_conflicts", fleet["open_conflicts_count"])


def _adoption(fleet: Mapping[str, Any]) -> Iterator[Point]:
    for each in fleet["adoption"]:
        of = each["component"], each["version"]
        proven, unproven = each["proven_count"], each["unproven_count"]
        for state, count in (
            ("proven", proven),
            ("unproven", unproven),
            ("other", each["active_count"] - proven - unproven),
            ("dark_proven", each["dark_proven_count"]),
        ):
            yield _point("fleet.adoption.devices", count, *of, state)
        if each["adopted_ratio"] is not None:
            yield _point("fleet.adoption", each["adopted_ratio"], *of)


def _deployments(fleet: Mapping[str, Any]) -> Iterator[Point]:
    for each in fleet["deployments"]:
        of = each["deployment"], each["component"], each["version"]
        for verdict, count in each["verdicts"].items():
            yield _point("fleet.deployment.devices", count, *of, verdict)
        for stage, count in each["funnel"]["reached_count"].items():
            yield _point("fleet.deployment.reached", count, *of, stage)
        yield _point("fleet.deployment.running", each["running_count"], *of)
        yield _point("fleet.command.silent_failures", each["verdicts"]["silent"], *of)
        for name, summary in (
            ("fleet.manifest.execution_gap", each["execution_gap"]),
            ("fleet.manifest.handshake_latency", each["handshake_latency"]),
        ):
            yield from _quantiles(name, summary, of)
        ended = each["execution_gap"]["ended_ratio"]
        if ended is not None:
            yield _point("fleet.manifest.reached", ended, *of)


def _quantiles(name: str, summary: Mapping[str, Any], of: Iterable[str]) -> Iterator[Point]:
    """Give both bounds of a quantile that is certainly reached: a guess is no figure."""
    for key in ("p50", "p95"):
        found = summary[key]
        if found["lo_ms"] is None or found["hi_ms"] is None:
            continue
        for bound in ("lo", "hi"):
            value_s = found[f"{bound}_ms"] / 1000
            yield _point(name, value_s, *of, str(found["ratio"]), bound)


def _hub(status: Mapping[str, Any]) -> Iterator[Point]:
    for what, count in status["counters"].items():
        name = "fleet.hub.held" if what in HELD else "fleet.hub.events"
        yield _point(name, count, what.removesuffix("_count"))
    yield _point("fleet.hub.connected", status["broker"]["connected"])
    yield _point("fleet.hub.started", status["started_at_ms"] / 1000, status["version"])
