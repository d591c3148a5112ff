"""What a device says of itself: class, labels, groups, the agent's version, the boot."""

import json
from collections.abc import Mapping
from importlib.metadata import version

from agent.settings import Settings
from sync import documents, records
from sync.records import Fact


def facts(settings: Settings, boot: bytes) -> dict[str, bytes]:
    """Return the facts as entries of the device's document."""
    told = {
        "class": settings.device_class,
        "labels": {**settings.labels, "class": settings.device_class},
        "groups": list(settings.groups),
        "agent": version("fieldfare"),
        "boot": boot.hex(),
    }
    return {
        documents.FACT + name: records.encode(
            Fact(json.dumps(value, separators=(",", ":"), sort_keys=True))
        )
        for name, value in told.items()
    }


def news(told: Mapping[str, bytes], known: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the facts that are not known yet: a restart alone writes nothing."""
    return {key: value for key, value in told.items() if known.get(key) != value}
