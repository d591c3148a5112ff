"""Client ids: who wrote an operation, never used twice.

Owns their arithmetic. The counter is kept by the stores, which make it durable before the first
write under a new id; the low bits are random, so that two cards cloned from one image, or one card
rolled back, do not write under one id. Ids of one writer grow, so no later write can be forged as
an earlier one's parent (`sync.gate`).
"""

from collections.abc import Iterable

from sync.documents import HUB_CLIENT_ID_MIN, Side

RANDOM_BITS = 16

COUNTER_MAX = 2**24 - 1
"""Sixteen million starts: one every ten seconds for five years."""


def client_id(side: Side, counter: int, random_bits: int) -> int:
    """Return the id of start number `counter` (1 to `COUNTER_MAX`) of a `side`.

    Raises:
        ValueError: A number is out of range; the caller is to blame.
    """
    if not 0 < counter <= COUNTER_MAX or not 0 <= random_bits < 2**RANDOM_BITS:
        raise ValueError(f"no client id for counter {counter} with random part {random_bits}")
    base = HUB_CLIENT_ID_MIN if side is Side.HUB else 0
    return base + (counter << RANDOM_BITS | random_bits)


def counter_of(client: int) -> int:
    """Return the start counter inside a client id."""
    return (client % HUB_CLIENT_ID_MIN) >> RANDOM_BITS


COUNTER_LEAP_MAX = 256
"""How far ahead a counter seen elsewhere may be. Skipping the starts that a rolled back disk forgot
makes a collision of ids less likely still; believing any number would let one lie use up them all.
"""


def counter_after(counter: int, *seen: Iterable[int]) -> int:
    """Return the next counter, beyond `counter` and beyond every client id in `seen`.

    Ids of absurdly later starts are passed over.
    """
    counters = (counter_of(client) for clients in seen for client in clients)
    near = (other for other in counters if other <= counter + COUNTER_LEAP_MAX)
    return max(counter, *near, 0) + 1
