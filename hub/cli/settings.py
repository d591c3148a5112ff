"""`fieldfare settings`: what can be set on the hub, and what it would be if started here."""

import os
from pathlib import Path

import click

from hub.cli.exits import CommandFailed
from hub.cli.options import as_json, console, print_json
from hub.cli.serve import hub_environment, settings_option


@click.command()
@settings_option
@as_json
def settings(file: Path | None, *, as_json: bool) -> None:
    """Show every setting of the hub: its value here, its variable, what it means.

    A value comes from the settings file, then from the environment, which wins.
    """
    from hub.errors import BadSettings  # noqa: PLC0415 - pydantic is only needed here
    from hub.settings import ENV_PREFIX, Settings, load_settings  # noqa: PLC0415 - the same

    try:
        chosen = load_settings(file, environment=hub_environment(os.environ))
    except BadSettings as error:
        raise CommandFailed(str(error), error.exit_code) from None
    values = chosen.model_dump(mode="json")
    defaults = Settings().model_dump(mode="json")
    rows = [
        {
            "name": name,
            "variable": ENV_PREFIX + name.upper(),
            "value": values[name],
            "default": defaults[name],
            "meaning": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        print_json(rows)
        return
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("variable", style="dim", no_wrap=True)
    table.add_column("meaning")
    for row in rows:
        mark = "" if row["value"] == row["default"] else " *"
        value = "-" if row["value"] is None else str(row["value"])
        table.add_row(row["name"], value + mark, row["variable"], row["meaning"])
    console().print(table)
    click.echo("* differs from the default")
