"""`fieldfare flag`: define flags, deal them out to devices, and end experiments."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

import click

from hub.cli.exits import CommandFailed, Exit
from hub.cli.options import (
    Name,
    as_json,
    completes,
    console,
    hub_option,
    moment,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient
from hub.flags import EVERYONE, NOBODY
from hub.shown import shown_all
from sync.flags import BadFlag, check_flag_key, parse_flag

P = ParamSpec("P")
R = TypeVar("R")


class Key(click.ParamType[str]):
    """The name of a flag."""

    name = "flag"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name that was typed."""
        try:
            return check_flag_key(str(value))
        except BadFlag as error:
            self.fail(str(error), param, ctx)


def flag_names(client: HubClient) -> list[str]:
    """Return the flags that are defined."""
    return sorted({str(each["flag"]) for each in client.plain("/flags")["items"]})


flag_argument = click.argument(
    "key", type=Key(), metavar="FLAG", shell_complete=completes(flag_names)
)
group_option = click.option(
    "--group", type=Name(), metavar="GROUP", default="all", show_default=True, help="In this group."
)
why_option = click.option("--why", metavar="TEXT", default="", help="Why; kept and shown.")
variant_option = click.option(
    "--variant", metavar="NAME", help="Which variant, where there are more than two."
)
at_least_option = click.option(
    "--at-least",
    "at_least",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many devices, if the share is fewer.",
)


class Ratio(click.ParamType[float]):
    """A share: `5%` or `0.05`."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share that was typed, from 0 to 1."""
        text = str(value)
        try:
            found = round(float(text[:-1]) / 100, 12) if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"{text!r} is no share: write 5% or 0.05", param, ctx)
        if not 0 <= found <= 1:
            self.fail(f"{text!r} is no share: from 0% to 100%", param, ctx)
        return found


def _changes(command: Callable[P, R]) -> Callable[P, R]:
    """Add what every change takes."""
    for option in (as_json, hub_option, why_option, group_option, flag_argument):
        command = option(command)
    return command


@click.group()
def flag() -> None:
    """Define flags, deal them out to devices, and end experiments."""


@flag.command("set")
@_changes
@click.argument(
    "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--down", is_flag=True, help="Even if devices lose what was dealt out to them.")
@talks_to_hub
def set_flag(
    key: str,
    file: Path,
    group: str,
    why: str,
    client: HubClient,
    *,
    down: bool,
    as_json: bool,
) -> None:
    """Define FLAG as FILE says, in flagd's JSON; without `targeting` the share stays."""
    wish = {"definition": _definition(file), "down": down, "why": why}
    _say(client.change("PUT", _path(group, key), wish), as_json=as_json)


@flag.command("list")
@hub_option
@as_json
@talks_to_hub
def list_flags(client: HubClient, *, as_json: bool) -> None:
    """List the flags of every group."""
    found = client.plain("/flags")["items"]
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("No flag is defined: fieldfare flag set FLAG FILE")
        return
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("flag", "group", "state", "dealt out", "owner", "cleanup", "expires"):
        table.add_column(name, no_wrap=True)
    for each in shown_all(found):
        table.add_row(
            each["flag"],
            each["group"],
            _state(each),
            _dealt(each),
            each["owner"],
            each["cleanup"],
            each["expires"] + (" (over)" if each["is_expired"] else ""),
        )
    console().print(table)


@flag.command()
@flag_argument
@hub_option
@as_json
@talks_to_hub
def outcome(key: str, client: HubClient, *, as_json: bool) -> None:
    """Compare those who were dealt FLAG with the others, and say whether that can be believed."""
    path = f"/flags/{quote(key)}/verdicts"
    if as_json:
        print_json(client.plain(path))
        return
    from hub.cli.judgements import flag_lines  # noqa: PLC0415 - only tables need it

    console().print(flag_lines(client.flag_verdicts(key)))


@flag.command()
@flag_argument
@hub_option
@as_json
@talks_to_hub
def show(key: str, client: HubClient, *, as_json: bool) -> None:
    """Show how FLAG stands, what it came to on devices, and who still reads it."""
    plain = client.plain(f"/flags/{quote(key)}")
    if as_json:
        print_json(plain)
        return
    found = shown_all(plain)
    for each in found["groups"]:
        click.echo(f"{key} in {each['group']}: {_state(each)}; {_dealt(each)}")
        click.echo(
            f"  owner {each['owner']}, cleanup {each['cleanup']}, until {each['expires']}"
            + (" (over)" if each["is_expired"] else "")
        )
        for step in each["steps"]:
            click.echo(f"  {moment(step['at_ms'])}  {_step(step)}")
    if not found["groups"]:
        click.echo(f"{key} is not defined any more.")
    for each in found["exposures"]:
        click.echo(
            f"{each['devices_count']} devices: {each['variant'] or 'its own default'} "
            f"({each['reason']}), read by {each['reader']}"
        )
    if found["several_variants_count"]:
        click.echo(f"{found['several_variants_count']} devices were shown several variants.")
    if found["is_safe_to_delete"]:
        click.echo("Nothing that runs reads it: safe to delete.")
        return
    names = ", ".join(f"{each['device']} ({each['reader']})" for each in found["reading"][:10])
    click.echo(f"Still read by {found['reading_count']} devices: {names}")


@flag.command()
@_changes
@click.option(
    "--share",
    type=Ratio(),
    metavar="SHARE",
    default="5%",
    show_default=True,
    help="Of the group's devices.",
)
@click.option(
    "--at-least",
    "at_least",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="So many devices, if the share is fewer.",
)
@variant_option
@talks_to_hub
def launch(key: str, group: str, client: HubClient, *, as_json: bool, **wish: Any) -> None:
    """Give FLAG to the first devices, exactly so many; it needs a guard."""
    wish["launch"] = True
    _say(client.change("PUT", _path(group, key) + "/share", wish), as_json=as_json)


@flag.command()
@_changes
@click.argument("share", type=Ratio(), metavar="SHARE")
@at_least_option
@variant_option
@click.option("--down", is_flag=True, help="Let the share shrink: devices lose the variant.")
@talks_to_hub
def ramp(key: str, group: str, client: HubClient, *, as_json: bool, **wish: Any) -> None:
    """Deal FLAG out to SHARE (20% or 0.2) of the group's devices; who has it keeps it."""
    _say(client.change("PUT", _path(group, key) + "/share", wish), as_json=as_json)


@flag.command()
@_changes
@click.argument("whom", type=click.Choice([EVERYONE, NOBODY]), metavar="everyone|nobody")
@variant_option
@talks_to_hub
def finish(
    key: str,
    whom: str,
    variant: str | None,
    group: str,
    why: str,
    client: HubClient,
    *,
    as_json: bool,
) -> None:
    """End the experiment FLAG: everyone has the variant from now on, or nobody."""
    wish = {"for": whom, "variant": variant, "why": why}
    _say(client.change("POST", _path(group, key) + "/finish", wish), as_json=as_json)


@flag.command()
@_changes
@click.option("--force", is_flag=True, help="Also if devices are known to read it.")
@talks_to_hub
def remove(
    key: str, group: str, why: str, client: HubClient, *, force: bool, as_json: bool
) -> None:
    """Take FLAG away that nothing reads any more."""
    query = urlencode({"force": str(force).lower(), "why": why})
    _say(client.change("DELETE", f"{_path(group, key)}?{query}"), as_json=as_json)


def _definition(file: Path) -> Any:
    try:
        text = file.read_text()
        # Checked here as well: a person at a keyboard is told sooner, and of which file.
        parse_flag(text)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} cannot be read: {error}", Exit.FILE) from None
    except BadFlag as error:
        raise CommandFailed(f"{file}: {error}", Exit.FILE) from None
    return json.loads(text)


def _path(group: str, key: str) -> str:
    return f"/groups/{quote(group)}/flags/{quote(key)}"


def _say(step: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(step)
    else:
        told = shown_all(step)
        click.echo(f"{told['flag']} in group {told['group']}: {_step(told)}")


def _step(step: Any) -> str:
    what = {
        "set": "defined",
        "launch": "launched",
        "ramp": "ramped",
        "finish": "finished",
        "remove": "taken away",
    }.get(step["action"], step["action"])
    told = f"{what}, {step['variant']}" if step["variant"] else what
    if step["weight"] is not None:
        told += f" for {step['dealt_count']} of {step['eligible_count']} devices"
    elif step["action"] == "finish":
        told += " for everyone"
    return told + (f" ({step['why']})" if step["why"] else "")


def _state(each: Any) -> str:
    return "on" if each["definition"]["state"] == "ENABLED" else "disabled"


def _dealt(each: Any) -> str:
    if each["dealt_variant"] is not None:
        return (
            f"{each['dealt_variant']} for {each['dealt_count']} of {each['eligible_count']} devices"
        )
    if each["definition"].get("targeting"):
        return "by its own targeting"
    return f"{each['definition']['defaultVariant']} for everyone"
