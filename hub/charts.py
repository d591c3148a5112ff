"""Charts of one deployment as inline SVG: where devices stand, how far they came, how long it took.

Owns the drawing. Colours are classes, so that the page decides them for light and dark. Never
counts anything: figures come from `hub.outcomes`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from hub.outcomes import words
from hub.outcomes.durations import Span, State
from hub.outcomes.funnel import Funnel
from hub.outcomes.report import DeploymentReport, DeviceOutcome
from hub.outcomes.silence import Verdict
from sync.stages import LADDER, Clock, Stage, clock_of
from sync.stamps import Interval

WIDTH: Final = 860
LABEL_WIDTH: Final = 150
VALUE_WIDTH: Final = 150
ROW_HEIGHT: Final = 26
BAR_HEIGHT: Final = 14
MARK_WIDTH_MIN: Final = 2.5
"""Narrowest mark of an interval, so that one that is known to the millisecond can be seen."""

ROWS_MAX: Final = 60
"""Most devices that the chart of durations draws."""

LOG_RATIO: Final = 200
"""From this ratio of the longest to the shortest duration on, the axis is logarithmic."""

TICKS_MS: Final = tuple(
    count * unit_ms
    for unit_ms, counts in (
        (1_000, (1, 2, 5, 10, 20, 30)),
        (60_000, (1, 2, 5, 10, 20, 30)),
        (3_600_000, (1, 2, 6, 12)),
        (86_400_000, (1, 2, 7, 14, 30, 90)),
    )
    for count in counts
)
TICKS_MAX: Final = 9


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a duration lies on the drawing."""

    longest_ms: float
    shortest_ms: float
    """Zero for a linear axis."""
    width: float

    def at(self, span_ms: float) -> float:
        """Return the distance from the left end."""
        held_ms = min(max(0.0, span_ms), self.longest_ms)
        if not self.shortest_ms:
            return held_ms / self.longest_ms * self.width
        if held_ms <= self.shortest_ms:
            return 0.0
        reach = math.log(self.longest_ms / self.shortest_ms)
        return math.log(held_ms / self.shortest_ms) / reach * self.width

    def ticks_ms(self) -> list[int]:
        """Return where the axis is labelled."""
        inside = [each for each in TICKS_MS if self.shortest_ms <= each <= self.longest_ms]
        if self.shortest_ms:
            return inside[:: max(1, math.ceil(len(inside) / TICKS_MAX))]
        steps = [each for each in TICKS_MS if self.longest_ms / each <= TICKS_MAX]
        if not steps:
            return inside[-TICKS_MAX:]
        return list(range(0, int(self.longest_ms) + 1, steps[0]))


def verdict_bar(verdicts: Mapping[Verdict, int]) -> str:
    """Return one bar with a part for each verdict that any device has."""
    total = sum(verdicts.values())
    if not total:
        return ""
    parts, x = [], 0.0
    for verdict, count in verdicts.items():
        if count:
            width = WIDTH * count / total
            name = verdict.value.replace("_", " ")
            parts.append(
                f'<rect class="v-{verdict.value}" x="{x:.1f}" y="0" width="{width - 2:.1f}" '
                f'height="22" rx="3"><title>{count} {name}</title></rect>'
                f'<text class="on" x="{x + width / 2 - 1:.1f}" y="15.5" '
                f'text-anchor="middle">{count}</text>'
            )
            x += width
    return _svg(22, parts, "Devices by verdict", kind="bar")


def funnel_chart(funnel: Funnel) -> str:
    """Return a bar for each rung; `broker_acked`, which proves nothing, is hatched."""
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    parts = []
    for row, stage in enumerate(LADDER):
        count = funnel.reached_count[stage]
        ratio = count / funnel.targeted_count if funnel.targeted_count else 0.0
        y = row * ROW_HEIGHT
        kind = "hatch" if stage is Stage.BROKER_ACKED else f"c-{clock_of(stage).value}"
        clock = "hub" if clock_of(stage) is Clock.HUB else "device"
        parts.append(
            f'<text class="label" x="0" y="{y + 15}">{stage.value.replace("_", " ")}</text>'
            f'<rect class="ground" x="{LABEL_WIDTH}" y="{y + 4}" width="{room}" '
            f'height="{BAR_HEIGHT}" rx="3"/>'
            f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{y + 4}" width="{room * ratio:.1f}" '
            f'height="{BAR_HEIGHT}" rx="3"/>'
            f'<text class="value" x="{LABEL_WIDTH + room + 10}" y="{y + 15}">'
            f'{count} of {funnel.targeted_count} <tspan class="dim">{clock}</tspan></text>'
        )
    return _svg(len(LADDER) * ROW_HEIGHT, parts, "Stage funnel")


def gap_chart(report: DeploymentReport) -> str:
    """Return a row for each device: its Execution Gap, and when it reached each stage.

    Marks are as wide as the clocks leave it open. A bar that fades has not ended.
    """
    drawn = [each for each in report.devices if each.execution_gap is not None][:ROWS_MAX]
    if not drawn:
        return ""
    axis = _axis_for(drawn, WIDTH - LABEL_WIDTH - VALUE_WIDTH)
    height = len(drawn) * ROW_HEIGHT
    parts = [
        f'<line class="grid" x1="{LABEL_WIDTH + axis.at(tick):.1f}" y1="0" '
        f'x2="{LABEL_WIDTH + axis.at(tick):.1f}" y2="{height}"/>'
        f'<text class="dim" x="{LABEL_WIDTH + axis.at(tick):.1f}" y="{height + 14}" '
        f'text-anchor="middle">{words.duration(tick) if tick else "0"}</text>'
        for tick in axis.ticks_ms()
    ]
    for row, each in enumerate(drawn):
        parts.append(_gap_row(each, row * ROW_HEIGHT, axis))
    return _svg(height + 20, parts, "Execution Gap of each device")


def _gap_row(each: DeviceOutcome, y: int, axis: Axis) -> str:
    gap = each.execution_gap
    if gap is None:
        return ""
    lo_ms, hi_ms = gap.took.lo_ms or 0, gap.took.hi_ms
    is_open = gap.state is State.OPEN
    end_ms = axis.longest_ms if is_open or hi_ms is None else hi_ms
    if gap.state is State.NEVER:
        end_ms = lo_ms
    kind = f"v-{each.finding.verdict.value}"
    parts = [
        (
            f'<text class="label" x="0" y="{y + 15}">{escape(each.device[:20])}</text>'
            f'<rect class="{kind} soft" x="{LABEL_WIDTH}" y="{y + 4}" '
            f'width="{axis.at(min(lo_ms, end_ms)):.1f}" height="{BAR_HEIGHT}" rx="3"/>'
        )
    ]
    if is_open:
        parts.append(
            f'<rect class="{kind} still" x="{LABEL_WIDTH + axis.at(lo_ms):.1f}" y="{y + 4}" '
            f'width="{max(12.0, axis.width + 12 - axis.at(lo_ms)):.1f}" height="{BAR_HEIGHT}"/>'
        )
    asked = each.moments.get(Stage.REQUESTED)
    for stage, moment in each.moments.items():
        if clock_of(stage) is Clock.DEVICE and asked is not None:
            parts.append(_mark(stage, moment.minus(asked), kind, y, axis))
    told = _told(gap)
    parts.append(
        f'<text class="value" x="{LABEL_WIDTH + axis.width + 16}" y="{y + 15}">{told}</text>'
    )
    return "".join(parts)


def _mark(stage: Stage, after: Interval, kind: str, y: int, axis: Axis) -> str:
    lo_ms = after.lo_ms if after.lo_ms is not None else 0
    hi_ms = after.hi_ms if after.hi_ms is not None else axis.longest_ms
    x = axis.at(lo_ms)
    width = max(MARK_WIDTH_MIN, axis.at(hi_ms) - x)
    return (
        f'<rect class="{kind} mark" x="{LABEL_WIDTH + x:.1f}" y="{y + 1}" width="{width:.1f}" '
        f'height="{BAR_HEIGHT + 6}" rx="1"><title>{stage.value}: {words.between(after)} '
        "after the request</title></rect>"
    )


def _told(gap: Span) -> str:
    text = words.between(gap.took)
    if gap.state is State.NEVER:
        return f"never ({text})"
    return text


def _axis_for(drawn: Sequence[DeviceOutcome], width: float) -> Axis:
    bounds_ms = [
        float(bound_ms)
        for each in drawn
        if each.execution_gap is not None
        for bound_ms in (each.execution_gap.took.lo_ms, each.execution_gap.took.hi_ms)
        if bound_ms
    ]
    longest_ms = max(bounds_ms, default=1_000.0) * 1.02
    shortest_ms = min(bounds_ms, default=0.0)
    if longest_ms > LOG_RATIO * shortest_ms > 0:
        return Axis(longest_ms, max(1_000.0, shortest_ms / 2), width)
    return Axis(longest_ms, 0.0, width)


def _svg(height: int, parts: Sequence[str], title: str, *, kind: str = "chart") -> str:
    return (
        f'<div class="{kind}"><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">' + "".join(parts) + "</svg></div>"
    )
