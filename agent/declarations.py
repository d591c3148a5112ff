"""What can be said of each setting of the agent: for its command line and its reference page.

Owns the words for defaults, units and limits. What a setting is, is declared in `agent.settings`.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from agent.settings import ENV_PREFIX, Settings

UNITS: Final = {
    "_bytes_per_s": "bytes a second",
    "_s": "seconds",
    "_ms": "milliseconds",
    "_bytes": "bytes",
    "_bytes_max": "bytes",
    "_max": "count",
    "_ratio": "ratio",
}
"""What the end of a name says of its unit; the first that fits counts."""

WORDS: Final = {
    "device": "1 to 63 of `a-z`, `0-9`, `-`",
    "hub_url": "`http` or `https`, at most 500 characters",
    "groups": "at most 32 names",
    "device_class": "1 to 63 of letters, digits, `.`, `_`, `-`",
    "labels": "at most 32, together 1000 characters as JSON",
    "floors": "at most 50, as JSON in a variable",
    "reboot_command": "1 to 20 words",
    "installers": "at most 50 tables of 50 options each, as JSON in a variable",
    "metered_interfaces": "at most 32 names",
    "neighbour_urls": "at most 16, each `http` or `https`",
    "media_dirs": "at most 16 folders",
    "time_zone": "an IANA name",
    "maintenance_windows": "at most 16, see [Waiting](../explanation/waiting.md)",
    "local_socket": "at most 107 bytes",
    "measure_services": "at most 16 units",
    "measure_databases": "at most 8, as JSON in a variable",
    "local_allowed_uids": "at most 64 user numbers",
}
"""Limits that are checked by more than a range."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """One setting."""

    name: str
    environment: str
    default: Any
    """As JSON has it; None if there is none."""
    required: bool
    unit: str
    """Empty where there is nothing to measure."""
    limits: str
    meaning: str


def declarations() -> list[Declaration]:
    """Return all settings, in the order of their declaration."""
    return [
        Declaration(
            name,
            ENV_PREFIX + name.upper(),
            None if field.is_required() else json.loads(json.dumps(field.default, default=str)),
            field.is_required(),
            _unit(name, field),
            _limits(name, field),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _unit(name: str, field: FieldInfo) -> str:
    if field.annotation not in (int, float):
        return ""
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")


def _limits(name: str, field: FieldInfo) -> str:
    if name in WORDS:
        return WORDS[name]
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    words = []
    for limit in field.metadata:
        for attribute, word in (("gt", "above"), ("ge", "from"), ("le", "to")):
            bound = getattr(limit, attribute, None)
            if bound is not None:
                words.append(f"{word} {bound:g}" if abs(bound) < 10**6 else f"{word} {bound}")
    return " ".join(words)
