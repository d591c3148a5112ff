"""`fieldfare token`: who may ask the hub for what."""

import json
import os
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from hub import answers
from hub.cli.exits import CommandFailed, Exit
from hub.cli.options import (
    as_json,
    completes,
    console,
    hub_option,
    moment,
    print_json,
    talks_to_hub,
)
from hub.cli.serve import hub_environment, settings_option
from hub.client import HubClient
from hub.operators import DAY_S, LIFE_S, Scope
from hub.secret_file import write_secret


def _ids(client: HubClient) -> list[str]:
    return [each.id for each in client.tokens() if each.revoked_at_ms is None]


output_option: Final = click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the token there, for its owner's eyes alone, instead of printing it.",
)


@click.group()
def token() -> None:
    """Make, list and revoke tokens: who may ask the hub for what."""


@token.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope]),
    default=Scope.VIEWER.value,
    show_default=True,
    help="What it allows: to look, also to change what devices run, also to make tokens.",
)
@click.option(
    "--expires-days",
    metavar="DAYS",
    type=float,
    default=LIFE_S / DAY_S,
    show_default=True,
    help="It counts for so long; at most 366.",
)
@output_option
@hub_option
@as_json
@talks_to_hub
def create(
    name: str,
    scope: str,
    expires_days: float,
    output: Path | None,
    client: HubClient,
    *,
    as_json: bool,
) -> None:
    """Make a token for the person or program NAME.

    It is shown this once; the hub keeps only a hash of it.
    """
    made = client.create_token(name, scope, expires_days * DAY_S)
    told = {
        "id": made.id,
        "name": made.name,
        "scope": made.scope,
        "created_at_ms": made.created_at_ms,
        "expires_at_ms": made.expires_at_ms,
    }
    _hand_over(made.token, output, told, as_json=as_json)
    if not as_json:
        click.echo(
            f"{made.scope} {made.name}, id {made.id}, until {moment(made.expires_at_ms)}", err=True
        )


@token.command("list")
@hub_option
@as_json
@talks_to_hub
def list_tokens(client: HubClient, *, as_json: bool) -> None:
    """List the tokens, the latest first; those that ended stay listed for 90 days."""
    if as_json:
        print_json(client.plain("/tokens")["items"])
        return
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "name", "scope", "made", "until", ""):
        table.add_column(name, no_wrap=True)
    now_ms = time.time_ns() // 1_000_000
    for each in client.tokens():
        table.add_row(
            each.id,
            each.name,
            each.scope,
            moment(each.created_at_ms),
            moment(each.expires_at_ms),
            _state(each, now_ms),
        )
    console().print(table)


@token.command()
@click.argument("token_id", metavar="ID", shell_complete=completes(_ids))
@hub_option
@as_json
@talks_to_hub
def revoke(token_id: str, client: HubClient, *, as_json: bool) -> None:
    """Let the token with this ID not count any more, from the next request on."""
    if as_json:
        print_json(msgspec.to_builtins(client.revoke_token(token_id)))
        return
    gone = client.revoke_token(token_id)
    click.echo(f"{gone.scope} {gone.name} ({gone.id}) is revoked")


@token.command()
@settings_option
@click.option("--state-dir", metavar="DIR", help="Folder of the hub's database.")
@output_option
@as_json
def bootstrap(
    file: Path | None, state_dir: str | None, output: Path | None, *, as_json: bool
) -> None:
    """Make another token of an admin on the hub's own machine, if the first was lost.

    It asks no hub and needs no token, only the right to write the hub's state folder. A hub that
    runs there goes on undisturbed, and knows the token at once.
    """
    from hub.audit import MACHINE  # noqa: PLC0415 - keeps other commands quick
    from hub.errors import HubError  # noqa: PLC0415 - the same
    from hub.settings import load_settings  # noqa: PLC0415 - the same
    from hub.store.beside import transact_beside  # noqa: PLC0415 - the same
    from hub.tokens import another_first_token  # noqa: PLC0415 - the same

    chosen = {} if state_dir is None else {"state_dir": state_dir}
    try:
        settings = load_settings(file, environment=hub_environment(os.environ), chosen=chosen)
        shown = transact_beside(
            settings.state_dir,
            lambda db: another_first_token(
                db,
                MACHINE,
                now_ms=time.time_ns() // 1_000_000,
                rows_max_count=settings.audit_max_count,
            ),
        )
    except HubError as error:
        raise CommandFailed(str(error), error.exit_code) from None
    _hand_over(shown.text(), output, {"id": shown.id}, as_json=as_json)


def _hand_over(text: str, output: Path | None, told: dict[str, object], *, as_json: bool) -> None:
    """Print a token, or write it to a file and say where."""
    if output is not None:
        try:
            write_secret(output, text)
        except OSError as error:
            # It exists by now: better shown than lost.
            click.echo(text)
            raise CommandFailed(
                f"{output} cannot be written ({error.strerror}), so the token is printed",
                Exit.FILE,
            ) from None
    if as_json:
        place = {"token": text} if output is None else {"file": os.fspath(output)}
        click.echo(json.dumps({**told, **place}, indent=2))
    elif output is None:
        click.echo(text)


def _state(each: answers.Token, now_ms: int) -> str:
    if each.revoked_at_ms is not None:
        return f"revoked {moment(each.revoked_at_ms)}"
    return "expired" if each.expires_at_ms <= now_ms else ""
