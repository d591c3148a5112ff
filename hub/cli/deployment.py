"""`fieldfare deployment`: look at one deployment, or take it back."""

from typing import Any

import click
import msgspec

from hub.cli.options import (
    Name,
    as_json,
    completes,
    console,
    deployment_ids,
    device_names,
    hub_option,
    moment,
    print_json,
    talks_to_hub,
)
from hub.cli.terms import terms_given, terms_options
from hub.client import HubClient

device_option = click.option(
    "--device",
    "device_id",
    type=Name(),
    metavar="DEVICE",
    shell_complete=completes(device_names),
    help="Only this device.",
)


@click.group()
def deployment() -> None:
    """Look at a deployment, or take it back."""


@deployment.command("list")
@hub_option
@as_json
@talks_to_hub
def list_deployments(client: HubClient, *, as_json: bool) -> None:
    """List the latest deployments, the latest first."""
    if as_json:
        print_json(client.plain("/deployments")["items"])
        return
    found = client.deployments()
    if not found:
        click.echo("Nothing was deployed yet: fieldfare deploy RELEASE --group all")
        return
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("deployment", "release", "requested", "for", ""):
        table.add_column(name, no_wrap=True)
    for each in found:
        chosen = f"group {each.group}" if each.group else "named devices"
        table.add_row(
            each.deployment,
            each.release,
            moment(each.requested_at_ms),
            chosen + (f" where {each.where}" if each.where else ""),
            f"cancelled {moment(each.cancelled_at_ms)}" if each.cancelled_at_ms else "",
        )
    console().print(table)


@deployment.command()
@click.argument(
    "deployment_id", type=Name(), metavar="ID", shell_complete=completes(deployment_ids)
)
@click.option(
    "--page",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True),
    help="Save it as an HTML page that needs nothing else.",
)
@hub_option
@as_json
@talks_to_hub
def show(deployment_id: str, page: str | None, client: HubClient, *, as_json: bool) -> None:
    """Show what became of the deployment ID: funnel, durations, and every device."""
    from hub.cli.outcome import print_report, save_page  # noqa: PLC0415 - only tables need it

    report = client.deployment(deployment_id)
    if page is not None:
        save_page(page, report, client.fleet())
    if as_json:
        print_json(client.plain(f"/deployments/{deployment_id}"))
        return
    print_report(console(), report)
    if page is not None:
        click.echo(f"saved {page}")


@deployment.command()
@click.argument(
    "deployment_id", type=Name(), metavar="ID", shell_complete=completes(deployment_ids)
)
@device_option
@click.option("--why", metavar="TEXT", default="", help="Why; kept and shown.")
@hub_option
@as_json
@talks_to_hub
def go(
    deployment_id: str, device_id: str | None, why: str, client: HubClient, *, as_json: bool
) -> None:
    """Let devices that wait with the deployment ID go on now.

    Windows, locks and load are passed over; too little battery or room is not.
    """
    _order(client, deployment_id, {"now": True, "why": why}, device_id, as_json=as_json)


@deployment.command()
@click.argument(
    "deployment_id", type=Name(), metavar="ID", shell_complete=completes(deployment_ids)
)
@device_option
@click.option("--not-now", is_flag=True, help="Take back that devices go on now.")
@terms_options
@hub_option
@as_json
@talks_to_hub
def terms(
    deployment_id: str,
    device_id: str | None,
    client: HubClient,
    *,
    not_now: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Say how devices may wait with the deployment ID; what is not said stays as it is."""
    said = terms_given(**given)
    if not_now:
        said["now"] = False
    if not said.keys() - {"why"}:
        raise click.UsageError("say at least one of --now, --not-now, --window, --defer-s, --then")
    _order(client, deployment_id, said, device_id, as_json=as_json)


def _order(
    client: HubClient,
    deployment_id: str,
    said: dict[str, object],
    device_id: str | None,
    *,
    as_json: bool,
) -> None:
    from hub.cli.outcome import terms_words  # noqa: PLC0415 - loads tables

    standing = client.set_terms(deployment_id, said, device=device_id)
    if as_json:
        print_json({"deployment": deployment_id, "terms": msgspec.to_builtins(standing)})
        return
    for each in standing:
        click.echo(terms_words(each))


@deployment.command()
@click.argument(
    "deployment_id", type=Name(), metavar="ID", shell_complete=completes(deployment_ids)
)
@hub_option
@as_json
@talks_to_hub
def cancel(deployment_id: str, client: HubClient, *, as_json: bool) -> None:
    """Take the deployment ID back on devices that have not switched to it yet.

    A device that runs the release already goes on running it: deploy an earlier one to go back.
    """
    was = client.cancel(deployment_id)
    if as_json:
        print_json(
            {
                "deployment": was.deployment,
                "release": was.release,
                "cancelled_at_ms": was.cancelled_at_ms,
            }
        )
        return
    click.echo(f"{was.deployment} ({was.release}) is taken back where it was not applied yet")
    click.echo("To leave a release that devices run already, deploy an earlier one.")
