"""Whether a deployment made something slower, metric by metric.

Owns which comparison is made: each device against itself, those that took the release against those
that it was not meant for; and where there are no others, against the 95th percentile that was
frozen when the deployment was accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from hub.outcomes.normal_range import HOLD
from hub.outcomes.regression import P95, Change, judge_p95, judge_watched_p95
from hub.outcomes.verdicts import Judgement

METRICS_MAX_COUNT: Final = 20
"""Metrics that are looked at, each with so much less alpha that together they have `HOLD`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The 95th percentiles of one device, before a deployment and after."""

    device: str
    is_canary: bool
    """Whether it took the release; else it was not meant for it."""
    before: float | None
    """None if it had measured too little."""
    after: float | None
    """The same."""


def judge_slower(metrics: Mapping[str, Sequence[Watched]]) -> tuple[Judgement, ...]:
    """Return a judgement for each metric that was measured on devices that took the release.

    Each is made for one look; together they have `HOLD`, however many of them are measured in the
    end.

    Args:
        metrics: For each metric its devices, those that took the release in the order in which
            they did.
    """
    named = [
        name
        for name in sorted(metrics)
        if any(each.is_canary and each.after is not None for each in metrics[name])
    ]
    count = min(len(metrics), METRICS_MAX_COUNT)
    return tuple(_one(name, metrics[name], HOLD / count) for name in named[:METRICS_MAX_COUNT])


def _one(metric: str, devices: Sequence[Watched], alpha: float) -> Judgement:
    name = f"p95_{metric}"
    changes = [
        Change(device=each.device, is_canary=each.is_canary, before=each.before, after=each.after)
        for each in devices
        if each.before is not None and each.after is not None
    ]
    frozen = sorted(each.before for each in devices if each.before is not None)
    if any(not each.is_canary for each in changes) or not frozen:
        return judge_p95(changes, alpha=alpha, name=name)
    baseline = frozen[ceil(P95 * len(frozen)) - 1]
    after = [each.after for each in devices if each.is_canary and each.after is not None]
    judged = judge_watched_p95(after, baseline=baseline, alpha=alpha, name=name)
    return replace(judged, looked_at_count=len(after))
