"""`fieldfare outcome` and `outcomes`: the judgements on one deployment, or the verdicts on many."""

import click

from hub.cli.options import (
    Name,
    as_json,
    completes,
    console,
    deployment_ids,
    hub_option,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient


@click.command()
@click.argument("deployment", type=Name(), metavar="ID", shell_complete=completes(deployment_ids))
@click.option("--all", "is_all", is_flag=True, help="Show what the quiet verdicts rest on too.")
@hub_option
@as_json
@talks_to_hub
def outcome(client: HubClient, deployment: str, *, is_all: bool, as_json: bool) -> None:
    """Judge a deployment: what is out of range, what is fine, and what cannot be told yet.

    Each verdict comes with what it rests on and how sure it is.
    """
    if as_json:
        print_json(client.plain(f"/deployments/{deployment}/verdicts"))
        return
    from hub.cli.judgements import verdict_lines  # noqa: PLC0415 - only tables need it

    console().print(verdict_lines(client.verdicts(deployment), is_all=is_all))


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(1, 100),
    default=20,
    show_default=True,
    help="So many of the latest deployments.",
)
@hub_option
@as_json
@talks_to_hub
def outcomes(client: HubClient, limit: int, *, as_json: bool) -> None:
    """Judge the latest deployments at a glance, what needs a person first."""
    if as_json:
        print_json(client.plain(f"/outcomes?limit={limit}"))
        return
    found = client.outcomes(limit)
    if not found:
        click.echo("Nothing was deployed yet: fieldfare deploy RELEASE --group all")
        return
    from hub.cli.judgements import glance  # noqa: PLC0415 - only tables need it

    console().print(glance(found))
