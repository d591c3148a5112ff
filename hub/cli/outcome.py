"""How an outcome reads in a terminal: adoption, the stage funnel, durations, devices.

Owns the layout. Never counts anything: figures come from the hub.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hub import answers
from hub.cli.files import save
from hub.outcomes import words
from hub.outcomes.adoption import Adoption
from hub.outcomes.durations import Span, State
from hub.outcomes.silence import Verdict
from hub.page import Chapter, Figure, by_urgency, render_page
from sync.stages import LADDER, Stage

BAR_WIDTH: Final = 16

NAMED_MAX: Final = 6
"""Most devices that one line names."""

COLOURS: Final = {
    Verdict.ACKNOWLEDGED: "green",
    Verdict.IN_PROGRESS: "blue",
    Verdict.DEFERRED: "cyan",
    Verdict.TOO_EARLY: "blue",
    Verdict.SILENT: "bold red",
    Verdict.FELL_BACK: "bold red",
    Verdict.FAILED: "red",
    Verdict.ROLLED_BACK: "yellow",
    Verdict.UNREACHABLE: "bright_black",
    Verdict.EXPIRED: "bright_black",
    Verdict.SUPERSEDED: "bright_black",
    Verdict.CANCELLED: "bright_black",
}


def verdict_text(verdict: Verdict) -> Text:
    """Return a verdict in its colour."""
    return Text(verdict.value.replace("_", " "), style=COLOURS[verdict])


def fleet_lines(fleet: answers.Fleet) -> RenderableType:
    """Return the answer to the operator's first question, and what is behind it."""
    parts: list[RenderableType] = [
        Text(adoption_sentence(each, fleet.active_window_s), style="bold")
        for each in fleet.adoption
    ]
    if not fleet.adoption:
        parts.append(Text("No release was deployed yet.", style="bold"))
    window = words.duration(round(fleet.active_window_s * 1000))
    parts.append(
        Text(
            f"{fleet.registered_count} registered, {fleet.active_count} active in the last "
            f"{window}, {fleet.online_count} connected now"
            + (
                f", {fleet.presence_unknown_count} of which that is not known"
                if fleet.presence_unknown_count
                else ""
            )
        )
    )
    if fleet.dark:
        parts.append(Text(f"dark (not heard of in {window}): {named(fleet.dark)}"))
    if fleet.adoption:
        parts += [Text(), _mix_table(fleet.adoption)]
    if fleet.open_conflicts_count:
        parts.append(
            Text(
                f"{fleet.open_conflicts_count} settings in conflict: see `fieldfare device DEVICE`",
                style="yellow",
            )
        )
    for lost in fleet.damaged:
        parts.append(
            Text(
                f"the stored document {lost.document} was damaged ({lost.reason}); it was moved "
                "aside and is made anew",
                style="red",
            )
        )
    for release, reason in fleet.unmeasured.items():
        parts.append(Text(f"{release} is not measured: {reason}", style="yellow"))
    for wrong in fleet.offences:
        parts.append(
            Text(f"refused {wrong.count} times from {wrong.device} ({wrong.code})", style="red")
        )
    for report in fleet.deployments:
        parts += [Text(), summary_lines(report)]
    return Group(*parts)


def adoption_sentence(found: Adoption, window_s: float) -> str:
    """Return in one sentence how many devices run the latest version of a component."""
    if not found.active_count:
        return f"No device was active, so nobody is known to run {found.component} {found.version}."
    verb = "runs" if found.proven_count == 1 else "run"
    text = (
        f"{found.proven_count} of {words.devices(found.active_count)} active in the last "
        f"{words.duration(round(window_s * 1000))} {verb} {found.component} {found.version} "
        "(proven by a passed health check)"
    )
    if found.unproven_count:
        text += f"; {found.unproven_count} more run it unproven"
    return text + "."


def summary_lines(report: answers.ReportSummary) -> RenderableType:
    """Return a report without its devices."""
    chosen = f"group {report.group}" if report.group else "named devices"
    where = f" where {report.where}" if report.where else ""
    head = Text.assemble(
        (f"{report.deployment}  {report.release}", "bold"),
        f"  to {chosen}{where}",
        ("  cancelled" if report.cancelled_at_ms else "", "yellow"),
    )
    parts: list[RenderableType] = [head, Text(report.sentence)]
    for verdict, devices in report.devices_by_verdict.items():
        if verdict is not Verdict.ACKNOWLEDGED:
            parts.append(
                Text.assemble("  ", verdict_text(verdict), f" {len(devices)}: {named(devices)}")
            )
    parts += [Text(), _side_by_side(report)]
    return Group(*parts)


def print_report(out: Console, report: answers.Report) -> None:
    """Print a whole report."""
    out.print(summary_lines(report))
    for each in report.terms:
        out.print(Text(terms_words(each), style="cyan"))
    out.print()
    out.print(devices_table(report))


def terms_words(terms: answers.Terms) -> str:
    """Return in one line what an operator ordered about waiting."""
    whom = f"device {terms.device}" if terms.device else f"group {terms.group}"
    parts = ["go on now"] if terms.now else []
    if terms.windows:
        parts.append(f"only in {' or '.join(terms.windows)}")
    if terms.budget_s is not None:
        parts.append(f"wait {words.duration(terms.budget_s * 1000)} at most")
    if terms.overdue:
        parts.append("then go on" if terms.overdue == "go" else "then give it up")
    why = f" ({terms.why})" if terms.why else ""
    said = ", ".join(parts) or "wait as the device says"
    return f"{whom}: {said}; ordered {words.moment(terms.ordered_at_ms)} by {terms.who}{why}"


def devices_table(report: answers.Report) -> Table:
    """Return a row for each device, those first that somebody should look at."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("device", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("Execution Gap", no_wrap=True)
    table.add_column("Handshake Latency", no_wrap=True)
    table.add_column("what is known", ratio=1)
    for each in by_urgency(report.report()):
        known = Text(each.finding.sentence)
        for evidence in each.finding.evidence_against:
            known.append(f"\n{evidence}", style="dim")
        table.add_row(
            each.device,
            verdict_text(each.finding.verdict),
            span_text(each.execution_gap),
            span_text(each.handshake_latency),
            known,
        )
    return table


def span_text(span: Span | None) -> str:
    """Return a span in a few characters: `4.1-4.3 s`, `> 62 s` while open, `never`."""
    if span is None:
        return "-"
    if span.state is State.NEVER:
        return "never"
    if span.state is State.OPEN:
        return f"> {words.duration(span.took.lo_ms or 0)}"
    return words.between(span.took)


def named(devices: Sequence[str]) -> str:
    """Return the names of some devices on one line."""
    shown = ", ".join(devices[:NAMED_MAX])
    more = len(devices) - NAMED_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def save_page(file: str, report: answers.Report, fleet: answers.Fleet) -> None:
    """Write a report as an HTML page.

    Raises:
        CommandFailed: The file cannot be written.
    """
    save(Path(file), render_page([Chapter("", report.report(), figures_of(report, fleet))]))


def figures_of(report: answers.ReportSummary, fleet: answers.Fleet) -> list[Figure]:
    """Return the counts that stand on top of a page."""
    window = words.duration(round(fleet.active_window_s * 1000))
    return [
        Figure(str(fleet.registered_count), "devices registered"),
        Figure(str(fleet.active_count), f"active in the last {window}"),
        Figure(str(report.targeted_count), f"targeted with {report.version}"),
        Figure(str(report.running_count), "run it, proven by a passed health check"),
    ]


def _mix_table(found: Sequence[Adoption]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("component", "latest", "run it, proven", "active", "targeted", "registered"):
        table.add_column(name, no_wrap=True)
    table.add_column("what active devices run, proven")
    for each in found:
        ratio = "" if each.adopted_ratio is None else f"  {each.adopted_ratio:.0%}"
        table.add_row(
            each.component,
            each.version,
            f"{each.proven_count}{ratio}",
            str(each.active_count),
            str(each.targeted_count),
            str(each.registered_count),
            ", ".join(f"{version or 'none'}: {count}" for version, count in each.mix.items()),
        )
    return table


def _side_by_side(report: answers.ReportSummary) -> RenderableType:
    """Return both tables beside each other where there is room, else one below the other."""
    return Columns([_funnel_table(report), _durations_table(report)], padding=(0, 4))


def _funnel_table(report: answers.ReportSummary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("came at least to", "", ""):
        table.add_column(name, no_wrap=True)
    for stage, count in _rungs(report):
        total = report.funnel.targeted_count
        filled = round(BAR_WIDTH * count / total) if total else 0
        is_proof = stage is not Stage.BROKER_ACKED
        table.add_row(
            stage.value.replace("_", " "),
            Text(("█" if is_proof else "░") * filled, style="blue" if is_proof else "dim"),
            Text(f"{count} of {total}" + ("" if is_proof else " (no proof)")),
        )
    return table


def _rungs(report: answers.ReportSummary) -> Iterator[tuple[Stage, int]]:
    for stage in LADDER:
        yield stage, report.funnel.reached_count.get(stage, 0)


def _durations_table(report: answers.ReportSummary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "ended", "half within", "95 % within"):
        table.add_column(name, no_wrap=True)
    for name, summary in (
        ("Execution Gap", report.execution_gap),
        ("Handshake Latency", report.handshake_latency),
        ("  while reachable", report.reachable_handshake_latency),
    ):
        table.add_row(
            name,
            f"{summary.ended_count} of {summary.count}",
            escape(words.quantile(summary.p50)),
            escape(words.quantile(summary.p95)),
        )
    silent = "-" if report.silent_ratio is None else f"{report.silent_ratio:.0%} of accepted"
    table.add_row("silent failures", silent, "", "")
    table.add_row("patience", words.duration(report.patience_ms), "", "")
    return table
