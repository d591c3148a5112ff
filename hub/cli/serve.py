"""`fieldfare hub`: run the hub until it is told to stop."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")

NOT_A_SETTING = "FIELDFARE_HUB_URL"
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
        help="TOML file with settings.",
    )(command)
