"""Options that several commands share, and how a command reaches the hub and answers.

Owns their names and sentences. Never decides what is printed.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click
from click.shell_completion import CompletionItem

from hub.cli.credentials import find_token
from hub.cli.exits import CommandFailed, Exit
from hub.client import (
    DEFAULT_URL,
    BadAddress,
    BadCredential,
    HubClient,
    HubFailure,
    HubFault,
    NoHub,
    Refused,
)
from sync.documents import BadName, check_id

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

PLAIN_WIDTH: Final = 120
"""Columns of a table where the output is no terminal."""

COMPLETE_MAX_S: Final = 0.5
"""Longest wait for the hub while a person waits for a completion."""

TOKEN_FILE: Final = "token_file"  # noqa: S105 - a name


class Name(click.ParamType[str]):
    """The name of a device, a group or a deployment."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name that was typed."""
        try:
            return check_id(str(value))
        except BadName as error:
            self.fail(str(error), param, ctx)


class Seconds(click.FloatRange):
    """A time above 0 that ends: `nan` and `inf` are none."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number that was typed."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return found


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""`--json`."""


def hub_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add `--hub` and `--token-file`, which become the argument `client`."""

    def connect(ctx: click.Context, _param: click.Parameter, url: str) -> HubClient:
        try:
            return HubClient(url, token=_finder(ctx))
        except BadAddress as error:
            raise click.BadParameter(str(error)) from None

    command = click.option(
        "--token-file",
        TOKEN_FILE,
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_keep_token_file,
        help="File with the token; FIELDFARE_TOKEN or ~/.config/fieldfare/token if not given.",
    )(command)
    return click.option(
        "--hub",
        "client",
        metavar="URL",
        envvar="FIELDFARE_HUB_URL",
        default=DEFAULT_URL,
        show_default=True,
        callback=connect,
        help="Address of the hub; also FIELDFARE_HUB_URL.",
    )(command)


def _keep_token_file(ctx: click.Context, _param: click.Parameter, file: Path | None) -> None:
    ctx.meta[TOKEN_FILE] = file


def _finder(ctx: click.Context) -> Callable[[], str | None]:
    file: Path | None = ctx.meta.get(TOKEN_FILE)
    return lambda: find_token(file, os.environ)


@contextmanager
def failures() -> Iterator[None]:
    """Turn a request that was not granted into the end of the command."""
    try:
        yield
    except NoHub as failure:
        raise CommandFailed(str(failure), Exit.NO_HUB) from None
    except Refused as failure:
        raise CommandFailed(str(failure), Exit.REFUSED) from None
    except HubFault as failure:
        raise CommandFailed(str(failure), Exit.HUB_FAULT) from None
    except BadCredential as failure:
        raise CommandFailed(str(failure), Exit.CREDENTIAL) from None


def talks_to_hub(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command fail as `failures` says."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with failures():
            return command(*args, **kwargs)

    return guarded


def print_json(answer: object) -> None:
    """Print one JSON value for programs and people alike; what cannot be seen is escaped."""
    text = json.dumps(answer, indent=2, ensure_ascii=False)
    if not all(line.isprintable() for line in text.split("\n")):
        text = json.dumps(answer, indent=2)
    click.echo(text)


def console() -> "Console":
    """Return where tables are printed."""
    from rich.console import Console  # noqa: PLC0415 - 60 ms that only tables need

    found = Console(highlight=False)
    if not found.is_terminal:
        found = Console(highlight=False, width=PLAIN_WIDTH)
    return found


def completes(ask: Callable[[HubClient], list[str]]) -> Callable[..., list[CompletionItem]]:
    """Return a completion that asks the hub, and has nothing to say if there is none."""

    def complete(
        ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        url = ctx.params.get("client")
        address = url.url if isinstance(url, HubClient) else DEFAULT_URL
        try:
            found = ask(HubClient(address, wait_s=COMPLETE_MAX_S, token=_finder(ctx)))
        except HubFailure:
            return []
        return [CompletionItem(each) for each in found if each.startswith(incomplete)]

    return complete


def device_names(client: HubClient) -> list[str]:
    """Return the ids of the first page of devices."""
    return [each.device for each in client.devices()]


def deployment_ids(client: HubClient) -> list[str]:
    """Return what may be given as a deployment."""
    return [each.deployment for each in client.deployments()]


def moment(at_ms: int | None) -> str:
    """Return a moment of the hub's clock as people read it; `never` for None."""
    if at_ms is None:
        return "never"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def bytes_words(count: int) -> str:
    """Return a number of bytes as people read it."""
    scaled = float(count)
    for unit in ("B", "KB", "MB"):
        if scaled < 1000:  # noqa: PLR2004 - the step between the units
            return f"{scaled:.1f} {unit}".replace(".0 ", " ")
        scaled /= 1000
    return f"{scaled:.1f} GB"
