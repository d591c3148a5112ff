"""Versions as flags compare them: Semantic Versioning 2.0.0 to the letter, as flagd asks for.

Owns that order only. The floor below which a device does not go has a wider one (`sync.versions`),
for versions that were not made by these rules.
"""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

_VERSION: Final = re.compile(
    r"[vV]?(0|[1-9]\d{0,17})(?:\.(0|[1-9]\d{0,17}))?(?:\.(0|[1-9]\d{0,17}))?"
    r"(?:-((?:0|[1-9]\d{0,17}|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9]\d{0,17}|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)

Core = tuple[int, int, int]
Version = tuple[Core, bool, tuple[tuple[bool, int, str], ...]]
"""Major, minor, patch; whether it is final; the parts of its pre-release, in comparable form."""

CHARACTERS_MAX: Final = 100


def parse_version(text: str) -> Version | None:
    """Return the version that `text` is, None if it is none. `v1` and `1.2` are filled up."""
    found = _VERSION.fullmatch(text) if len(text) <= CHARACTERS_MAX else None
    if found is None:
        return None
    major, minor, patch, before = found.groups()
    core = (int(major), int(minor or 0), int(patch or 0))
    parts = before.split(".") if before else []
    return core, not before, tuple(_part(each) for each in parts)


def compare(left: str, relation: str, right: str) -> bool | None:
    """Tell whether `left` stands in that relation to `right`; None if one is no version.

    `relation` is one of `OPERATORS`.
    """
    one, other = parse_version(left), parse_version(right)
    if one is None or other is None:
        return None
    return _RELATIONS[relation](one, other)


def _part(text: str) -> tuple[bool, int, str]:
    return (False, int(text), "") if text.isdecimal() else (True, 0, text)


_RELATIONS: Final[Mapping[str, Callable[[Version, Version], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "^": lambda one, other: one[0][0] == other[0][0],
    "~": lambda one, other: one[0][:2] == other[0][:2],
}

OPERATORS: Final = tuple(_RELATIONS)
