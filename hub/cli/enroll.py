"""`fieldfare enroll`: let devices in, turn them away, and show where they drop off."""

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import click
from rich.markup import escape

from hub.cli.options import (
    as_json,
    console,
    hub_option,
    moment,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient
from hub.outcomes.words import duration

if TYPE_CHECKING:
    from rich.table import Table

DAY_S: Final = 86_400.0


@click.group()
def enroll() -> None:
    """Let devices in, and show where they drop off."""


@enroll.command()
@click.option("--class", "device_class", metavar="CLASS", required=True, help="Device class.")
@click.option("--device", metavar="DEVICE", default="", help="Only this device.")
@click.option(
    "--uses",
    metavar="COUNT",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many devices may use it.",
)
@click.option(
    "--days",
    metavar="DAYS",
    type=click.FloatRange(min=0, min_open=True, max=366),
    default=7.0,
    show_default=True,
    help="How long it may be used.",
)
@hub_option
@as_json
@talks_to_hub
def token(
    device_class: str, device: str, uses: int, days: float, client: HubClient, *, as_json: bool
) -> None:
    """Make a claim token, with which a device enrols without asking anybody.

    It is shown this once: the hub keeps only its hash.
    """
    wish = {
        "device_class": device_class,
        "device": device,
        "uses": uses,
        "expires_s": days * DAY_S,
    }
    made = client.change("POST", "/claims", wish)
    if as_json:
        print_json(made)
        return
    click.echo(made["token"])
    whom = made["device"] or f"{made['uses']} of class {made['device_class']}"
    until = moment(made["expires_at_ms"])
    click.echo(f"Claim token {made['id']} for {whom}, until {until}. On the device:", err=True)
    click.echo("  fieldfare-agent enroll --token TOKEN", err=True)


@enroll.command()
@click.argument("claim")
@hub_option
@as_json
@talks_to_hub
def withdraw(claim: str, client: HubClient, *, as_json: bool) -> None:
    """Withdraw a CLAIM token; devices that used it stay."""
    client.change("DELETE", f"/claims/{_part(claim)}")
    if as_json:
        print_json({"id": claim, "withdrawn": True})
        return
    click.echo(f"{claim} cannot be used any more")


@enroll.command("list")
@click.option("--waiting", is_flag=True, help="Only devices that wait for a decision.")
@hub_option
@as_json
@talks_to_hub
def list_(client: HubClient, *, waiting: bool, as_json: bool) -> None:
    """List who asked to belong, and the claim tokens."""
    query = f"?{urlencode({'only': 'waiting'})}" if waiting else ""
    found = client.plain(f"/enrolments{query}")
    claims = {"items": []} if waiting else client.plain("/claims")
    if as_json:
        print_json({"enrolments": found["items"], "claims": claims["items"]})
        return
    out = console()
    if not found["items"]:
        out.print("No device waits." if waiting else "No device has asked to belong.")
    else:
        out.print(_enrolments(found["items"]))
    if claims["items"]:
        out.print()
        out.print(_claims(claims["items"]))


@enroll.command()
@click.argument("name")
@hub_option
@as_json
@talks_to_hub
def accept(name: str, client: HubClient, *, as_json: bool) -> None:
    """Let a device in that waits; NAME is its name, or the id that it shows."""
    found = client.change("POST", f"/enrolments/{_part(name)}/accept")
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['device']} ({found['id']}) is let in; it comes for its certificate")


@enroll.command()
@click.argument("name", required=False)
@click.option("--waiting", is_flag=True, help="All that wait, in place of one.")
@click.option("--from", "source", metavar="NETWORK", help="Of them those from this address.")
@click.option(
    "--older-than", "days", metavar="DAYS", type=float, default=0.0, help="Of them the older ones."
)
@hub_option
@as_json
@talks_to_hub
def refuse(
    name: str | None,
    source: str | None,
    days: float,
    client: HubClient,
    *,
    waiting: bool,
    as_json: bool,
) -> None:
    """Turn a device away that has no certificate yet; NAME as for accept."""
    if waiting == (name is not None):
        raise click.UsageError("give either a NAME or --waiting")
    if not waiting and (source is not None or days):
        raise click.UsageError("--from and --older-than go with --waiting")
    if waiting:
        wish = {"source": source, "older_than_s": days * DAY_S}
        told = client.change("POST", "/enrolments/refuse", wish)
        if as_json:
            print_json(told)
        else:
            click.echo(f"{told['refused']} that waited are turned away")
        return
    found = client.change("POST", f"/enrolments/{_part(str(name))}/refuse")
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['device']} ({found['id']}) is turned away")


@enroll.command()
@click.argument("device")
@hub_option
@as_json
@talks_to_hub
def revoke(device: str, client: HubClient, *, as_json: bool) -> None:
    """Let no certificate of a DEVICE count any more; it may enrol anew with a new key."""
    found = client.change("POST", f"/devices/{_part(device)}/revoke")
    if as_json:
        print_json(found)
        return
    click.echo(
        f"the hub listens to {found['device']} no more; a broker of your own has to read the new "
        "list of revoked certificates (restart it)"
    )


@enroll.command()
@hub_option
@as_json
@talks_to_hub
def funnel(client: HubClient, *, as_json: bool) -> None:
    """Show where devices drop off while they are provisioned, by device class."""
    found = client.plain("/provisioning")
    if as_json:
        print_json(found)
        return
    out = console()
    if not found["classes"]:
        out.print("No device has asked to belong.")
    for each in found["classes"]:
        out.print(f"[bold]{escape(each['device_class'])}[/]")
        out.print(_steps(each["steps"]))


def _steps(steps: list[dict[str, Any]]) -> "Table":
    table = _table("step", "entered", "went on", "on the way", "left", "share", "median")
    for each in steps:
        left = ", ".join(f"{count} {reason}" for reason, count in each["left"].items())
        table.add_row(
            each["step"].replace("_", " "),
            str(each["entered_count"]),
            str(each["passed_count"]),
            str(each["on_the_way_count"]),
            escape(left) or "-",
            _share(each["passed_lo_ratio"], each["passed_hi_ratio"]),
            _median(each["took"]["p50"]),
        )
    return table


def _share(lo: float | None, hi: float | None) -> str:
    if lo is None or hi is None:
        return "-"
    return f"{lo:.0%}" if lo == hi else f"{lo:.0%}\N{EN DASH}{hi:.0%}"


def _median(quantile: dict[str, Any]) -> str:
    return "not reached" if quantile["lo_ms"] is None else duration(quantile["lo_ms"])


def _enrolments(items: list[dict[str, Any]]) -> "Table":
    table = _table("id", "device", "class", "state", "asked", "from", "")
    for each in items:
        table.add_row(
            each["id"][:12],
            escape(each["device"]),
            escape(each["device_class"]),
            each["state"],
            moment(each["asked_at_ms"]),
            escape(each.get("source", "")),
            each["reason"],
        )
    return table


def _claims(items: list[dict[str, Any]]) -> "Table":
    table = _table("token", "class", "device", "used", "until")
    for each in items:
        until = "withdrawn" if each["withdrawn"] else moment(each["expires_at_ms"])
        used = f"{each['spent']} of {each['uses']}"
        table.add_row(
            each["id"], escape(each["device_class"]), escape(each["device"]) or "any", used, until
        )
    return table


def _table(*names: str) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _part(text: str) -> str:
    return quote(text, safe="")
