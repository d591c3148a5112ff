"""`fieldfare kill`: switch a flag or a deployment off everywhere, and see how far that has come."""

import time
from typing import Any, Final
from urllib.parse import quote, urlencode

import click

from hub.cli.exits import CommandFailed, Exit
from hub.cli.flag import flag_names
from hub.cli.options import (
    Name,
    Seconds,
    as_json,
    completes,
    hub_option,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient, Refused
from hub.outcomes import words
from hub.outcomes.survival import Quantile
from hub.shown import shown_all
from sync.documents import ID_PATTERN

POLL_S: Final = 0.2

WAIT_S: Final = 60.0

NOT_FOUND: Final = 404


@click.command()
@click.argument("what", metavar="FLAG|DEPLOYMENT", shell_complete=completes(flag_names))
@click.option("--undo", is_flag=True, help="Take the order back.")
@click.option("--show", is_flag=True, help="Only show how far it has come.")
@click.option("--group", type=Name(), metavar="GROUP", help="A flag in this group alone.")
@click.option("--why", metavar="TEXT", default="", help="Why; kept and shown.")
@click.option("--wait", is_flag=True, help="Wait until every device holds to it.")
@click.option(
    "--wait-s",
    type=Seconds(),
    metavar="SECONDS",
    default=WAIT_S,
    show_default=True,
    help="Longest wait.",
)
@hub_option
@as_json
@talks_to_hub
def kill(  # noqa: PLR0913 - click passes every option as an argument
    what: str,
    group: str | None,
    why: str,
    wait_s: float,
    client: HubClient,
    *,
    undo: bool,
    show: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Switch FLAG or DEPLOYMENT off everywhere, at once.

    A flag comes to its safe variant before anything else is asked. A deployment is not begun any
    more, and rolled back where it is on trial; where it is committed it stays. With --wait the exit
    code is 0 if every device holds to it, or fell back by its lease, and 15 if the wait ends first.
    """
    name = _named(client, what)
    path = f"/kills/{quote(name, safe='')}"
    if undo:
        client.change("DELETE", f"{path}?{urlencode({'why': why})}")
    elif not show:
        client.change("PUT", path, {"group": group, "why": why})
    found = _wait(client, path, wait_s, is_quiet=as_json) if wait else client.plain(path)
    if as_json:
        print_json(found)
    else:
        _tell(found, is_told=wait)
    if wait and found["unknown_count"]:
        raise CommandFailed(
            f"after {wait_s:g} s nothing is known of {words.devices(found['unknown_count'])}",
            Exit.STILL_OPEN,
        )


def _named(client: HubClient, what: str) -> str:
    """Return what is meant, with its kind in front.

    Raises:
        UsageError: It could be either.
    """
    if ":" in what:
        return what
    is_deployment = bool(ID_PATTERN.match(what)) and _exists(client, f"/deployments/{what}")
    if is_deployment and _exists(client, f"/flags/{what}"):
        raise click.UsageError(
            f"{what} is both a flag and a deployment: say flag:{what} or deployment:{what}"
        )
    return f"deployment:{what}" if is_deployment else f"flag:{what}"


def _exists(client: HubClient, path: str) -> bool:
    try:
        client.plain(path)
    except Refused as refused:
        if refused.status == NOT_FOUND:
            return False
        raise
    return True


def _wait(client: HubClient, path: str, wait_s: float, *, is_quiet: bool) -> Any:
    """Return the answer once nothing is unknown, or when the wait is over."""
    deadline = time.monotonic() + wait_s
    told = ""
    while True:
        found = client.plain(path)
        if not is_quiet and found["sentence"] != told:
            told = found["sentence"]
            click.echo(shown_all(told))
        if not found["unknown_count"] or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_S)


def _tell(plain: Any, *, is_told: bool) -> None:
    found = shown_all(plain)
    if not is_told:
        click.echo(found["sentence"])
    taken = found["time_to_kill"]
    if taken["count"]:
        half, most = (
            words.quantile(Quantile(each["ratio"], each["lo_ms"], each["hi_ms"]))
            for each in (taken["p50"], taken["p95"])
        )
        click.echo(f"time to kill: half of the devices {half}, 95 % {most}")
    for each in found["details"]:
        click.echo(f"{words.devices(each['devices_count'])}: {each['detail']}")
    for each in found["unknown"][:10]:
        away = {True: "connected", False: "away", None: "not heard of"}[each["online"]]
        ends = each["lease_ends_at_ms"]
        until = f", falls back by {words.moment(ends)} at the latest" if ends else ""
        click.echo(f"unknown: {each['device']}, {away}{until}")
    if found["unknown_count"] > 10:  # noqa: PLR2004 - as many as are shown
        click.echo(f"and {found['unknown_count'] - 10} more")
