"""`fieldfare status`: how many devices run the latest version, and what keeps the others."""

import time
from typing import Final

import click

from hub.cli.options import as_json, console, hub_option, print_json, talks_to_hub
from hub.client import HubClient

WATCH_S: Final = 2.0
"""Time between two looks."""


@click.command()
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@hub_option
@as_json
@talks_to_hub
def status(client: HubClient, *, watch: bool, as_json: bool) -> None:
    """Say how many devices run the latest version of each component, and why others do not.

    A device counts as running a version when a start of it passed its health check, and the device
    said so: not when something was sent to it, and not when something was installed.
    """
    if as_json:
        while True:
            print_json(client.plain("/fleet"))
            if not watch:
                return
            time.sleep(WATCH_S)
    from hub.cli.outcome import fleet_lines  # noqa: PLC0415 - only tables need it

    out = console()
    if not watch:
        out.print(fleet_lines(client.fleet()))
        return
    from rich.live import Live  # noqa: PLC0415 - the same

    try:
        if not out.is_terminal:
            while True:
                out.print(fleet_lines(client.fleet()))
                time.sleep(WATCH_S)
        with Live(fleet_lines(client.fleet()), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_S)
                live.update(fleet_lines(client.fleet()), refresh=True)
    except KeyboardInterrupt:
        return
