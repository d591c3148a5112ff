"""Which of two versions is older.

Owns one order, for the floor below which a device does not go. Nothing else compares versions: what
is deployed is a digest, and `requires` names versions as they are written.

The order is that of Semantic Versioning 2.0.0 (section 11), for versions of any number of parts:
numbers between dots by their value, `-` or `~` begins a pre-release, which is older than the
version itself, and what follows a `+` does not count. Parts that are no numbers come after numbers,
by their characters; runs of digits within them count as numbers, so `rc10` comes after `rc9`.
"""

import re
from itertools import zip_longest
from typing import Final

_PART: Final = re.compile(r"\d+|\D+")

Key = tuple[tuple[int, int, str], ...]


def is_older(version: str, than: str) -> bool:
    """Tell whether `version` comes before `than`."""
    return _order(version, than) < 0


def _order(one: str, other: str) -> int:
    (core_one, pre_one), (core_other, pre_other) = _split(one), _split(other)
    order = _compare(core_one, core_other)
    if order:
        return order
    if not (pre_one and pre_other):
        return bool(pre_other) - bool(pre_one)  # only what has none is the version itself
    return _compare(pre_one, pre_other)


def _split(version: str) -> tuple[str, str]:
    found = re.split(r"[-~]", version.partition("+")[0], maxsplit=1)
    return found[0], found[1] if len(found) > 1 else ""


def _compare(one: str, other: str) -> int:
    for left, right in zip_longest(one.split("."), other.split("."), fillvalue="0"):
        keys = _key(left), _key(right)
        if keys[0] != keys[1]:
            return -1 if keys[0] < keys[1] else 1
    return 0


def _key(part: str) -> Key:
    return tuple(
        (0, int(each), "") if each.isdecimal() else (1, 0, each) for each in _PART.findall(part)
    )
