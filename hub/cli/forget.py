"""`fieldfare forget`: remove a device that is gone for good, or never was one."""

import click

from hub.cli.options import (
    Name,
    as_json,
    completes,
    device_names,
    hub_option,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient


@click.command()
@click.argument("device_id", type=Name(), metavar="DEVICE", shell_complete=completes(device_names))
@hub_option
@as_json
@talks_to_hub
def forget(device_id: str, client: HubClient, *, as_json: bool) -> None:
    """Forget DEVICE and all that was ever heard of it, and take it off every deployment's list.

    A device that is still there registers anew as soon as it speaks.
    """
    client.forget(device_id)
    if as_json:
        print_json({"device": device_id, "forgotten": True})
    else:
        click.echo(f"{device_id} is forgotten; if it is still there, it registers anew")
