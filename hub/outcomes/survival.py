"""How long a thing takes over many devices, when some have not got there and some never will.

Owns the Kaplan-Meier estimator and the band around it that uncertain clocks leave. Never knows what
is being timed.

Source: Kaplan and Meier, "Nonparametric estimation from incomplete observations", Journal of the
American Statistical Association 53 (1958), 457-481. A span that can no longer end is followed for
ever, so one minus the curve is the share of all that got there (cumulative incidence), not of those
that could.

The band: the estimator depends only on the order of ends and of spans that were lost sight of. To
move one end past the loss of another span lowers the curve after both; to swap two ends changes
nothing. So at each moment the curve is lowest when every end that may lie before it lies as late
before it as it can and losses lie early, and highest when every end that must lie before it lies
as early as it can and losses lie late.
Computing the estimator on all lower and on all upper bounds would miss such cases.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hub.outcomes.durations import Span, State

_ROUNDING = 1e-9
"""Far below one device in any fleet, far above what a product of fractions is off by."""


@dataclass(frozen=True, slots=True)
class Step:
    """From `at_ms` on, `share` of the spans have not ended."""

    at_ms: int
    share: float


@dataclass(frozen=True, slots=True)
class Quantile:
    """The time after which a share of the spans have ended, in milliseconds.

    Both bounds None: not reached. Only `hi_ms` None: reached only if the clocks say so at their
    kindest.
    """

    ratio: float
    lo_ms: int | None
    hi_ms: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of how long something takes."""

    count: int
    ended_count: int
    ended_ratio: float | None
    """Ended of all; None if there are none."""
    p50: Quantile
    p95: Quantile


def kaplan_meier(ended_ms: Sequence[int], followed_ms: Sequence[int | None]) -> list[Step]:
    """Return the share not yet ended as a falling curve that starts at one.

    Args:
        ended_ms: How long each span took that ended.
        followed_ms: For how long each of the others was followed; None for ever. A span that was
            lost sight of at the moment of another's end was still there at that moment.
    """
    followed = sorted(at_ms for at_ms in followed_ms if at_ms is not None)
    ends = sorted(ended_ms)
    share = 1.0
    steps: list[Step] = []
    position = 0
    while position < len(ends):
        at_ms = ends[position]
        here = position
        while position < len(ends) and ends[position] == at_ms:
            position += 1
        lost_count = bisect_left(followed, at_ms)
        at_risk_count = len(ends) - here + len(followed_ms) - lost_count
        share *= 1 - (position - here) / at_risk_count
        steps.append(Step(at_ms, share))
    return steps


def share_at(steps: Sequence[Step], at_ms: int) -> float:
    """Return the share not yet ended at a moment of the curve."""
    past = bisect_left(steps, at_ms + 1, key=lambda step: step.at_ms)
    return steps[past - 1].share if past else 1.0


def lowest_share(spans: Sequence[Span], at_ms: int) -> float:
    """Return the least that the share not yet ended can be at `at_ms`, wherever the ends lie."""
    ended: list[int] = []
    followed = _losses(spans, late=False)
    for lo_ms, hi_ms in _ends(spans):
        if lo_ms <= at_ms:
            ended.append(at_ms if hi_ms is None else min(hi_ms, at_ms))
        else:
            followed.append(None)
    return share_at(kaplan_meier(ended, followed), at_ms)


def highest_share(spans: Sequence[Span], at_ms: int) -> float:
    """Return the most that the share not yet ended can be at `at_ms`, wherever the ends lie."""
    ended: list[int] = []
    followed = _losses(spans, late=True)
    for lo_ms, hi_ms in _ends(spans):
        if hi_ms is not None and hi_ms <= at_ms:
            ended.append(lo_ms)
        else:
            followed.append(None)
    return share_at(kaplan_meier(ended, followed), at_ms)


def quantile(spans: Sequence[Span], ratio: float) -> Quantile:
    """Return the earliest and the latest time after which `ratio` of the spans may have ended."""
    return Quantile(
        ratio,
        _first_at_most(1 - ratio, spans, lowest_share),
        _first_at_most(1 - ratio, spans, highest_share),
    )


def summary(spans: Sequence[Span]) -> Summary:
    """Return the count, the share that ended, and the median and 95th percentile."""
    ended_count = sum(span.state is State.ENDED for span in spans)
    return Summary(
        count=len(spans),
        ended_count=ended_count,
        ended_ratio=ended_count / len(spans) if spans else None,
        p50=quantile(spans, 0.5),
        p95=quantile(spans, 0.95),
    )


def _first_at_most(
    share: float, spans: Sequence[Span], bound: Callable[[Sequence[Span], int], float]
) -> int | None:
    # A bound changes only where an end may begin or must be over, and just after a span was lost.
    turns = {at_ms for lo_ms, hi_ms in _ends(spans) for at_ms in (lo_ms, hi_ms)}
    for late in (False, True):
        turns |= {at_ms + 1 for at_ms in _losses(spans, late=late) if at_ms is not None}
    moments_ms = sorted(at_ms for at_ms in turns if at_ms is not None)
    position = bisect_left(
        moments_ms, 1, key=lambda at_ms: int(bound(spans, at_ms) <= share + _ROUNDING)
    )
    return moments_ms[position] if position < len(moments_ms) else None


def _ends(spans: Sequence[Span]) -> list[tuple[int, int | None]]:
    return [
        (max(0, span.took.lo_ms or 0), span.took.hi_ms)
        for span in spans
        if span.state is State.ENDED
    ]


def _losses(spans: Sequence[Span], *, late: bool) -> list[int | None]:
    """Return when each span that did not end was lost sight of, None for never."""
    losses: list[int | None] = []
    for span in spans:
        if span.state is State.NEVER:
            losses.append(None)
        elif span.state is not State.ENDED:
            lo_ms, hi_ms = span.took.lo_ms or 0, span.took.hi_ms
            losses.append(hi_ms if late and hi_ms is not None else lo_ms)
    return losses
