"""`fieldfare flags audit`: whether code and ledger agree on flags, and what can be deleted."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from hub.cli.exits import CommandFailed, Exit
from hub.cli.options import as_json, hub_option, print_json, talks_to_hub
from hub.client import HubClient, Refused
from hub.flag_audit import Code, Finding, findings, flag_file, scan, sentence
from hub.outcomes import words
from hub.shown import shown, shown_all
from sync.flags import BadFlag

LEDGER: Final = "flags.json"

PASSED_OVER: Final = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", "build"})

NOT_FOUND: Final = 404


@click.group()
def flags() -> None:
    """Check that flags can be taken out again."""


@flags.command()
@click.argument("path", metavar="PATH", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--ledger",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Flags as a file of flagd; PATH/flags.json if there is one.",
)
@click.option("--live", is_flag=True, help="Also ask the hub: its flags, and who still reads them.")
@hub_option
@as_json
@talks_to_hub
def audit(path: Path, ledger: Path | None, client: HubClient, *, live: bool, as_json: bool) -> None:
    """Read the Python source below PATH, and compare it with the ledger of flags.

    A flag is read in exactly one place, its experiment is one class and one entry of a dict
    EXPERIMENTS, and it has owner, cleanup ticket, guard and a day on which it ends. With --live the
    devices that still read a flag are named; one that none reads is safe to delete.
    """
    definitions = _ledger(path, ledger, is_needed=not live)
    if live:
        for each in client.plain("/flags")["items"]:
            definitions.setdefault(each["flag"], json.dumps(each["definition"]))
    code = scan(_sources(path))
    found = findings(code, definitions, datetime.now(UTC).date())
    alive = _live(client, sorted(definitions)) if live else []
    if as_json:
        print_json(
            {
                "flags": sorted(definitions),
                "findings": [
                    {"flag": each.flag, "place": _place(each), "words": each.words}
                    for each in found
                ],
                "live": alive,
            }
        )
    else:
        _tell(found, alive, code, len(definitions))
    if found:
        raise CommandFailed(sentence(found, len(definitions)), Exit.FLAGS)


def _ledger(path: Path, named: Path | None, *, is_needed: bool) -> dict[str, str]:
    file = named
    if file is None:
        inside = (path if path.is_dir() else path.parent) / LEDGER
        file = inside if inside.is_file() else None
    if file is None:
        if is_needed:
            raise click.UsageError(
                f"there is no {LEDGER} in {path}: name a --ledger, or ask the hub with --live"
            )
        return {}
    try:
        return flag_file(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} cannot be read: {error}", Exit.FILE) from None
    except BadFlag as error:
        raise CommandFailed(f"{file} {error}", Exit.FILE) from None


def _sources(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    base = path.parent if path.is_file() else path
    found = {}
    for file in files:
        inside = file.relative_to(base)
        if PASSED_OVER & set(inside.parts):
            continue
        try:
            found[inside.as_posix()] = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(f"{file} cannot be read: {error}", Exit.FILE) from None
    return found


def _live(client: HubClient, named: list[str]) -> list[dict[str, Any]]:
    """Return of each flag who still reads it."""
    found = []
    for flag in named:
        try:
            view = client.plain(f"/flags/{quote(flag)}")
        except Refused as refused:
            if refused.status != NOT_FOUND:
                raise
            view = {"is_safe_to_delete": True, "reading_count": 0, "reading": []}
        found.append(
            {
                "flag": flag,
                "is_safe_to_delete": view["is_safe_to_delete"],
                "reading_count": view["reading_count"],
                "reading": view["reading"],
            }
        )
    return found


def _tell(found: list[Finding], alive: list[dict[str, Any]], code: Code, count: int) -> None:
    for each in found:
        click.echo(shown(str(each)))
    for view in shown_all(alive):
        flag = view["flag"]
        if not view["is_safe_to_delete"]:
            tail = ", ".join(f"{each['device']} ({each['reader']})" for each in view["reading"][:5])
            more = view["reading_count"] - min(view["reading_count"], 5)
            and_more = f" and {more} more" if more else ""
            readers = words.devices(view["reading_count"])
            click.echo(f"{flag}: still read by {readers}: {tail}{and_more}")
        elif code.places(flag):
            click.echo(f"{flag}: no device reads it now, this code would")
        else:
            click.echo(f"{flag}: safe to delete")
    if not found:
        click.echo(sentence(found, count))


def _place(each: Finding) -> str | None:
    return None if each.place is None else str(each.place)
