"""What a device says of itself, as far as deployments ask: its labels and its groups.

Owns how facts are read for that. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sync.documents import ID_PATTERN

GROUPS_FACT: Final = "groups"
LABELS_FACT: Final = "labels"

DEFAULT_GROUPS: Final = ("all",)
"""Groups of a device that names none."""

_UNREADABLE: Final = object()


def labels_of(facts: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a device, given its facts (JSON by name).

    Facts that are one text, number or truth value are labels; those in the fact `labels` prevail.
    """
    labels = {}
    for name, value in facts.items():
        text = _text(_read(value))
        if text is not None:
            labels[name] = text
    own = _read(facts.get(LABELS_FACT, "{}"))
    if isinstance(own, dict):
        labels.update((name, text) for name, value in own.items() if (text := _text(value)))
    return labels


def groups_of(facts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the groups of a device, given its facts."""
    named = _read(facts.get(GROUPS_FACT, "null"))
    if not isinstance(named, list):
        return DEFAULT_GROUPS
    return tuple(each for each in named if isinstance(each, str) and ID_PATTERN.match(each))


def plain(value: str | None) -> Any:
    """Return what a setting's or fact's JSON text stands for; the text itself if it is none."""
    if value is None:
        return None
    read = _read(value)
    return value if read is _UNREADABLE else read


def _read(value: str) -> object:
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _UNREADABLE


def _text(value: object) -> str | None:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case _:
            return None
