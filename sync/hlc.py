"""Hybrid logical clock: one integer that orders writes of both sides and never goes back.

Owns the arithmetic. Never reads a clock, and never measures: it says which write came later as far
as the writers could know, not when.

Source: Kulkarni, Demirbas et al., "Logical Physical Clocks and Consistent Snapshots in Globally
Distributed Databases" (2014). Packed as milliseconds shifted by 16 bits, or-ed with a counter.
"""

import msgspec

COUNTER_BITS = 16

SKEW_MAX_MS = 24 * 3600 * 1000
"""A remote clock further ahead than this is ignored: one device with a clock in 2038 must not drag
every later write of the fleet there."""


TIME_MAX_MS = 2**46
"""No clock is believed to be later, in the year 4199: half of a 64-bit integer stays for counting,
so that neither a lie nor a broken clock can bring a device to where it cannot count any further."""


def tick(last: int, now_ms: int) -> int:
    """Return the clock of a local write, later than `last` and close to `now_ms` (UTC)."""
    return max(last + 1, min(now_ms, TIME_MAX_MS) << COUNTER_BITS)


def hear(last: int, remote: int) -> int:
    """Return the clock after reading a write of the one whom we follow, whatever our clock says.

    For a device, which may have woken up in 1970. A clock beyond `TIME_MAX_MS` is a lie and leaves
    `last` as it was.
    """
    return max(last, remote) if remote <= TIME_MAX_MS << COUNTER_BITS else last


def observe(last: int, remote: int, now_ms: int) -> int:
    """Return the clock after reading a write stamped `remote`.

    A remote clock more than a day ahead of `now_ms` leaves `last` as it was.
    """
    if remote > (now_ms + SKEW_MAX_MS) << COUNTER_BITS:
        return last
    return max(last, remote)


def newer_of(own: bytes, theirs: bytes) -> bytes:
    """Return the record with the later clock; both carry it as their first field.

    A record that cannot be read loses; with equal clocks the larger bytes win, so that the answer
    does not depend on who asks.
    """
    return max(own, theirs, key=lambda record: (_clock_of(record), record))


def _clock_of(record: bytes) -> int:
    try:
        fields = msgspec.msgpack.decode(record)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return -1
    if isinstance(fields, list) and fields and isinstance(fields[0], int):
        return fields[0]
    return -1
