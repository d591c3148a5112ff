"""How many devices a share is, and the weights that deal a flag to exactly so many.

Owns that arithmetic. Pure: who the devices are, and what becomes of the weights, is `hub.flags`'.

flagd's `fractional` deals a device into bucket `(hash * total) >> 32`, so a plain 5 of 100 deals to
about a twentieth: of ten devices, to nobody in six fleets of ten. The hub knows its devices, so it
sorts their buckets, with the largest total there is, and puts the weight right above the last
device that shall be in. A larger weight holds the devices of every smaller one.
"""

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Final, NamedTuple

from sync.targeting import WEIGHT_TOTAL_MAX, bucket

TOTAL: Final = WEIGHT_TOTAL_MAX
"""Of all weights together: two hashes share a bucket at most."""


class Dealt(NamedTuple):
    """A weight, and whom it deals to."""

    weight: int
    """From 0, nobody, to `TOTAL`, everybody, also who comes later."""
    devices: tuple[str, ...]
    """Who is in of those that were asked about, in the order in which they come in."""


def size(share: float, eligible_count: int, at_least: int = 1) -> int:
    """Return how many devices a share of them is: rounded up, and `at_least` if there are so many.

    Args:
        share: From 0, which is nobody whatever `at_least` says, to 1.
        eligible_count: Devices to choose among.
        at_least: Devices that a share above 0 means at least.
    """
    if share <= 0:
        return 0
    # As it was written: 0.07 of 100 is 7, and not 7.000000000000001, which would be rounded up.
    exact = math.ceil(Fraction(repr(share)) * eligible_count)
    return min(eligible_count, max(exact, at_least))


def deal(flag: str, devices: Iterable[str], count: int, *, least_weight: int = 0) -> Dealt:
    """Return the weight with which exactly `count` of `devices` are in.

    More are if devices lie in one bucket, which happens in one fleet of 40 at 10,000 devices; or if
    `least_weight`, which those that are in already have, deals to more.
    """
    placed = _placed(flag, devices)
    weight = placed[count - 1][0] + 1 if count else 0
    return _within(placed, max(weight, least_weight))


def dealt(flag: str, devices: Iterable[str], weight: int) -> Dealt:
    """Return whom of `devices` a weight deals to."""
    return _within(_placed(flag, devices), weight)


def rule(variant: str, rest: str, weight: int) -> dict[str, Any]:
    """Return the targeting that deals `variant` out by `weight`, and `rest` to everybody else."""
    return {"fractional": [[variant, weight], [rest, TOTAL - weight]]}


def weight_in(targeting: object) -> tuple[str, int] | None:
    """Return (variant, weight) if a targeting is one of `rule`, else None: a person wrote it."""
    match targeting:
        case {"fractional": [[str(variant), int(weight)], [str(), int(rest)]]}:
            return (variant, weight) if weight + rest == TOTAL else None
    return None


def _placed(flag: str, devices: Iterable[str]) -> list[tuple[int, str]]:
    return sorted((bucket(flag, device, TOTAL), device) for device in devices)


def _within(placed: list[tuple[int, str]], weight: int) -> Dealt:
    return Dealt(weight, tuple(device for place, device in placed if place < weight))
