"""The one way to write what a flag is bucketed by as bytes: CBOR (RFC 8949), core deterministic.

Owns the few types that can name a bucket: text, whole numbers, truth values and lists of these.
Others are refused, so that no two programs can disagree on how they are written.
"""

from collections.abc import Sequence
from typing import Final

DEPTH_MAX: Final = 4
"""Lists within lists; a bucket is named by one list of texts."""

_TEXT: Final = 3
_LIST: Final = 4
_LENGTHS: Final = ((24, 1), (25, 2), (26, 4), (27, 8))


class NoBytes(ValueError):
    """A value has no agreed form as bytes; whoever chose it is to blame."""


def canonical(value: object, depth: int = 0) -> bytes:
    """Return the bytes of `value`. A number such as 7.0 is written as 7.

    Raises:
        NoBytes: It is, or holds, something else than text, whole numbers, truth values and lists.
    """
    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case float() if value.is_integer():
            return canonical(int(value))
        case int() if 0 <= value < 2**64:
            return _head(0, value)
        case int() if -(2**63) <= value < 0:
            return _head(1, -1 - value)
        case str():
            try:
                text = value.encode()
            except UnicodeEncodeError:
                raise NoBytes("half a character has no bytes") from None
            return _head(_TEXT, len(text)) + text
        case list() | tuple() if depth < DEPTH_MAX:
            return _list(value, depth)
        case _:
            raise NoBytes(
                f"{str(value)[:60]!r} cannot name a bucket: use text, a whole number or a list"
            )


def _list(value: Sequence[object], depth: int) -> bytes:
    return _head(_LIST, len(value)) + b"".join(canonical(each, depth + 1) for each in value)


def _head(major: int, number: int) -> bytes:
    if number < _LENGTHS[0][0]:
        return bytes([major << 5 | number])
    for code, width in _LENGTHS:
        if number < 1 << 8 * width:
            return bytes([major << 5 | code]) + number.to_bytes(width, "big")
    raise NoBytes("a number beyond 64 bits cannot name a bucket")
