"""Durations and counts as people read them.

Owns their spelling, one for the command line, pages and sentences alike.
"""

from datetime import UTC, datetime

from hub.outcomes.survival import Quantile
from sync.stages import explain
from sync.stamps import Interval

_NEAR_PERCENT = 3
"""This near to none or all of them, a whole per cent is too coarse."""

# Up to which value a unit is used, its length, its name and how many decimals it shows.
_UNITS: tuple[tuple[float, int, str, int], ...] = (
    (1_000, 1, "ms", 0),
    (120_000, 1_000, "s", 1),
    (120 * 60_000, 60_000, "min", 1),
    (48 * 3_600_000, 3_600_000, "h", 1),
    (float("inf"), 86_400_000, "d", 1),
)


def duration(span_ms: int) -> str:
    """Return a duration in the unit that suits it: `740 ms`, `41 s`, `3.5 min`."""
    number, unit = _in_unit(span_ms, span_ms)
    return f"{number} {unit}"


def between(held: Interval) -> str:
    """Return an interval as `12.3-14.1 s` with an en dash; `at least 41 s` where it is open."""
    if held.lo_ms is not None and held.hi_ms is not None:
        low, unit = _in_unit(held.lo_ms, held.hi_ms)
        high, _ = _in_unit(held.hi_ms, held.hi_ms)
        return f"{high} {unit}" if low == high else f"{low}\N{EN DASH}{high} {unit}"
    if held.lo_ms is not None:
        return f"at least {duration(held.lo_ms)}"
    if held.hi_ms is not None:
        return f"at most {duration(held.hi_ms)}"
    return "unknown"


def quantile(held: Quantile) -> str:
    """Return a quantile as an interval, or `not reached`."""
    if held.lo_ms is None:
        return "not reached"
    return between(Interval(held.lo_ms, held.hi_ms))


def share(ratio: float) -> str:
    """Return a share as `94 %`; with a decimal where it lies near none or all."""
    percent = ratio * 100
    near = 0 < percent < _NEAR_PERCENT or 100 - _NEAR_PERCENT < percent < 100  # noqa: PLR2004
    return f"{percent:.1f} %" if near else f"{percent:.0f} %"


def moment(at_ms: int) -> str:
    """Return a moment as `2026-06-03 22:00 UTC`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def devices(count: int) -> str:
    """Return `1 device`, `2 devices`."""
    return f"{count} device" if count == 1 else f"{count} devices"


def because(reason: str) -> str:
    """Return the sentence for a reason code as a clause: no capital, no full stop."""
    sentence = explain(reason).removesuffix(".")
    return sentence[:1].lower() + sentence[1:]


def _in_unit(value_ms: int, largest_ms: int) -> tuple[str, str]:
    for limit_ms, length_ms, unit, decimals in _UNITS:
        if abs(largest_ms) < limit_ms:
            return f"{value_ms / length_ms:.{decimals}f}".removesuffix(".0"), unit
    raise AssertionError("the last unit has no limit")
