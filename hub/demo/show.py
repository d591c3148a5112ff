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
from hub.cli.files import save
from hub.cli.options import console
from hub.cli.outcome import devices_table, figures_of
from hub.client import HubFailure
from hub.demo.board import LiveBoard, PlainBoard
from hub.demo.cast import CAST, COMPONENT, NEW
from hub.demo.fleet import SILENCE_S, find_example
from hub.demo.ground import CannotStart, Ground
from hub.demo.play import Play
from hub.demo.record import Record, Row, Seen, summary_of, to_json
from hub.page import Cell, Chapter, Section, render_page
from hub.release_build import BadRelease

INTRODUCTION = (
    f"A hub, its broker and {len(CAST)} agents run as real processes on this machine, each agent "
    f"with its own folder and application. {COMPONENT} {NEW} is deployed while things go wrong on "
    "purpose. Agents and hub are the shipped programs, unchanged; only settings are shorter than "
    f"in the field: a device counts as silent once it was certainly connected for {SILENCE_S:g} s "
    "without taking the command, instead of a minute."
)

OVER_TLS = (
    "Everybody speaks TLS 1.3 with a certificate of the hub's authority: the broker is a Mosquitto "
    "with the configuration that the hub writes, and each agent has enrolled with a claim token."
)


class Stopped(Exception):
    """Somebody asked the demo to end; nothing of it runs any more once this arrives."""


def show(*, json_file: Path | None, page: Path, keep: bool, tls: bool = False) -> int:
    """Run the demo and return the exit code of `fieldfare demo`."""
    out = console()
    try:
        example = _check_place(json_file, page)
        record, folder = _run(out, example, keep=keep, tls=tls)
    except (CannotStart, BadRelease, HubFailure) as problem:
        raise CommandFailed(f"the demo cannot go on: {problem}", Exit.DEMO_CANNOT_START) from None
    except (Stopped, KeyboardInterrupt):
        raise CommandFailed(
            "stopped; every process of the demo has ended", Exit.INTERRUPTED
        ) from None
    _print(out, record)
    save(page, _page(record))
    if json_file is not None:
        save(json_file, json.dumps(to_json(record, page=os.fspath(page)), indent=2) + "\n")
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
            was_there = file.exists()
            with file.open("a"):
                pass
            if not was_there:
                file.unlink()
        except OSError as error:
            raise CannotStart(f"{file} cannot be written: {error.strerror}") from None
    return example


def _run(out: Console, example: Path, *, keep: bool, tls: bool) -> tuple[Record, Path]:
    out.print(INTRODUCTION)
    if tls:
        out.print(OVER_TLS)
    out.print()
    board = LiveBoard(out) if out.is_terminal else PlainBoard(out)
    with Ground(keep=keep) as ground:
        with board:
            record = asyncio.run(_until_stopped(Play(ground, example, board, is_secure=tls)))
        folder = ground.folder
    return record, folder


async def _until_stopped(play: Play) -> Record:
    """Run the play; SIGTERM and SIGHUP end it as Ctrl-C does.

    Raises:
        Stopped: One of them came.
    """
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
            raise Stopped from None
        raise


def _print(out: Console, record: Record) -> None:
    first, final = record.looks
    out.print(Text("While links were broken:", style="bold"))
    out.print(Text(first.report.sentence, style="bold cyan"))
    out.print()
    out.print(devices_table(first.report))
    out.print()
    out.print(Text("After they were repaired:", style="bold"))
    out.print(Text(final.report.sentence, style="bold cyan"))
    out.print()
    out.print(_rows_table(record.rows))
    for check in record.differs:
        out.print(
            Text(
                f"DIFFERS: {check.look} look, {check.device or 'the fleet'}, {check.about}: done "
                f"{check.expected}, reported {check.reported}",
                style="bold red",
            )
        )
    out.print()
    style = "bold red" if record.differs else "bold green"
    out.print(Text(f"Reported against done: {summary_of(record.checks)}.", style=style))
    out.print(f"It took {record.took_s:.0f} s; every process of the demo has ended.")


def _rows_table(rows: list[Row]) -> Table:
    table = Table(
        title=Text("Reported against done", style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("device", no_wrap=True)
    table.add_column("what was done to it", ratio=1)
    for name in ("broken: reported", "runs", "repaired: reported", "runs", ""):
        table.add_column(name, no_wrap=True)
    for row in rows:
        mark = Text("agrees", style="green") if row.holds else Text("DIFFERS", style="bold red")
        cells = [cell for seen in row.seen for cell in (_reported(seen), seen.runs)]
        table.add_row(row.part.device, row.part.done, *cells, mark)
    return table


def _reported(seen: Seen) -> str:
    if seen.reported == seen.expected:
        return seen.reported
    return f"{seen.reported}, not {seen.expected}"


def _page(record: Record) -> str:
    titles = ("While links were broken", "After they were repaired")
    return render_page(
        [
            Chapter(title, look.report.report(), figures_of(look.report, look.fleet))
            for title, look in zip(titles, record.looks, strict=True)
        ],
        sections=[_rows_section(record), _acts_section(record)],
        remark=INTRODUCTION,
    )


def _rows_section(record: Record) -> Section:
    rows = []
    for row in record.rows:
        cells = [
            cell
            for seen in row.seen
            for cell in (Cell(_reported(seen), seen.reported), Cell(seen.runs))
        ]
        mark = Cell("agrees", "good") if row.holds else Cell("differs", "bad")
        rows.append((Cell(row.part.device), Cell(row.part.done), *cells, mark))
    told = "".join(
        f" {check.look} look, {check.device or 'the fleet'}, {check.about}: done {check.expected}, "
        f"reported {check.reported}."
        for check in record.differs
    )
    return Section(
        "Reported against done",
        f"{summary_of(record.checks).capitalize()}.{told} What a device really runs was asked of "
        "its application, not of the hub.",
        ("device", "what was done", "while broken", "runs", "after repair", "runs", ""),
        tuple(rows),
    )


def _acts_section(record: Record) -> Section:
    return Section(
        "When it was done",
        "Seconds after the demo began, by its own clock.",
        ("device", "what", "when"),
        tuple((Cell(act.device), Cell(act.what), Cell(f"{act.at_s:.1f} s")) for act in record.acts),
    )
