"""What a device says of itself: class, labels, groups, the agent's version, the boot."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final

from agent.settings import Settings
from sync import documents, records
from sync.records import Fact

AGENT_VERSION: Final = version("fieldfare")

DAMAGED: Final = "damaged"


def facts(settings: Settings, boot: bytes, damaged: Sequence[str]) -> dict[str, bytes]:
    """Return the facts as entries of the device's document.

    `damaged` names the databases that were put aside and that nobody has looked at yet.
    """
    told = {
        "class": settings.device_class,
        "labels": {**settings.labels, "class": settings.device_class},
        "groups": list(settings.groups),
        "agent": AGENT_VERSION,
        "boot": boot.hex(),
        DAMAGED: list(damaged),
    }
    return {
        documents.FACT + name: records.encode(
            Fact(json.dumps(value, separators=(",", ":"), sort_keys=True))
        )
        for name, value in told.items()
    }


def news(told: Mapping[str, bytes], known: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the facts that are not known yet: a restart alone writes nothing."""
    sound = documents.FACT + DAMAGED
    return {
        key: value
        for key, value in told.items()
        if known.get(key) != value and not (key == sound and key not in known and value == _NONE)
    }


_NONE: Final = records.encode(Fact("[]"))
"""Nothing is damaged: not worth saying unless something was."""
