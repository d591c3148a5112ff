"""Which bytes of a file a request asks for.

Owns how `Range` and `If-Range` are read. Pure; RFC 9110, sections 13 and 14.
"""

import re
from typing import NamedTuple

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})-(\d{0,19})\s*\Z", re.IGNORECASE)


class Part(NamedTuple):
    """Bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int


class Unsatisfiable(ValueError):
    """The range begins behind the end of the file."""


def wanted(
    range_header: str | None, if_range: str | None, *, etag: str, length_bytes: int
) -> Part | None:
    """Return the part that is asked for, None for the whole file.

    Several ranges, and anything else that is not one range of bytes, ask for the whole file, as
    the standard allows. So does an `If-Range` that names another file, or a date.

    Raises:
        Unsatisfiable: It begins behind the end.
    """
    if range_header is None or (if_range is not None and if_range.strip() != etag):
        return None
    found = _RANGE.match(range_header)
    if found is None:
        return None
    first, last = found[1], found[2]
    if first:
        start = int(first)
        if last and int(last) < start:
            return None
        if start >= length_bytes:
            raise Unsatisfiable
        stop = min(int(last) + 1, length_bytes) if last else length_bytes
        return Part(start, stop)
    if not last:
        return None
    suffix_bytes = int(last)
    if suffix_bytes == 0 or length_bytes == 0:
        raise Unsatisfiable
    return Part(max(0, length_bytes - suffix_bytes), length_bytes)
