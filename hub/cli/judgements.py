"""How judgements read in a terminal: verdict, sentence, bounds, and the curve of acknowledgements.

Owns the layout. Never judges anything: verdicts come from the hub.
"""

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hub import answers
from hub.outcomes import words
from hub.outcomes.verdicts import URGENCY, Estimate, Judgement, Ruling
from sync.stamps import Interval

SCALE_WIDTH: Final = 20
"""Characters from none to all."""

COLOURS: Final = {
    Ruling.OK: "green",
    Ruling.BREACH: "bold red",
    Ruling.TOO_LITTLE_EVIDENCE: "blue",
    Ruling.UNHEALTHY: "bold magenta",
}
SHADES: Final = "▁▂▃▄▅▆▇█"


def verdict_lines(held: answers.Verdicts, *, is_all: bool) -> RenderableType:
    """Return all judgements, the most urgent first.

    Args:
        held: The hub's answer.
        is_all: Whether evidence is shown where nothing is wrong too.
    """
    parts: list[RenderableType] = [
        Text.assemble((f"{held.deployment}  {held.release}", "bold")),
        Text(held.outcome),
        Text(),
        Text.assemble(ruling_text(held.verdict), "  ", held.sentence),
    ]
    if held.acknowledged:
        parts.append(_spark(held.acknowledged))
    for judged in sorted(held.judgements, key=lambda each: URGENCY.index(each.verdict)):
        parts += [Text(), _head(judged)]
        if judged.estimate is not None:
            parts.append(Padding(bounds_text(judged.estimate), (0, 0, 0, 2)))
        if is_all or judged.verdict in {Ruling.BREACH, Ruling.UNHEALTHY}:
            parts += [
                Padding(Text(line, style="dim"), (0, 0, 0, 2))
                for line in (*judged.evidence, _sureness(judged))
                if line
            ]
    if held.not_asked:
        parts += [Text(), _not_asked(held)]
    return Group(*parts)


def glance(found: Sequence[answers.Verdicts]) -> RenderableType:
    """Return one line for each deployment, with the questions that are out of range."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("verdict", "deployment", "release", "what came of it"):
        table.add_column(name, no_wrap=name != "what came of it")
    for each in sorted(found, key=lambda held: URGENCY.index(held.verdict)):
        wrong = [
            judged.sentence
            for judged in each.judgements
            if judged.verdict in {Ruling.BREACH, Ruling.UNHEALTHY}
        ]
        told = Text(each.outcome)
        for sentence in wrong:
            told.append(f"\n{sentence}", style="red")
        table.add_row(ruling_text(each.verdict), each.deployment, each.release, told)
    return table


def flag_lines(held: answers.FlagVerdicts) -> RenderableType:
    """Return what is judged of a flag, group by group, with all that it rests on."""
    parts: list[RenderableType] = []
    for arms in held.groups:
        if parts:
            parts.append(Text())
        parts += [
            Text(f"{held.flag} in {arms.group}", style="bold"),
            Text(
                f"{arms.variant} was dealt to {words.devices(arms.dealt_count)}, "
                f"{arms.rest_count} others; {arms.read_count} of them have read it"
            ),
            Text.assemble(ruling_text(arms.verdict), "  ", arms.sentence),
        ]
        if not any(each.name.startswith("p95_") for each in arms.judgements):
            parts.append(
                Text(
                    "Nothing is compared: no histogram was measured with "
                    f"variant={held.flag}=VARIANT.",
                    style="yellow",
                )
            )
        for judged in sorted(arms.judgements, key=lambda each: URGENCY.index(each.verdict)):
            parts += [Text(), _head(judged)]
            if judged.estimate is not None:
                parts.append(Padding(bounds_text(judged.estimate), (0, 0, 0, 2)))
            parts += [
                Padding(Text(line, style="dim"), (0, 0, 0, 2))
                for line in (*judged.evidence, _sureness(judged))
                if line
            ]
    return Group(*parts)


def ruling_text(ruling: Ruling) -> Text:
    """Return a verdict in its colour."""
    return Text(ruling.value.replace("_", " "), style=COLOURS[ruling])


def bounds_text(held: Estimate) -> Text:
    """Return a figure with its bounds; a share also as a mark on a scale from none to all."""
    shown = Text(_figure(held))
    if held.unit == "ratio" and held.lo is not None and held.hi is not None:
        return Text.assemble(Text(scale(held.value, held.lo, held.hi), style="cyan"), "  ", shown)
    return shown


def scale(value: float | None, lo: float, hi: float) -> str:
    """Return bounds as a line on a scale from none to all, with a mark for the figure."""
    first, last = _place(lo), _place(hi)
    marks = ["━" if first <= at <= last else "·" for at in range(SCALE_WIDTH)]
    if value is not None:
        marks[_place(value)] = "●"
    return "".join(marks)


def _place(ratio: float) -> int:
    return min(SCALE_WIDTH - 1, max(0, int(ratio * SCALE_WIDTH)))


def _head(judged: Judgement) -> Text:
    name = judged.name.replace("_", " ")
    return Text.assemble(ruling_text(judged.verdict), "  ", (name, "bold"), f"  {judged.sentence}")


def _figure(held: Estimate) -> str:
    if held.unit == "ms":
        lo = None if held.lo is None else round(held.lo)
        hi = None if held.hi is None else round(held.hi)
        within = "not reached" if lo is None else words.between(Interval(lo, hi))
        return f"{within} ({held.how})"

    def one(number: float | None) -> str:
        if number is None:
            return "unknown"
        return words.share(number) if held.unit == "ratio" else f"{number:.2f}"

    value = "" if held.value is None else f"{one(held.value)}, "
    if held.lo is None and held.hi is None:
        unit = "" if held.unit == "ratio" else f" {held.unit}"
        return f"{one(held.value)}{unit} ({held.how})"
    return f"{value}{one(held.lo)} to {one(held.hi)} ({held.how})"


def _sureness(judged: Judgement) -> str:
    told = []
    if judged.p_value is not None:
        told.append(f"p = {judged.p_value:.3g}")
    if judged.p_min is not None:
        told.append(f"p_min = {judged.p_min:.3g}")
    if judged.e_value is not None:
        told.append(f"evidence {judged.e_value:.3g} to 1")
    if judged.alpha is not None:
        told.append(f"wrong at most {words.share(judged.alpha)} of the time when all is well")
    return "; ".join(told)


def _spark(points: Sequence[answers.Point]) -> Text:
    """Return the share that had acknowledged over time, in the middle of its bounds."""
    top = len(SHADES) - 1
    marks = "".join(SHADES[round((each.lo + each.hi) / 2 * top)] for each in points)
    last = points[-1]
    return Text.assemble(
        "acknowledged  ",
        (marks, "blue"),
        f"  {words.share(last.lo)} within {words.duration(last.after_ms)}",
    )


def _not_asked(held: answers.Verdicts) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, style="dim")
    table.add_column(no_wrap=True)
    table.add_column()
    for name, why in held.not_asked.items():
        table.add_row("not asked: " + name.replace("_", " "), why)
    return table
