"""Adoption: how many devices run the latest version of a component, proven by passed health.

Owns the counts. Never counts what was installed, only what a start that passed its health check
was observed to run; and never lets the denominator drift unseen: registered, active and targeted
devices are three counts, and devices gone dark are shown beside them, not inside.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ACTIVE_WINDOW_MS = 7 * 24 * 3600 * 1000
"""A device that was heard of within a week is active: long enough for a site that is switched off
over a weekend and a holiday."""

UNPROVEN = ""
"""Key in the version mix for active devices of which no healthy start is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceVersion:
    """What one registered device runs of one component, by its own document."""

    device: str
    last_uplink_at_ms: int | None
    """Hub UTC of the last frame from it; None if there never was one."""
    version: str | None = None
    """Version that its record of what runs names; None if it has none."""
    healthy: bool = False
    """Whether that start passed its health check."""
    targeted: bool = False
    """Whether a deployment of the latest version has it on its frozen list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """Counts of devices."""

    component: str
    version: str
    """The latest version, which the counts are about."""
    registered_count: int
    active_count: int
    targeted_count: int
    proven_count: int
    """Active devices that run it, proven."""
    adopted_ratio: float | None
    """Proven of active; None if none is active."""
    unproven_count: int
    """Active devices that run it and have not passed a health check in this start."""
    dark_proven_count: int
    """Devices gone dark that ran it, proven, when they were last heard of."""
    mix: Mapping[str, int]
    """Active devices by the version proven to run, most first; `""` for none."""
    dark: tuple[str, ...]
    """Registered devices that were not heard of within the window, or never."""


def adoption(
    devices: Iterable[DeviceVersion],
    *,
    component: str,
    version: str,
    now_ms: int,
    window_ms: int = ACTIVE_WINDOW_MS,
) -> Adoption:
    """Return how far `version` of `component` has come among `devices`, all that are registered."""
    registered = list(devices)
    active = [device for device in registered if _is_active(device, now_ms, window_ms)]
    names = {device.device for device in active}
    dark = [device for device in registered if device.device not in names]
    mix = Counter(_proven_version(device) for device in active)
    return Adoption(
        component=component,
        version=version,
        registered_count=len(registered),
        active_count=len(active),
        targeted_count=sum(device.targeted for device in registered),
        proven_count=mix[version],
        adopted_ratio=mix[version] / len(active) if active else None,
        unproven_count=sum(device.version == version and not device.healthy for device in active),
        dark_proven_count=sum(_proven_version(device) == version for device in dark),
        mix=dict(sorted(mix.items(), key=lambda each: (-each[1], each[0]))),
        dark=tuple(sorted(device.device for device in dark)),
    )


def _is_active(device: DeviceVersion, now_ms: int, window_ms: int) -> bool:
    return device.last_uplink_at_ms is not None and now_ms - device.last_uplink_at_ms <= window_ms


def _proven_version(device: DeviceVersion) -> str:
    return device.version if device.healthy and device.version else UNPROVEN
