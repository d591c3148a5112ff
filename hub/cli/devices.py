"""`fieldfare devices`: the list of devices."""

import click

from hub.cli.options import as_json, console, hub_option, moment, print_json, talks_to_hub
from hub.client import HubClient


@click.command()
@hub_option
@as_json
@talks_to_hub
def devices(client: HubClient, *, as_json: bool) -> None:
    """List the devices: whether each is connected, and what it is proven to run."""
    if as_json:
        print_json(_all_plain(client))
        return
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("device", "connected", "last heard", "runs"):
        table.add_column(name, no_wrap=name != "runs")
    count = 0
    for each in client.devices():
        count += 1
        table.add_row(
            each.device,
            {True: "yes", False: "no", None: "unknown"}[each.online],
            moment(each.last_uplink_at_ms),
            ", ".join(
                f"{run.component} {run.version}" + ("" if run.healthy else " (not proven)")
                for run in each.versions
                if run.version
            ),
        )
    if not count:
        click.echo("No device has connected yet: start fieldfare-agent on one.")
        return
    console().print(table)


def _all_plain(client: HubClient) -> list[object]:
    found: list[object] = []
    after = ""
    while True:
        page = client.plain(f"/devices?limit=500{after}")
        found += page["items"]
        if not page.get("next"):
            return found
        after = f"&after={page['next']}"
