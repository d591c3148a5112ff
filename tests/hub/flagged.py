"""Flags and devices for tests of what the hub does with them."""

from typing import Any

from sync.documents import EXPOSURE
from sync.records import Exposure, encode
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core

METADATA = {
    "owner": "fleet-core",
    "cleanup": "FLEET-412",
    "expires": "2027-02-01",
    "lease_s": 86_400,
    "safe": "off",
    "hash": "flagd-fractional-v3",
    "guard": "execution-gap",
}


def definition(**changes: Any) -> dict[str, Any]:
    """Return a flag that nobody has yet, as a person writes it."""
    return {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "metadata": METADATA,
        **changes,
    }


def fleet(core: Core, count: int, *, first: int = 0) -> list[FleetDevice]:
    """Register devices `d00`, `d01` and so on."""
    devices = []
    for number in range(first, first + count):
        device = FleetDevice(f"d{number:02}", number)
        device.write(fact("site", "s7"), core.now.mono_s)
        core.connect(device)
        devices.append(device)
    return devices


def reads(core: Core, device: FleetDevice, flag: str, variant: str = "on", **said: Any) -> None:
    """Let a device tell that a flag was read there."""
    told = {"reader": "app@1.4.0", "variants_count": 1, "clock": 5, "reason": "SPLIT", **said}
    record = Exposure(
        boot=told.pop("boot", device.boot),
        boottime_ms=1000,
        wall_ms=core.now.ms,
        variant=variant,
        **told,
    )
    core.talk(device, device.write({EXPOSURE + flag: encode(record)}, core.now.mono_s))
