"""`fieldfare audit`: who changed what, and when."""

import itertools
import json
import re
import time
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from hub.cli.options import as_json, console, hub_option, moment, print_json, talks_to_hub
from hub.client import HubClient

LIMIT: Final = 100

ASKED_CHARACTERS_MAX: Final = 60
"""So much of what was asked for stands in the table; --json has all that is kept."""

_AGO: Final = re.compile(r"(\d{1,6})([smhd])\Z", re.ASCII)
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command()
@click.option(
    "--since",
    metavar="WHEN",
    default="",
    help="Nothing older: 30m, 12h or 7d ago, or 2026-11-23, or 2026-11-23T14:30 (UTC).",
)
@click.option(
    "--limit",
    metavar="COUNT",
    type=click.IntRange(1),
    default=LIMIT,
    show_default=True,
    help="Only so many, the latest.",
)
@hub_option
@as_json
@talks_to_hub
def audit(since: str, limit: int, client: HubClient, *, as_json: bool) -> None:
    """Say who changed what, the latest first.

    Each change of the hub leaves one row, in the same transaction: releases, deployments, settings,
    tokens. Nobody can change a row; the oldest go when there are too many, and a row says so.
    """
    since_ms = parse_since(since, time.time_ns() // 1_000_000)
    found = itertools.islice(client.audit(since_ms=since_ms), limit)
    if as_json:
        print_json([msgspec.to_builtins(each) for each in found])
        return
    from rich.table import Table  # noqa: PLC0415 - only tables need it
    from rich.text import Text  # noqa: PLC0415 - the same

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("when", "who", "from", "did", "to", "asked", "outcome"):
        table.add_column(name, no_wrap=name in ("when", "did"), overflow="fold")
    for each in found:
        asked = json.dumps(each.asked, ensure_ascii=False) if each.asked else ""
        if len(asked) > ASKED_CHARACTERS_MAX:
            asked = f"{asked[:ASKED_CHARACTERS_MAX]}..."
        who = f"{each.name} ({each.token})" if each.token else each.name
        row = (who, each.source, each.action, each.object, asked, each.outcome)
        table.add_row(moment(each.at_ms), *map(Text, row))
    console().print(table)


def parse_since(text: str, now_ms: int) -> int:
    """Return the moment that a person means, in hub UTC; 0 for no word at all.

    Raises:
        click.UsageError: It means none.
    """
    if not text:
        return 0
    if ago := _AGO.match(text):
        return max(0, now_ms - int(ago[1]) * _UNIT_S[ago[2]] * 1000)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"--since {text[:40]!r} is no moment: 30m, 12h, 7d, 2026-11-23 or 2026-11-23T14:30"
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return max(0, round(found.timestamp() * 1000))
