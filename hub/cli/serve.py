"""`fieldfare hub`: run the hub until it is told to stop."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import click

from hub.cli.exits import CommandFailed, Exit

if TYPE_CHECKING:
    from hub.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

NOT_A_SETTING: Final = "FIELDFARE_HUB_URL"
"""Where commands find a hub; it only looks like a variable for a setting of the hub."""


def hub_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that can be settings of the hub."""
    return {name: value for name, value in environment.items() if name != NOT_A_SETTING}


def settings_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add `--settings`, which becomes the argument `file`."""
    return click.option(
        "--settings",
        "file",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="TOML file with settings of the hub.",
    )(command)


@click.group(invoke_without_command=True)
@settings_option
@click.option("--state-dir", metavar="DIR", help="Folder for database, artifacts and broker.")
@click.option("--http-port", metavar="PORT", help="TCP port of the HTTP API; 0 takes a free one.")
@click.option("--broker", metavar="HOST:PORT", help="A broker that runs, or `embedded`.")
@click.option("--broker-port", metavar="PORT", help="TCP port of the embedded broker.")
@click.option(
    "--bootstrap-token-file",
    metavar="FILE",
    help="Where the first admin's token goes at the first start, instead of being printed.",
)
@click.option("--json", "as_json", is_flag=True, help="Say as JSON when it is ready.")
@click.pass_context
def hub(
    context: click.Context, /, file: Path | None, *, as_json: bool, **chosen: str | None
) -> int:
    """Run the hub, with a broker of its own if no other is named.

    Settings come from the file, then from FIELDFARE_HUB_<NAME>, then from these options.
    `fieldfare settings` lists all of them. The first start prints the token of the first admin,
    this once. Log lines go to standard error; Ctrl-C or SIGTERM stops
    it cleanly, and killing it at any moment loses nothing.
    """
    if context.invoked_subcommand is not None:
        return Exit.OK
    from hub.errors import BadSettings  # noqa: PLC0415 - keeps other commands quick
    from hub.settings import load_settings  # noqa: PLC0415 - the same

    try:
        settings = load_settings(
            file,
            environment=hub_environment(os.environ),
            chosen={name: value for name, value in chosen.items() if value is not None},
        )
    except BadSettings as error:
        raise CommandFailed(str(error), error.exit_code) from None
    from hub.app import run  # noqa: PLC0415 - imports the web framework, half a second

    if as_json:
        return _run_and_say(settings)
    return run(settings)


def _run_and_say(settings: "Settings") -> int:
    """Run the hub as `hub.app.run` does, and say as JSON what it prints."""
    from hub.app import LOG_FORMAT, serve  # noqa: PLC0415 - as above
    from hub.errors import HubError  # noqa: PLC0415 - as above

    logging.basicConfig(
        stream=sys.stderr, level=settings.log_level.upper(), format=LOG_FORMAT, force=True
    )
    try:
        asyncio.run(
            serve(
                settings,
                say=lambda ready: click.echo(json.dumps({"ready": ready._asdict()})),
                tell_token=lambda text: click.echo(json.dumps({"bootstrap_token": text})),
            )
        )
    except HubError as error:
        raise CommandFailed(str(error), error.exit_code) from None
    return Exit.OK


def _add_members() -> None:
    from hub.cli.broker_config import broker_config  # noqa: PLC0415 - it imports this module

    hub.add_command(broker_config)


_add_members()
