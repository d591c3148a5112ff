"""The demo as a command: run it, tell what came of it, save it, and end with the right code."""

import asyncio
import json
import os
import signal
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hub.broker_plan import BrokerProblem, choose, find_candidates
from hub.cli.exits import CommandFailed, Exit
from hub.cli.options import console
from hub.cli.outcome import devices_table, figures_of
from hub.client import HubFailure
from hub.demo.board import LiveBoard, PlainBoard
from hub.demo.cast import CAST, COMPONENT, NEW
from hub.demo.fleet import SILENCE_S, find_example
from hub.demo.ground import CannotStart, Ground
from hub.demo.play import Play
from hub.demo.record import Check, Record, summary_of, to_json
from hub.page import Cell, Chapter, Section, render_page
from hub.release_build import BadRelease

INTRODUCTION = (
    f"A hub, its broker and {len(CAST)} agents run as real processes on this machine, each agent "
    f"with its own folder and application. {COMPONENT} {NEW} is deployed while things go wrong on "
    "purpose. Agents and hub are the shipped programs, unchanged; only settings are shorter than "
    f"in the field: a connected device counts as silent after {SILENCE_S:g} s instead of a minute."
)


def show(*, json_file: Path | None, page: Path, keep: bool) -> int:
    """Run the demo and return the exit code of `fieldfare demo`."""
    out = console()
    try:
        example = _check_place(json_file, page)
        record, folder = _run(out, example, keep=keep)
    except (CannotStart, BadRelease, HubFailure) as problem:
        raise CommandFailed(f"the demo cannot go on: {problem}", Exit.DEMO_CANNOT_START) from None
    except KeyboardInterrupt:
        raise CommandFailed(
            "stopped; every process of the demo has ended", Exit.INTERRUPTED
        ) from None
    _print(out, record)
    _write(page, _page(record))
    if json_file is not None:
        _write(json_file, json.dumps(to_json(record, page=os.fspath(page)), indent=2) + "\n")
    out.print(f"The page: {page.resolve()}", soft_wrap=True)
    if keep:
        out.print(f"Logs and databases: {folder}", soft_wrap=True)
    if record.differs:
        raise CommandFailed(summary_of(record.checks), Exit.DEMO_DIFFERS)
    return Exit.OK


def _check_place(*files: Path | None) -> Path:
    """Find out before anything runs whether the results can be written; return the example.

    Raises:
        CannotStart: A file cannot be written, or a part is missing.
    """
    example = find_example()
    if example is None:
        raise CannotStart("the example application is not here: run it from a checkout (make demo)")
    try:
        choose(find_candidates())
    except BrokerProblem as problem:
        raise CannotStart(str(problem)) from None
    for file in files:
        if file is None:
            continue
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a"):
                pass
        except OSError as error:
            raise CannotStart(f"{file} cannot be written: {error.strerror}") from None
    return example


def _run(out: Console, example: Path, *, keep: bool) -> tuple[Record, Path]:
    out.print(INTRODUCTION)
    out.print()
    board = LiveBoard(out) if out.is_terminal else PlainBoard(out)
    with Ground(keep=keep) as ground:
        with board:
            record = asyncio.run(_until_stopped(Play(ground, example, board)))
        folder = ground.folder
    return record, folder


async def _until_stopped(play: Play) -> Record:
    """Run the play; SIGTERM and SIGHUP end it as Ctrl-C does."""
    task = asyncio.ensure_future(play.run())
    loop = asyncio.get_running_loop()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if stopped:
            raise KeyboardInterrupt from None
        raise


def _print(out: Console, record: Record) -> None:
    for look in record.looks:
        title = "While links were broken" if look.name == "first" else "After they were repaired"
        out.print(Text(f"{title}:", style="bold"))
        out.print(Text(look.report.sentence), style="bold cyan" if look.name == "first" else "bold")
        out.print()
        out.print(devices_table(look.report))
        out.print()
    out.print(_checks_table(record.checks))
    out.print()
    style = "bold red" if record.differs else "bold green"
    out.print(Text(f"Reported against done: {summary_of(record.checks)}.", style=style))
    out.print(f"It took {record.took_s:.0f} s; every process of the demo has ended.")


def _checks_table(checks: list[Check]) -> Table:
    table = Table(
        title=Text("Reported against done", style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name in ("look", "device", "what", "done", "reported", ""):
        table.add_column(name, no_wrap=True)
    for check in checks:
        mark = Text("agrees", style="green") if check.holds else Text("DIFFERS", style="bold red")
        table.add_row(
            check.look, check.device or "fleet", check.about, check.expected, check.reported, mark
        )
    return table


def _page(record: Record) -> str:
    first, final = record.looks
    return render_page(
        [
            Chapter(
                "While links were broken",
                first.report.report(),
                figures_of(first.report, first.fleet),
            ),
            Chapter(
                "After they were repaired",
                final.report.report(),
                figures_of(final.report, final.fleet),
            ),
        ],
        sections=[_cast_section(record), _checks_section(record)],
        remark=INTRODUCTION,
    )


def _cast_section(record: Record) -> Section:
    return Section(
        "What was done",
        "By the demo's own clock, seconds after it began.",
        ("device", "what", "when"),
        tuple((Cell(act.device), Cell(act.what), Cell(f"{act.at_s:.1f} s")) for act in record.acts),
    )


def _checks_section(record: Record) -> Section:
    return Section(
        "Reported against done",
        f"{summary_of(record.checks).capitalize()}. What a device really runs was asked of its "
        "application.",
        ("look", "device", "what", "done", "reported", ""),
        tuple(
            (
                Cell(check.look),
                Cell(check.device or "fleet"),
                Cell(check.about),
                Cell(check.expected),
                Cell(check.reported),
                Cell("agrees", "good") if check.holds else Cell("differs", "bad"),
            )
            for check in record.checks
        ),
    )


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", Exit.FILE) from None
