"""The names under which figures leave the hub: one table.

Owns the names, units and attributes. Never holds a value.

OpenTelemetry's semantic conventions (1.44) have no namespace for fleets, updates or rollouts, so
these names begin with `fleet.`, and this file says so in one place. Where a convention has a word
it is used: `service.version`. Prometheus' names follow from them by its own rules
(prometheus.io/docs/practices/naming): base units and `_total`, `_ratio`, `_seconds` at the end.

Rule: no attribute has the name of a device, and each has few values. A fleet of 100,000 devices
makes as many series as one of ten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Kind(StrEnum):
    """How a figure moves."""

    GAUGE = "gauge"
    COUNTER = "counter"
    """Only grows while the hub runs, and starts from zero with it."""


SECONDS: Final = "s"
RATIO: Final = "1"
DEVICES: Final = "{device}"
COUNT: Final = "{count}"
"""Units in UCUM, as OpenTelemetry writes them."""

_SUFFIXES: Final = {SECONDS: "_seconds", RATIO: "_ratio"}


@dataclass(frozen=True, slots=True)
class Named:
    """One measure that leaves the hub."""

    name: str
    """OpenTelemetry's."""
    unit: str
    kind: Kind
    attributes: tuple[str, ...]
    help: str

    @property
    def prometheus(self) -> str:
        """The name that Prometheus sees."""
        base = self.name.replace(".", "_")
        if self.kind is Kind.COUNTER:
            return f"{base}_total"
        suffix = _SUFFIXES.get(self.unit, "")
        return base if base.endswith(suffix) else base + suffix


def label(attribute: str) -> str:
    """Return the label that Prometheus sees for an attribute."""
    return attribute.removeprefix("fleet.").replace(".", "_")


STATE: Final = "fleet.state"
COMPONENT: Final = "fleet.component"
VERSION: Final = "fleet.version"
DEPLOYMENT: Final = "fleet.deployment.id"
VERDICT: Final = "fleet.verdict"
STAGE: Final = "fleet.stage"
QUANTILE: Final = "fleet.quantile"
BOUND: Final = "fleet.bound"
WHAT: Final = "fleet.hub.what"
SERVICE_VERSION: Final = "service.version"

_OF_ONE: Final = (DEPLOYMENT, COMPONENT, VERSION)

ALL: Final = (
    Named(
        "fleet.devices",
        DEVICES,
        Kind.GAUGE,
        (STATE,),
        "Devices that are registered, active, online, of unknown presence, or dark",
    ),
    Named(
        "fleet.adoption.devices",
        DEVICES,
        Kind.GAUGE,
        (COMPONENT, VERSION, STATE),
        "Active devices that run the latest version: proven by a passed health check, unproven, "
        "on another one; and those gone dark that had it proven",
    ),
    Named(
        "fleet.adoption",
        RATIO,
        Kind.GAUGE,
        (COMPONENT, VERSION),
        "Active devices that run the latest version, proven, of all active ones",
    ),
    Named(
        "fleet.deployment.devices",
        DEVICES,
        Kind.GAUGE,
        (*_OF_ONE, VERDICT),
        "Targeted devices of a deployment by what it came to on them",
    ),
    Named(
        "fleet.deployment.reached",
        DEVICES,
        Kind.GAUGE,
        (*_OF_ONE, STAGE),
        "Targeted devices of a deployment that are proven to have come so far or further",
    ),
    Named(
        "fleet.deployment.running",
        DEVICES,
        Kind.GAUGE,
        _OF_ONE,
        "Targeted devices of a deployment that run its release now",
    ),
    Named(
        "fleet.manifest.execution_gap",
        SECONDS,
        Kind.GAUGE,
        (*_OF_ONE, QUANTILE, BOUND),
        "From the request until the device acknowledged, by Kaplan and Meier, between two bounds; "
        "absent while not reached",
    ),
    Named(
        "fleet.manifest.handshake_latency",
        SECONDS,
        Kind.GAUGE,
        (*_OF_ONE, QUANTILE, BOUND),
        "From acceptance until the device held the deployment, in the same form",
    ),
    Named(
        "fleet.manifest.reached",
        RATIO,
        Kind.GAUGE,
        _OF_ONE,
        "Targeted devices that acknowledged, of all targeted ones",
    ),
    Named(
        "fleet.command.silent_failures",
        DEVICES,
        Kind.GAUGE,
        _OF_ONE,
        "Devices that were connected, were sent a deployment, and never took it",
    ),
    Named(
        "fleet.state_conflicts",
        COUNT,
        Kind.GAUGE,
        (),
        "Settings that device and operator have both set, neither knowing of the other",
    ),
    Named(
        "fleet.hub.events",
        COUNT,
        Kind.COUNTER,
        (WHAT,),
        "What the hub has counted since it started",
    ),
    Named(
        "fleet.hub.held",
        COUNT,
        Kind.GAUGE,
        (WHAT,),
        "What the hub holds in memory at the moment",
    ),
    Named(
        "fleet.hub.connected",
        RATIO,
        Kind.GAUGE,
        (),
        "1 while the hub is connected to its broker, 0 while it is not",
    ),
    Named(
        "fleet.hub.started",
        SECONDS,
        Kind.GAUGE,
        (SERVICE_VERSION,),
        "When the hub started, in seconds since 1970",
    ),
)

BY_NAME: Final[Mapping[str, Named]] = MappingProxyType({each.name: each for each in ALL})
