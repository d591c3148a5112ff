"""The outcome of one deployment as one HTML file that can be sent to somebody.

Owns the page: one sentence, the counts, three charts, a row for each device. Needs no network, no
script and no other file. Never counts anything: figures come from `hub.outcomes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

from hub.charts import ROWS_MAX, funnel_chart, gap_chart, verdict_bar
from hub.outcomes import words
from hub.outcomes.durations import Span, State
from hub.outcomes.report import DeploymentReport, DeviceOutcome, sentence
from hub.outcomes.silence import Verdict
from hub.outcomes.survival import Summary
from sync.stages import Stage

DEVICES_MAX: Final = 1_000
"""Most devices that the page lists; the worst come first."""

# Worst first: whoever opens the page wants to know what to do.
_URGENCY: Final = (
    Verdict.SILENT,
    Verdict.FELL_BACK,
    Verdict.FAILED,
    Verdict.ROLLED_BACK,
    Verdict.UNREACHABLE,
    Verdict.EXPIRED,
    Verdict.DEFERRED,
    Verdict.IN_PROGRESS,
    Verdict.TOO_EARLY,
    Verdict.SUPERSEDED,
    Verdict.CANCELLED,
    Verdict.ACKNOWLEDGED,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of an extra table."""

    text: str
    kind: str = ""
    """A verdict's value, `good` or `bad` for a coloured chip; empty for plain text."""


@dataclass(frozen=True, slots=True)
class Section:
    """A table that the caller wants on the page besides the deployment's own."""

    title: str
    remark: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One large number with what it counts."""

    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """A report on the deployment, as it was at one moment."""

    title: str
    """Empty if there is one chapter only."""
    report: DeploymentReport
    figures: Sequence[Figure] = ()


def render_page(
    chapters: Sequence[Chapter], *, sections: Sequence[Section] = (), remark: str = ""
) -> str:
    """Return the page.

    Args:
        chapters: One deployment, at one moment or several.
        sections: Tables after them.
        remark: A line of plain text at the top, for what a reader has to know first.
    """
    report = chapters[0].report
    release = f"{report.component} {report.version}"
    parts = [
        f"<h1>{escape(release)} <small>{escape(report.deployment)}</small></h1>",
        f'<p class="remark">{escape(remark)}</p>' if remark else "",
        *(part for chapter in chapters for part in _chapter(chapter)),
        *(_section(each) for each in sections),
    ]
    return _TEMPLATE.format(
        title=escape(f"{release}: outcome"), style=_STYLE, body="\n".join(filter(None, parts))
    )


def _chapter(chapter: Chapter) -> list[str]:
    report = chapter.report
    return [
        f'<h2 class="chapter">{escape(chapter.title)}</h2>' if chapter.title else "",
        f'<p class="sentence">{escape(sentence(report))}</p>',
        verdict_bar({verdict: report.verdicts.get(verdict, 0) for verdict in reversed(_URGENCY)}),
        _legend(report),
        _figures(chapter.figures),
        "<h3>How far it came</h3>",
        funnel_chart(report.funnel),
        f"<p class=note>{_FUNNEL_NOTE}</p>",
        _exits(report),
        "<h3>How long it took</h3>",
        gap_chart(report),
        _how_long(report),
        "<h3>Devices</h3>",
        _devices(report),
        f"<p class=note>{_seen(report)}</p>",
    ]


def span_words(span: Span | None) -> str:
    """Return a span as people read it: an interval, `not yet` or `never`."""
    if span is None:
        return "-"
    told = words.between(span.took)
    if span.state is State.OPEN:
        return f"not yet, {told}"
    if span.state is State.NEVER:
        return f"never, {told}"
    if span.state is State.WITHDRAWN:
        return f"withdrawn after {told}"
    return told


def by_urgency(report: DeploymentReport) -> list[DeviceOutcome]:
    """Return the devices, those first that somebody should look at."""
    return sorted(
        report.devices, key=lambda each: (_URGENCY.index(each.finding.verdict), each.device)
    )


def _legend(report: DeploymentReport) -> str:
    shown = [verdict for verdict in reversed(_URGENCY) if report.verdicts.get(verdict)]
    chips = " ".join(f"{_chip(verdict.value)}&nbsp;{report.verdicts[verdict]}" for verdict in shown)
    return f'<p class="legend">{chips}</p>'


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    boxes = "".join(
        f"<div><b>{escape(each.value)}</b><span>{escape(each.meaning)}</span></div>"
        for each in figures
    )
    return f'<div class="figures">{boxes}</div>'


def _exits(report: DeploymentReport) -> str:
    if not report.funnel.exits:
        return ""
    lines = "".join(
        f"<li>{len(each.devices)} {_chip(each.end.value)} "
        f"{escape(words.because(each.reason) if each.reason else '')}: "
        f"{escape(_some(each.devices))}</li>"
        for each in report.funnel.exits
    )
    return f"<p>Left the ladder, by their own word:</p><ul>{lines}</ul>"


def _some(devices: Sequence[str]) -> str:
    shown = ", ".join(devices[:20])
    return f"{shown} and {len(devices) - 20} more" if len(devices) > 20 else shown  # noqa: PLR2004 - one line


def _how_long(report: DeploymentReport) -> str:
    rows = "".join(
        f"<tr><th scope=row>{name}<td>{_ended(summary)}<td>{words.quantile(summary.p50)}"
        f"<td>{words.quantile(summary.p95)}<td class=dim>{meaning}</tr>"
        for name, meaning, summary in (
            ("Execution Gap", "requested to acknowledged", report.execution_gap),
            ("Handshake Latency", "accepted to delivered", report.handshake_latency),
            (
                "of that, reachable",
                "the part in which the device was connected",
                report.reachable_handshake_latency,
            ),
        )
    )
    note = (
        "Marks and figures are intervals, as wide as clocks that disagree leave them. "
        "What has not ended is not left out: it counts as lasting longer than until now "
        "(Kaplan-Meier), so a percentile may be “not reached”."
    )
    more = len(report.devices) - ROWS_MAX
    if more > 0:
        note += f" The chart shows {ROWS_MAX} devices; {more} more are in the figures."
    return (
        "<table><thead><tr><th><th>ended<th>half within<th>95 % within<th></tr></thead>"
        f"<tbody>{rows}</tbody></table><p class=note>{note}</p>"
    )


def _ended(summary: Summary) -> str:
    return f"{summary.ended_count} of {summary.count}"


def _devices(report: DeploymentReport) -> str:
    ordered = by_urgency(report)
    rows = "".join(_device(each) for each in ordered[:DEVICES_MAX])
    more = len(ordered) - DEVICES_MAX
    rest = f"<p class=note>and {more} more devices</p>" if more > 0 else ""
    return (
        "<table class=devices><thead><tr><th>device<th>verdict<th>what is known"
        "<th>Execution Gap<th>Handshake Latency</tr></thead>"
        f"<tbody>{rows}</tbody></table>{rest}"
    )


def _device(each: DeviceOutcome) -> str:
    finding = each.finding
    evidence = [*finding.evidence_for, *finding.evidence_against]
    shown = f"<div class=dim>{escape('; '.join(evidence))}</div>" if evidence else ""
    stages = " · ".join(stage.value.replace("_", " ") for stage in Stage if stage in each.moments)
    return (
        f"<tr><th scope=row>{escape(each.device)}<td>{_chip(finding.verdict.value)}"
        f'<td title="{escape(stages)}">{escape(finding.sentence)}{shown}'
        f"<td>{escape(span_words(each.execution_gap))}"
        f"<td>{escape(span_words(each.handshake_latency))}</tr>"
    )


def _section(section: Section) -> str:
    head = "".join(f"<th>{escape(each)}" for each in section.header)
    rows = "".join(f"<tr>{_cells(row)}</tr>" for row in section.rows)
    remark = f"<p>{escape(section.remark)}</p>" if section.remark else ""
    return (
        f"<h2>{escape(section.title)}</h2>{remark}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cells(row: Sequence[Cell]) -> str:
    tags = ["<th scope=row>", *["<td>"] * (len(row) - 1)]
    return "".join(
        tag + (_chip(cell.kind, cell.text) if cell.kind else escape(cell.text))
        for tag, cell in zip(tags, row, strict=True)
    )


def _chip(kind: str, text: str = "") -> str:
    return f'<span class="chip v-{escape(kind)}">{escape(text or kind.replace("_", " "))}</span>'


def _seen(report: DeploymentReport) -> str:
    return (
        f"Seen at {_utc(report.at_ms)} by the hub's clock. A connected device counts as silent "
        f"after {words.duration(report.patience_ms)} without a sign that it took the command."
    )


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


_FUNNEL_NOTE: Final = (
    "A later stage proves the earlier ones. That the broker took a message proves nothing about "
    "the device; it is shown and counts for nothing."
)

_TEMPLATE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<svg width="0" height="0" aria-hidden="true"><defs>
<pattern id="hatching" width="6" height="6" patternUnits="userSpaceOnUse"
 patternTransform="rotate(45)"><rect class="stripe" width="2.2" height="6"/></pattern>
</defs></svg>
</body>
</html>
"""

_STYLE: Final = """
:root {
  --paper: #fbfaf7; --ink: #23292e; --dim: #6b7378; --line: #dfddd5; --ground: #eeece5;
  --hub: #7d8ca3; --device: #3f7f9c;
  --good: #3c8d63; --busy: #4a83b5; --early: #8aa0b3; --away: #8d8a83;
  --silent: #b4472f; --back: #c07f2a; --bad: #a53a4c; --gone: #a39f96;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171b1e; --ink: #dfe3e4; --dim: #8f989c; --line: #2c3338; --ground: #22292d;
    --hub: #6f7f98; --device: #5a9dbb;
    --good: #55a97c; --busy: #5f9ccf; --early: #71889b; --away: #84827c;
    --silent: #d9694e; --back: #d39a4a; --bad: #cf6071; --gone: #6f6d67;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 980px; margin: 0 auto; padding: 36px 28px 56px }
h1 { font-size: 26px; font-weight: 650; margin: 0 0 4px }
h1 small { font: 13px ui-monospace, monospace; color: var(--dim); font-weight: 400 }
h2 { font-size: 20px; font-weight: 650; margin: 52px 0 12px }
.chapter { border-top: 1px solid var(--line); padding-top: 30px; margin-top: 38px }
h3 { font-size: 16px; font-weight: 650; margin: 36px 0 10px }
.remark { color: var(--dim); margin: 0; max-width: 54em }
.sentence { font-size: 19px; line-height: 1.45; margin: 14px 0 20px; max-width: 46em }
.note { color: var(--dim); font-size: 13px; max-width: 56em }
.legend { margin: 8px 0 0; line-height: 2 }
.legend .chip { margin-left: 10px }
.legend .chip:first-child { margin-left: 0 }
.figures { display: flex; flex-wrap: wrap; gap: 10px 38px; margin: 26px 0 0 }
.figures div { display: flex; flex-direction: column; max-width: 15em }
.figures b { font-size: 26px; font-weight: 600; line-height: 1.2;
  font-variant-numeric: tabular-nums }
.figures span { color: var(--dim); font-size: 13px }
table { border-collapse: collapse; width: 100%; margin: 10px 0 }
th, td { text-align: left; vertical-align: top; padding: 7px 12px 7px 0;
  border-bottom: 1px solid var(--line) }
thead th { color: var(--dim); font-size: 13px; font-weight: 500 }
tbody th { font-weight: 600; white-space: nowrap }
td { font-variant-numeric: tabular-nums }
.dim { color: var(--dim); font-size: 13px; fill: var(--dim) }
.chip { display: inline-block; padding: 0 8px; border-radius: 9px; font-size: 12.5px;
  line-height: 19px; white-space: nowrap; color: #fff; background: var(--gone) }
.chart { overflow-x: auto }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { font-size: 12.5px; fill: var(--ink); font-variant-numeric: tabular-nums }
svg .dim { fill: var(--dim); font-size: 11.5px }
svg .on { fill: #fff; font-weight: 600 }
.ground { fill: var(--ground) }
.grid { stroke: var(--line); stroke-width: 1 }
.c-hub { fill: var(--hub) } .c-device { fill: var(--device) }
.hatch { fill: url(#hatching) } .stripe { fill: var(--hub) }
.soft { opacity: .32 } .still { opacity: .13 } .mark { opacity: .95 }
.v-acknowledged, .v-good { background: var(--good); fill: var(--good) }
.v-deferred { background: var(--busy); fill: var(--busy); opacity: .7 }
.v-in_progress { background: var(--busy); fill: var(--busy) }
.v-too_early { background: var(--early); fill: var(--early) }
.v-unreachable { background: var(--away); fill: var(--away) }
.v-silent { background: var(--silent); fill: var(--silent) }
.v-rolled_back { background: var(--back); fill: var(--back) }
.v-failed, .v-fell_back, .v-bad { background: var(--bad); fill: var(--bad) }
.v-superseded, .v-expired, .v-cancelled { background: var(--gone); fill: var(--gone) }
@media (max-width: 640px) { main { padding: 22px 16px } .chart svg { min-width: 620px }
  .devices td, .devices th { display: block; border: 0; padding: 2px 0 }
  .devices tr { display: block; border-bottom: 1px solid var(--line); padding: 8px 0 }
  .devices thead { display: none } }
@media print { main { max-width: none; padding: 0 } h2, h3 { break-after: avoid }
  tr { break-inside: avoid } }
"""
