"""Options with which an operator says how devices may wait with a deployment.

Owns their names and sentences, shared by `deploy` and `deployment terms`.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from sync.records import OVERDUE, WAIT_MAX_S

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
    click.option("--now", is_flag=True, help="Do not wait for windows, locks or load."),
    click.option(
        "--window",
        "windows",
        metavar="WINDOW",
        multiple=True,
        help="Wait for this window too, in the devices' time: 'Sat 02:00-04:00'; may be repeated.",
    ),
    click.option(
        "--defer-s",
        "budget_s",
        type=click.IntRange(0, WAIT_MAX_S),
        metavar="SECONDS",
        help="How long a device may wait altogether.",
    ),
    click.option(
        "--then",
        "overdue",
        type=click.Choice([each.replace("_", "-") for each in OVERDUE]),
        help="What it does after that.",
    ),
    click.option("--why", metavar="TEXT", default="", help="Why; kept and shown."),
)


def terms_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add the options; `terms_given` takes what they become."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def terms_given(
    *,
    now: bool,
    windows: tuple[str, ...],
    budget_s: int | None,
    overdue: str | None,
    why: str,
) -> dict[str, Any]:
    """Return what was said of waiting, as the hub's API takes it; empty if nothing was."""
    said: dict[str, Any] = {}
    if now:
        said["now"] = True
    if windows:
        said["windows"] = list(windows)
    if budget_s is not None:
        said["budget_s"] = budget_s
    if overdue is not None:
        said["overdue"] = overdue.replace("-", "_")
    return said | {"why": why} if why and said else said
